# SPDX-License-Identifier: Apache-2.0
# BUILD/fake_cuda/libcuda.so.1, where CUDA's headers are. Nothing finds it but what is told where it lies.
if(NOT GEMEL_CUDA_INCLUDE)
  return()
endif()
find_package(Threads REQUIRED)
add_library(fake_cuda SHARED ${CMAKE_CURRENT_LIST_DIR}/fake_cuda.cc)
gemel_target_defaults(fake_cuda)
target_include_directories(fake_cuda SYSTEM PUBLIC ${GEMEL_CUDA_INCLUDE})
target_link_libraries(fake_cuda PRIVATE Threads::Threads)
set_target_properties(fake_cuda PROPERTIES
  CXX_VISIBILITY_PRESET default OUTPUT_NAME cuda SOVERSION 1 LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/fake_cuda)

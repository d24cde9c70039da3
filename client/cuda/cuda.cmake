# SPDX-License-Identifier: Apache-2.0
# gemel_cuda: staging from CUDA memory, where CUDA's headers are found; without them a library that says so. Only
# headers are needed: the driver is loaded at run time. CUDAToolkit_ROOT, or CUDA_PATH in the environment, names the
# toolkit; the wheel nvidia-cuda-runtime in the tree's .venv has the headers too.
set(here ${CMAKE_CURRENT_SOURCE_DIR}/cuda)
file(GLOB wheels ${PROJECT_SOURCE_DIR}/.venv/lib/python3*/site-packages/nvidia/*/include)
find_path(GEMEL_CUDA_INCLUDE cuda.h
  HINTS ${CUDAToolkit_ROOT} ENV CUDAToolkit_ROOT ENV CUDA_PATH
  PATHS /usr/local/cuda ${wheels}
  PATH_SUFFIXES include)
if(GEMEL_CUDA_INCLUDE)
  gemel_library(cuda SOURCES ${here}/cuda_calls.cc ${here}/cuda_device.cc DEPS gemel_common)
  target_include_directories(gemel_cuda SYSTEM PUBLIC ${GEMEL_CUDA_INCLUDE})
else()
  gemel_library(cuda SOURCES ${here}/cuda_none.cc DEPS gemel_common)
endif()
message(STATUS "Gemel: CUDA headers: ${GEMEL_CUDA_INCLUDE}")

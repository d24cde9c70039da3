# SPDX-License-Identifier: Apache-2.0
# libgemel.so: the C ABI of client/include/gemel/gemel.h. Only gemel_* is visible; the C++ runtime's symbols that
# templates would leave behind are hidden by the version script.
set(here ${CMAKE_CURRENT_SOURCE_DIR}/library)
gemel_library(client_library
  SOURCES ${here}/abi_client.cc ${here}/abi_copies.cc ${here}/abi_cuda.cc ${here}/abi_listing.cc ${here}/abi_restore.cc ${here}/abi_stage.cc ${here}/abi_status.cc
          ${here}/abi_writer.cc ${here}/fork_guard.cc ${here}/runtime.cc
  DEPS gemel_client gemel_cuda)
target_include_directories(gemel_client_library PUBLIC ${CMAKE_CURRENT_SOURCE_DIR}/include)

add_library(libgemel SHARED ${here}/abi_version.cc)
target_compile_definitions(libgemel PRIVATE GEMEL_VERSION="${PROJECT_VERSION}")
gemel_target_defaults(libgemel)
target_include_directories(libgemel PUBLIC ${CMAKE_CURRENT_SOURCE_DIR}/include)
target_link_libraries(libgemel PRIVATE "$<LINK_LIBRARY:WHOLE_ARCHIVE,gemel_client_library>")
target_link_options(libgemel PRIVATE -Wl,--version-script=${here}/gemel.map -Wl,--as-needed)
if(NOT GEMEL_SANITIZER)
  target_link_options(libgemel PRIVATE -Wl,--no-undefined)
endif()
set_target_properties(libgemel PROPERTIES
  OUTPUT_NAME gemel VERSION ${PROJECT_VERSION} SOVERSION 0 LINK_DEPENDS ${here}/gemel.map
  LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/lib)

add_executable(gemel-hello ${CMAKE_CURRENT_SOURCE_DIR}/examples/hello/hello.cc)
gemel_target_defaults(gemel-hello)
target_link_libraries(gemel-hello PRIVATE libgemel)
set_target_properties(gemel-hello PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin/examples)

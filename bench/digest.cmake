if(GEMEL_BUILD_BENCH)
  if(CMAKE_SYSTEM_PROCESSOR STREQUAL "x86_64")
    set_source_files_properties(${CMAKE_CURRENT_LIST_DIR}/copy_steps.cc PROPERTIES COMPILE_OPTIONS "-O3;-mavx2")
  endif()
  gemel_binary(bench_digest SOURCES ${CMAKE_CURRENT_LIST_DIR}/copy_steps.cc ${CMAKE_CURRENT_LIST_DIR}/digest.cc
    DEPS gemel_bench_pairs CLI11::CLI11)
endif()

if(GEMEL_BUILD_BENCH)
  gemel_binary(bench_digest SOURCES ${CMAKE_CURRENT_LIST_DIR}/digest.cc
    DEPS gemel_common benchmark::benchmark)
endif()

if(GEMEL_BUILD_BENCH)
  gemel_binary(bench_tcp SOURCES ${CMAKE_CURRENT_LIST_DIR}/tcp.cc
    DEPS gemel_bench_pairs gemel_transport CLI11::CLI11)
endif()

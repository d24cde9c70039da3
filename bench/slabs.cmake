if(GEMEL_BUILD_BENCH)
  gemel_binary(bench_slabs SOURCES ${CMAKE_CURRENT_LIST_DIR}/slabs.cc DEPS gemel_bench_pairs gemel_server gemel_daemon CLI11::CLI11)
endif()

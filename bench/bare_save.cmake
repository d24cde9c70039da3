if(GEMEL_BUILD_BENCH)
  gemel_binary(bench_bare_save SOURCES ${CMAKE_CURRENT_LIST_DIR}/bare_save.cc DEPS gemel_bench_pairs gemel_common CLI11::CLI11)
endif()

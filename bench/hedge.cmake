if(GEMEL_BUILD_BENCH)
  gemel_binary(bench_hedge SOURCES ${CMAKE_CURRENT_LIST_DIR}/hedge.cc
    DEPS gemel_transport CLI11::CLI11)
endif()

if(GEMEL_BUILD_BENCH AND GEMEL_BUILD_SERVICES)
  gemel_binary(bench_rpc SOURCES ${CMAKE_CURRENT_LIST_DIR}/rpc.cc ${CMAKE_CURRENT_LIST_DIR}/rpc_echo.cc
    ${CMAKE_CURRENT_LIST_DIR}/rpc_grpc.cc ${CMAKE_CURRENT_LIST_DIR}/rpc_session.cc
    DEPS gemel_bench_pairs gemel_transport gemel_transport_grpc CLI11::CLI11)
endif()

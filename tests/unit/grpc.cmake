# SPDX-License-Identifier: Apache-2.0
if(GEMEL_BUILD_SERVICES)
  gemel_test(grpc_test SOURCES ${CMAKE_CURRENT_LIST_DIR}/grpc_test.cc DEPS gemel_transport_grpc
             LABEL unit)
endif()

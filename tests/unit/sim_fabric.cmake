# SPDX-License-Identifier: Apache-2.0
gemel_test(sim_fabric_test SOURCES ${CMAKE_CURRENT_LIST_DIR}/sim_fabric_test.cc DEPS gemel_transport
           LABEL unit)
gemel_test(sim_session_test SOURCES ${CMAKE_CURRENT_LIST_DIR}/sim_session_test.cc
           DEPS gemel_transport LABEL unit)
gemel_test(sim_rpc_test SOURCES ${CMAKE_CURRENT_LIST_DIR}/sim_rpc_test.cc DEPS gemel_transport
           LABEL unit)
gemel_test(sim_host_test SOURCES ${CMAKE_CURRENT_LIST_DIR}/sim_host_test.cc DEPS gemel_transport
           LABEL unit)

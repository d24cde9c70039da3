# SPDX-License-Identifier: Apache-2.0
set(here ${CMAKE_CURRENT_LIST_DIR})
gemel_test(transport_test
  SOURCES ${here}/transport_admission_test.cc ${here}/transport_batching_test.cc
          ${here}/transport_connection_test.cc ${here}/transport_cpu_pressure_test.cc
          ${here}/transport_failover_test.cc
          ${here}/transport_frame_test.cc ${here}/transport_hedge_test.cc
          ${here}/transport_host_test.cc ${here}/transport_lane_test.cc ${here}/transport_net_test.cc
          ${here}/transport_outcome_test.cc ${here}/transport_referenced_test.cc
          ${here}/transport_region_test.cc
          ${here}/transport_session_test.cc ${here}/transport_verbs_test.cc
  DEPS gemel_transport LABEL unit)

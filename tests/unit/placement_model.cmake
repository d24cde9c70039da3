# SPDX-License-Identifier: Apache-2.0
gemel_test(placement_model_test
  SOURCES ${CMAKE_CURRENT_LIST_DIR}/placement_model_test.cc
          ${CMAKE_CURRENT_LIST_DIR}/placement_model_survival_test.cc
          ${CMAKE_CURRENT_LIST_DIR}/placement_model_policy_test.cc
          ${CMAKE_CURRENT_LIST_DIR}/placement_model_repair_test.cc
          ${CMAKE_CURRENT_LIST_DIR}/placement_model_loss_events_test.cc
          ${CMAKE_CURRENT_LIST_DIR}/placement_model_ring_test.cc
          ${CMAKE_CURRENT_LIST_DIR}/placement_model_room_test.cc
  DEPS gemel_placement_model LABEL unit)

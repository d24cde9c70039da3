# SPDX-License-Identifier: Apache-2.0
set(here ${CMAKE_CURRENT_LIST_DIR})
gemel_test(placement_golden_test
  SOURCES ${here}/control_proto_golden_test.cc ${here}/placement_records_golden_test.cc
          ${here}/placement_stored_golden_test.cc
  DEPS gemel_placement_manager LABEL golden)

# SPDX-License-Identifier: Apache-2.0
gemel_test(placement_model_golden_test
  SOURCES ${CMAKE_CURRENT_LIST_DIR}/placement_model_golden_test.cc
  DEPS gemel_placement_model LABEL golden)

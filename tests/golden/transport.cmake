# SPDX-License-Identifier: Apache-2.0
gemel_test(frame_golden_test SOURCES ${CMAKE_CURRENT_LIST_DIR}/frame_golden_test.cc
  DEPS gemel_transport LABEL golden)

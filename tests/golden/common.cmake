# SPDX-License-Identifier: Apache-2.0
gemel_test(common_golden_test SOURCES ${CMAKE_CURRENT_LIST_DIR}/common_files_golden_test.cc
  DEPS gemel_common LABEL golden)

# SPDX-License-Identifier: Apache-2.0
gemel_test(archive_golden_test SOURCES ${CMAKE_CURRENT_LIST_DIR}/archive_golden_test.cc
  DEPS gemel_archive LABEL golden)

# SPDX-License-Identifier: Apache-2.0
set(here ${CMAKE_CURRENT_LIST_DIR})
gemel_test(archive_test
  SOURCES ${here}/archive_archiver_test.cc ${here}/archive_export_test.cc ${here}/archive_format_test.cc
          ${here}/archive_s3_test.cc
  DEPS gemel_archive LABEL unit)

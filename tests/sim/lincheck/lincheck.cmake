# SPDX-License-Identifier: Apache-2.0
set(GEMEL_LINCHECK_DIR ${CMAKE_CURRENT_LIST_DIR})
gemel_library(lincheck
  SOURCES ${GEMEL_LINCHECK_DIR}/job_model.cc ${GEMEL_LINCHECK_DIR}/random_jobs.cc
          ${GEMEL_LINCHECK_DIR}/random_stores.cc ${GEMEL_LINCHECK_DIR}/recording_store.cc
          ${GEMEL_LINCHECK_DIR}/store_model.cc
  DEPS gemel_placement_store gemel_common)
gemel_test(lincheck_test
  SOURCES ${GEMEL_LINCHECK_DIR}/lincheck_test.cc ${GEMEL_LINCHECK_DIR}/recording_test.cc
  DEPS gemel_lincheck LABEL sim)
if(GEMEL_BUILD_TESTS)
  add_test(NAME lincheck_million COMMAND lincheck_test --gtest_also_run_disabled_tests
    --gtest_filter=Lincheck.DISABLED_ChecksAMillionOperations)
  set_tests_properties(lincheck_million PROPERTIES LABELS sim-long TIMEOUT 600)
endif()

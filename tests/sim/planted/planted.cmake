# SPDX-License-Identifier: Apache-2.0
# Compiles on its own beside the build, so it has its own label: `ctest -L planted`.
add_test(NAME planted_five COMMAND python3 ${CMAKE_CURRENT_LIST_DIR}/run.py --five
  --build-dir ${CMAKE_BINARY_DIR})
set_tests_properties(planted_five PROPERTIES LABELS planted TIMEOUT 600)
add_test(NAME planted_all COMMAND python3 ${CMAKE_CURRENT_LIST_DIR}/run.py --all --minutes 10
  --build-dir ${CMAKE_BINARY_DIR})
set_tests_properties(planted_all PROPERTIES LABELS planted-long TIMEOUT 36000)

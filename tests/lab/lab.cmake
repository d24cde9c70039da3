# SPDX-License-Identifier: Apache-2.0
# On soft-RoCE, by lab_test.py; a machine without a device skips every test.
gemel_test(verbs_lab_test SOURCES ${CMAKE_CURRENT_LIST_DIR}/verbs_lab_test.cc DEPS gemel_transport LABEL lab)

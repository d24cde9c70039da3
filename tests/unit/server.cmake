# SPDX-License-Identifier: Apache-2.0
set(here ${CMAKE_CURRENT_LIST_DIR})
gemel_test(server_test
  SOURCES ${here}/server_directives_test.cc ${here}/server_fake_placement.cc ${here}/server_holder_test.cc
          ${here}/server_identity_test.cc ${here}/server_restore_test.cc ${here}/server_save_test.cc
          ${here}/server_slabs_test.cc
  DEPS gemel_server LABEL unit)

# SPDX-License-Identifier: Apache-2.0
set(here ${CMAKE_CURRENT_LIST_DIR})
if(GEMEL_BUILD_SERVICES AND TARGET gemel_cli)
  gemel_test(cli_test
    SOURCES ${here}/cli_command_line_test.cc ${here}/cli_doctor_test.cc
    DEPS gemel_cli LABEL unit)
endif()

# SPDX-License-Identifier: Apache-2.0
set(here ${CMAKE_CURRENT_LIST_DIR})
gemel_test(client_test
  SOURCES ${here}/client_fake_server.cc ${here}/client_filler_test.cc ${here}/client_fork_test.cc
          ${here}/client_library_test.cc ${here}/client_read_test.cc ${here}/client_stage_test.cc
  DEPS gemel_client_library LABEL unit)
if(TARGET fake_cuda)
  gemel_test(client_cuda_test SOURCES ${here}/client_cuda_test.cc DEPS gemel_client gemel_cuda fake_cuda LABEL unit)
endif()

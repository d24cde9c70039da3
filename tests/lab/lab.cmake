# SPDX-License-Identifier: Apache-2.0
# On the fake everywhere, and on every machine with an RDMA device there too: lab_test.py runs it on soft-RoCE.
set(here ${CMAKE_CURRENT_LIST_DIR})
gemel_test(verbs_test
  SOURCES ${here}/fake_verbs.cc ${here}/verbs_conformance_test.cc ${here}/verbs_net_test.cc ${here}/verbs_receives_test.cc
          ${here}/verbs_schedule_test.cc ${here}/verbs_stream_test.cc ${here}/verbs_transfer_test.cc
  DEPS gemel_transport LABEL unit)

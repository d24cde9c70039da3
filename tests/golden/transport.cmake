# SPDX-License-Identifier: Apache-2.0
set(here ${CMAKE_CURRENT_LIST_DIR})
gemel_test(frame_golden_test SOURCES ${here}/frame_golden_test.cc DEPS gemel_transport LABEL golden)
gemel_test(messages_golden_test
  SOURCES ${here}/local_messages_golden_test.cc ${here}/peer_messages_golden_test.cc
  DEPS gemel_transport LABEL golden)
gemel_test(verbs_golden_test SOURCES ${here}/verbs_golden_test.cc DEPS gemel_transport LABEL golden)

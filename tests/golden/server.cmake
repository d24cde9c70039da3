# SPDX-License-Identifier: Apache-2.0
gemel_test(slab_directory_golden_test SOURCES ${CMAKE_CURRENT_LIST_DIR}/slab_directory_golden_test.cc
  DEPS gemel_server LABEL golden)
gemel_test(persist_golden_test SOURCES ${CMAKE_CURRENT_LIST_DIR}/persist_golden_test.cc
  DEPS gemel_server_persist LABEL golden)
gemel_test(keeper_messages_golden_test SOURCES ${CMAKE_CURRENT_LIST_DIR}/keeper_messages_golden_test.cc
  DEPS gemel_server_keeper LABEL golden)

gemel_test(common_digest_test SOURCES ${CMAKE_CURRENT_LIST_DIR}/common_digest_test.cc
  DEPS gemel_common LABEL unit)

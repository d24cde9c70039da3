# SPDX-License-Identifier: Apache-2.0
# Not registered with ctest: etcd_test.py starts the etcd that it needs.
if(GEMEL_BUILD_SERVICES)
  gemel_binary(etcd_store_test
    SOURCES ${CMAKE_CURRENT_LIST_DIR}/etcd_store_test.cc
            ${CMAKE_CURRENT_LIST_DIR}/../unit/placement_store_conformance.cc
    DEPS gemel_placement_store_etcd gemel_placement_store_rocksdb GTest::gtest GTest::gmock)
endif()

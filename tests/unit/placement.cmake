# SPDX-License-Identifier: Apache-2.0
gemel_test(placement_manager_test
  SOURCES ${CMAKE_CURRENT_LIST_DIR}/placement_manager_admin_test.cc
          ${CMAKE_CURRENT_LIST_DIR}/placement_manager_leaders_test.cc
          ${CMAKE_CURRENT_LIST_DIR}/placement_manager_members_test.cc
          ${CMAKE_CURRENT_LIST_DIR}/placement_manager_order_test.cc
          ${CMAKE_CURRENT_LIST_DIR}/placement_manager_persist_test.cc
          ${CMAKE_CURRENT_LIST_DIR}/placement_manager_placing_test.cc
          ${CMAKE_CURRENT_LIST_DIR}/placement_manager_read_test.cc
          ${CMAKE_CURRENT_LIST_DIR}/placement_manager_recover_test.cc
          ${CMAKE_CURRENT_LIST_DIR}/placement_manager_drain_test.cc
          ${CMAKE_CURRENT_LIST_DIR}/placement_manager_repair_test.cc
          ${CMAKE_CURRENT_LIST_DIR}/placement_manager_restore_test.cc
          ${CMAKE_CURRENT_LIST_DIR}/placement_manager_save_test.cc
  DEPS gemel_placement_manager LABEL unit)
if(GEMEL_BUILD_SERVICES)
  gemel_test(placement_store_test
    SOURCES ${CMAKE_CURRENT_LIST_DIR}/placement_store_conformance.cc
            ${CMAKE_CURRENT_LIST_DIR}/placement_store_test.cc
    DEPS gemel_placement_store_rocksdb LABEL unit)
  gemel_test(placement_etcd_test
    SOURCES ${CMAKE_CURRENT_LIST_DIR}/placement_etcd_test.cc
    DEPS gemel_placement_store_etcd LABEL unit)
endif()

# SPDX-License-Identifier: Apache-2.0
set(here ${CMAKE_CURRENT_LIST_DIR})
gemel_test(server_test
  SOURCES ${here}/server_client_test.cc ${here}/server_directives_test.cc ${here}/server_fake_placement.cc
          ${here}/server_credit_test.cc ${here}/server_hedge_test.cc ${here}/server_holder_test.cc
          ${here}/server_identity_test.cc ${here}/server_lanes_test.cc ${here}/server_peers_test.cc
          ${here}/server_read_test.cc ${here}/server_restore_test.cc ${here}/server_save_test.cc
          ${here}/server_scrub_test.cc ${here}/server_slabs_test.cc ${here}/server_spray_test.cc
          ${here}/server_stage_test.cc
          ${here}/server_tier_test.cc
  DEPS gemel_server LABEL unit)
gemel_test(server_recovery_test
  SOURCES ${here}/server_fake_placement.cc ${here}/server_keeper_test.cc ${here}/server_recovery_test.cc
  DEPS gemel_server LABEL unit)
if(GEMEL_BUILD_SERVICES AND TARGET gemel-server)
  # The settings are part of the binary, not of gemel_server.
  gemel_test(server_config_test
    SOURCES ${here}/server_config_test.cc ${PROJECT_SOURCE_DIR}/server/config.cc
    DEPS gemel_server gemel_daemon CLI11::CLI11 LABEL unit)
  target_compile_definitions(server_config_test PRIVATE GEMEL_VERSION="${PROJECT_VERSION}")
endif()
if(TARGET gemel_server_persist_rocksdb)
  gemel_test(server_persist_test
    SOURCES ${here}/server_persist_rocksdb_test.cc ${here}/server_persist_test.cc
    DEPS gemel_server_persist_rocksdb LABEL unit)
endif()

# SPDX-License-Identifier: Apache-2.0
set(GEMEL_CORRUPTION_DIR ${CMAKE_CURRENT_LIST_DIR})
gemel_library(corruption
  SOURCES ${GEMEL_CORRUPTION_DIR}/campaign.cc ${GEMEL_CORRUPTION_DIR}/damage.cc ${GEMEL_CORRUPTION_DIR}/items.cc
          ${GEMEL_CORRUPTION_DIR}/record_layers.cc ${GEMEL_CORRUPTION_DIR}/shard_layers.cc
          ${GEMEL_CORRUPTION_DIR}/wire_layer.cc
  DEPS gemel_placement_manager gemel_server gemel_transport)
gemel_binary(gemel-corrupt SOURCES ${GEMEL_CORRUPTION_DIR}/gemel_corrupt.cc DEPS gemel_corruption)
gemel_test(corruption_test
  SOURCES ${GEMEL_CORRUPTION_DIR}/corruption_test.cc ${GEMEL_CORRUPTION_DIR}/servers_test.cc
          ${PROJECT_SOURCE_DIR}/tests/unit/server_fake_placement.cc
  DEPS gemel_corruption LABEL unit)
add_test(NAME corruption_million COMMAND gemel-corrupt --count 1000000)
set_tests_properties(corruption_million PROPERTIES LABELS sim-long TIMEOUT 600)

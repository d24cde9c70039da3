set(GEMEL_SIM_DIR ${CMAKE_CURRENT_LIST_DIR})
gemel_library(sim
  SOURCES ${GEMEL_SIM_DIR}/cluster.cc ${GEMEL_SIM_DIR}/oracle.cc ${GEMEL_SIM_DIR}/scenario.cc
          ${GEMEL_SIM_DIR}/trainer.cc
  DEPS gemel_placement_manager gemel_placement_store gemel_server gemel_client gemel_transport)
gemel_binary(gemel-sim SOURCES ${GEMEL_SIM_DIR}/gemel_sim.cc DEPS gemel_sim)
if(GEMEL_BUILD_TESTS)
  gemel_binary(sim_test SOURCES ${GEMEL_SIM_DIR}/scenario_test.cc DEPS gemel_sim GTest::gtest_main)
endif()

# 500 seeds take a minute and a half of one core: shards run side by side. `sim-some` is for slow builds, `sim-long`
# for a campaign.
foreach(shard RANGE 3)
  add_test(NAME sim_shard_${shard} COMMAND sim_test)
  set_tests_properties(sim_shard_${shard} PROPERTIES LABELS sim TIMEOUT 300
    ENVIRONMENT "GTEST_TOTAL_SHARDS=4;GTEST_SHARD_INDEX=${shard}")
endforeach()
add_test(NAME sim_some COMMAND sim_test --gtest_filter=Seeds/SimulatedCluster.*/0:Seeds/SimulatedCluster.*/1)
set_tests_properties(sim_some PROPERTIES LABELS sim-some TIMEOUT 300)
add_test(NAME sim_campaign COMMAND gemel-sim --seed 501 --seeds 5000)
set_tests_properties(sim_campaign PROPERTIES LABELS sim-long TIMEOUT 3000)

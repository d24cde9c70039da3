set(GEMEL_SIM_DIR ${CMAKE_CURRENT_LIST_DIR})
gemel_library(sim
  SOURCES ${GEMEL_SIM_DIR}/campaign.cc ${GEMEL_SIM_DIR}/cluster.cc
          ${GEMEL_SIM_DIR}/convergence.cc ${GEMEL_SIM_DIR}/fault.cc
          ${GEMEL_SIM_DIR}/ground_truth.cc ${GEMEL_SIM_DIR}/job.cc ${GEMEL_SIM_DIR}/oracle.cc
          ${GEMEL_SIM_DIR}/oracle_beliefs.cc ${GEMEL_SIM_DIR}/oracle_copies.cc ${GEMEL_SIM_DIR}/oracle_holders.cc
          ${GEMEL_SIM_DIR}/oracle_loss.cc ${GEMEL_SIM_DIR}/oracle_store.cc
          ${GEMEL_SIM_DIR}/plan.cc ${GEMEL_SIM_DIR}/report.cc
          ${GEMEL_SIM_DIR}/scenario.cc ${GEMEL_SIM_DIR}/shrink.cc ${GEMEL_SIM_DIR}/sim_points.cc
          ${GEMEL_SIM_DIR}/strikes.cc ${GEMEL_SIM_DIR}/strikes_media.cc
          ${GEMEL_SIM_DIR}/strikes_nodes.cc ${GEMEL_SIM_DIR}/strikes_person.cc
          ${GEMEL_SIM_DIR}/strikes_points.cc
          ${GEMEL_SIM_DIR}/timeline.cc ${GEMEL_SIM_DIR}/trainer.cc
  DEPS gemel_lincheck gemel_placement_manager gemel_placement_store gemel_server gemel_client gemel_transport)
# traps.cc stands in each program: the linker takes its symbols before libc's.
gemel_binary(gemel-sim SOURCES ${GEMEL_SIM_DIR}/gemel_sim.cc ${GEMEL_SIM_DIR}/traps.cc
             DEPS gemel_sim ${CMAKE_DL_LIBS})
if(GEMEL_BUILD_TESTS)
  gemel_binary(sim_test SOURCES ${GEMEL_SIM_DIR}/scenario_test.cc ${GEMEL_SIM_DIR}/traps.cc
               DEPS gemel_sim ${CMAKE_DL_LIBS} GTest::gtest_main)
endif()

gemel_test(sim_parts_test SOURCES ${GEMEL_SIM_DIR}/parts_test.cc ${GEMEL_SIM_DIR}/traps.cc
           DEPS gemel_sim ${CMAKE_DL_LIBS} LABEL sim)

# The fixed seeds take half a minute of one core in two shards; then fresh ones for two minutes. `sim-some` is for slow
# builds, `sim-long` for a campaign and for another compiler.
foreach(shard RANGE 1)
  add_test(NAME sim_shard_${shard} COMMAND sim_test)
  set_tests_properties(sim_shard_${shard} PROPERTIES LABELS sim TIMEOUT 300
    ENVIRONMENT "GTEST_TOTAL_SHARDS=2;GTEST_SHARD_INDEX=${shard}")
endforeach()
foreach(shard RANGE 1)
  add_test(NAME sim_some_${shard} COMMAND sim_test --gtest_filter=*/PastSeeds.*)
  set_tests_properties(sim_some_${shard} PROPERTIES LABELS sim-some TIMEOUT 200
    ENVIRONMENT "GTEST_TOTAL_SHARDS=2;GTEST_SHARD_INDEX=${shard}")
endforeach()
add_test(NAME sim_fresh COMMAND gemel-sim --seed today --minutes 2 --jobs 2)
set_tests_properties(sim_fresh PROPERTIES LABELS sim TIMEOUT 300 RUN_SERIAL TRUE)
add_test(NAME sim_campaign COMMAND gemel-sim --seed 501 --minutes 10 --jobs 2 --require-coverage)
set_tests_properties(sim_campaign PROPERTIES LABELS sim-long TIMEOUT 3000 RUN_SERIAL TRUE)
add_test(NAME sim_determinism COMMAND python3 ${GEMEL_SIM_DIR}/determinism.py $<TARGET_FILE:gemel-sim>)
set_tests_properties(sim_determinism PROPERTIES LABELS sim-long TIMEOUT 3600 RUN_SERIAL TRUE)

set(GEMEL_SIM_DIR ${CMAKE_CURRENT_LIST_DIR})
gemel_library(sim
  SOURCES ${GEMEL_SIM_DIR}/cluster.cc ${GEMEL_SIM_DIR}/oracle.cc ${GEMEL_SIM_DIR}/scenario.cc
          ${GEMEL_SIM_DIR}/trainer.cc
  DEPS gemel_placement_manager gemel_placement_store gemel_server gemel_client gemel_transport)
gemel_binary(gemel-sim SOURCES ${GEMEL_SIM_DIR}/gemel_sim.cc DEPS gemel_sim)
gemel_test(sim_test SOURCES ${GEMEL_SIM_DIR}/scenario_test.cc DEPS gemel_sim LABEL sim)

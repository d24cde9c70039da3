# SPDX-License-Identifier: Apache-2.0
# The simulated fabric, control plane and machines; included by transport/CMakeLists.txt.
set(GEMEL_TRANSPORT_SIM_SOURCES
  sim/sim_address.cc
  sim/sim_endpoint_receive.cc
  sim/sim_endpoint_send.cc
  sim/sim_host.cc
  sim/sim_link.cc
  sim/sim_machine.cc
  sim/sim_net.cc
  sim/sim_node_process.cc
  sim/sim_rpc.cc
  sim/sim_rpc_call.cc
  sim/sim_world.cc)

// SPDX-License-Identifier: Apache-2.0
#include "transport/verbs/verbs_calls.h"

#include <dlfcn.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <tuple>
#include <utility>

#include "common/errors.h"

namespace gemel {
namespace {

// The version that the header describes: its functions have the symbols of that ABI.
constexpr const char* kLibrary = "libibverbs.so.1";

template <typename Function>
void Load(void* library, const char* name, Function** function, std::string* missing) {
  void* found = dlsym(library, name);
  *function = reinterpret_cast<Function*>(found);
  if (found == nullptr) {
    *missing += (missing->empty() ? "" : ", ") + std::string(name);
  }
}

// None of a device that cannot be opened or asked.
void AddPorts(const VerbsCalls& calls, ibv_device* device, std::vector<RdmaPort>* ports) {
  ibv_context* context = calls.open_device(device);
  if (context == nullptr) {
    return;
  }
  ibv_device_attr facts{};
  const bool known = calls.query_device(context, &facts) == 0;
  for (uint8_t port = 1; known && port <= facts.phys_port_cnt; ++port) {
    ibv_port_attr found{};
    if (calls.query_port(context, port, reinterpret_cast<_compat_ibv_port_attr*>(&found)) == 0) {
      ports->push_back(
          {.device = calls.get_device_name(device),
           .port = port,
           .active = found.state == IBV_PORT_ACTIVE,
           .mtu_bytes = 128U << static_cast<uint32_t>(found.active_mtu),
           .ethernet = found.link_layer == IBV_LINK_LAYER_ETHERNET,
           .memory_windows = (facts.device_cap_flags & IBV_DEVICE_MEM_WINDOW_TYPE_2B) != 0});
    }
  }
  calls.close_device(context);
}

}  // namespace

absl::StatusOr<VerbsCalls> LoadVerbsFrom(const char* library) {
  void* handle = dlopen(library, RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    return error::Unavailable(
        "RDMA is not to be had: {}; install rdma-core (Debian: libibverbs1 ibverbs-providers)",
        dlerror());
  }
  VerbsCalls calls;
  std::string missing;
  Load(handle, "ibv_get_device_list", &calls.get_device_list, &missing);
  Load(handle, "ibv_free_device_list", &calls.free_device_list, &missing);
  Load(handle, "ibv_get_device_name", &calls.get_device_name, &missing);
  Load(handle, "ibv_open_device", &calls.open_device, &missing);
  Load(handle, "ibv_close_device", &calls.close_device, &missing);
  Load(handle, "ibv_query_device", &calls.query_device, &missing);
  Load(handle, "ibv_query_port", &calls.query_port, &missing);
  Load(handle, "_ibv_query_gid_ex", &calls.query_gid_entry, &missing);
  Load(handle, "ibv_alloc_pd", &calls.alloc_pd, &missing);
  Load(handle, "ibv_dealloc_pd", &calls.dealloc_pd, &missing);
  Load(handle, "ibv_reg_mr", &calls.reg_mr, &missing);
  Load(handle, "ibv_dereg_mr", &calls.dereg_mr, &missing);
  Load(handle, "ibv_create_comp_channel", &calls.create_comp_channel, &missing);
  Load(handle, "ibv_destroy_comp_channel", &calls.destroy_comp_channel, &missing);
  Load(handle, "ibv_get_cq_event", &calls.get_cq_event, &missing);
  Load(handle, "ibv_ack_cq_events", &calls.ack_cq_events, &missing);
  Load(handle, "ibv_create_cq", &calls.create_cq, &missing);
  Load(handle, "ibv_destroy_cq", &calls.destroy_cq, &missing);
  Load(handle, "ibv_create_srq", &calls.create_srq, &missing);
  Load(handle, "ibv_destroy_srq", &calls.destroy_srq, &missing);
  Load(handle, "ibv_create_qp", &calls.create_qp, &missing);
  Load(handle, "ibv_modify_qp", &calls.modify_qp, &missing);
  Load(handle, "ibv_destroy_qp", &calls.destroy_qp, &missing);
  if (!missing.empty()) {
    dlclose(handle);
    return error::Unavailable("{} lacks {}: install rdma-core (Debian: libibverbs1)", library,
                              missing);
  }
  return calls;
}

absl::StatusOr<const VerbsCalls*> LoadVerbs() {
  static const absl::StatusOr<VerbsCalls> kLoaded = LoadVerbsFrom(kLibrary);
  if (!kLoaded.ok()) {
    return kLoaded.status();
  }
  return &*kLoaded;
}

std::string Describe(const RdmaPort& port) {
  return fmt::format("{} port {}: {}, {}, packets of {} bytes, {} memory windows of type 2B",
                     port.device, port.port, port.active ? "active" : "not active",
                     port.ethernet ? "RoCE" : "InfiniBand", port.mtu_bytes,
                     port.memory_windows ? "with" : "without");
}

absl::StatusOr<std::vector<RdmaPort>> ListRdmaPorts(const VerbsCalls& calls) {
  int count = 0;
  const auto free_list = [&calls](ibv_device** list) { calls.free_device_list(list); };
  const std::unique_ptr<ibv_device*, decltype(free_list)> list(calls.get_device_list(&count),
                                                               free_list);
  if (list == nullptr) {
    return error::Unavailable(
        "the kernel has no RDMA ({}): load the driver of the device and ib_uverbs",
        strerror(errno));
  }
  std::vector<RdmaPort> ports;
  for (int i = 0; i < count; ++i) {
    AddPorts(calls, list.get()[i], &ports);
  }
  std::sort(ports.begin(), ports.end(), [](const RdmaPort& a, const RdmaPort& b) {
    return std::tie(a.device, a.port) < std::tie(b.device, b.port);
  });
  return ports;
}

}  // namespace gemel

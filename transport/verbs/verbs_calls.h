// SPDX-License-Identifier: Apache-2.0
//
// VerbsCalls: the functions of libibverbs as a table, filled at run time (DESIGN section 7), so
// that a program starts without rdma-core, and a test can put its own functions in their place.
// What the header of libibverbs inlines (ibv_post_send, ibv_post_srq_recv, ibv_alloc_mw …) goes
// through the tables of a context and needs no row here.
//
// Thread safety: constant once loaded; libibverbs itself is thread safe.
#pragma once

#include <infiniband/verbs.h>

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace gemel {

struct VerbsCalls {
  ibv_device** (*get_device_list)(int* count) = nullptr;
  void (*free_device_list)(ibv_device** list) = nullptr;
  const char* (*get_device_name)(ibv_device* device) = nullptr;
  ibv_context* (*open_device)(ibv_device* device) = nullptr;
  int (*close_device)(ibv_context* context) = nullptr;
  int (*query_device)(ibv_context* context, ibv_device_attr* facts) = nullptr;
  int (*query_port)(ibv_context* context, uint8_t port, _compat_ibv_port_attr* facts) = nullptr;
  int (*query_gid_entry)(ibv_context* context, uint32_t port, uint32_t index, ibv_gid_entry* entry,
                         uint32_t flags, size_t entry_bytes) = nullptr;
  ibv_pd* (*alloc_pd)(ibv_context* context) = nullptr;
  int (*dealloc_pd)(ibv_pd* pd) = nullptr;
  ibv_mr* (*reg_mr)(ibv_pd* pd, void* address, size_t bytes, int access) = nullptr;
  int (*dereg_mr)(ibv_mr* mr) = nullptr;
  ibv_comp_channel* (*create_comp_channel)(ibv_context* context) = nullptr;
  int (*destroy_comp_channel)(ibv_comp_channel* channel) = nullptr;
  int (*get_cq_event)(ibv_comp_channel* channel, ibv_cq** cq, void** user) = nullptr;
  void (*ack_cq_events)(ibv_cq* cq, unsigned count) = nullptr;
  ibv_cq* (*create_cq)(ibv_context* context, int entries, void* user, ibv_comp_channel* channel,
                       int vector) = nullptr;
  int (*destroy_cq)(ibv_cq* cq) = nullptr;
  ibv_srq* (*create_srq)(ibv_pd* pd, ibv_srq_init_attr* wanted) = nullptr;
  int (*destroy_srq)(ibv_srq* srq) = nullptr;
  ibv_qp* (*create_qp)(ibv_pd* pd, ibv_qp_init_attr* wanted) = nullptr;
  int (*modify_qp)(ibv_qp* qp, ibv_qp_attr* wanted, int mask) = nullptr;
  int (*destroy_qp)(ibv_qp* qp) = nullptr;
};

// Loads libibverbs once; it stays loaded. Unavailable when it is not installed or lacks a function,
// with the packages to install.
absl::StatusOr<const VerbsCalls*> LoadVerbs();

// The same from another file, for tests.
absl::StatusOr<VerbsCalls> LoadVerbsFrom(const char* library);

// One port of an RDMA device, as `gemel doctor` shows it.
struct RdmaPort {
  std::string device;
  uint32_t port = 0;
  bool active = false;
  uint32_t mtu_bytes = 0;       // of one packet
  bool ethernet = false;        // RoCE; else InfiniBand
  bool memory_windows = false;  // type 2B: the fence of DESIGN section 7
};

// "mlx5_0 port 1: active, RoCE, packets of 4096 bytes, with memory windows of type 2B".
std::string Describe(const RdmaPort& port);

// Of every device that can be opened, by name and port. Unavailable when the kernel has no RDMA.
absl::StatusOr<std::vector<RdmaPort>> ListRdmaPorts(const VerbsCalls& calls);

}  // namespace gemel

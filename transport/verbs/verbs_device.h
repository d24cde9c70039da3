// SPDX-License-Identifier: Apache-2.0
//
// VerbsDevice: an RDMA device that is open, on one port; VerbsRegion and VerbsWindow: memory that
// it may read and write, and a right to a part of that memory that can be taken back.
//
// Thread safety: one loop. Contents of registered memory: whoever owns it.
// Ownership: a region and a window live no longer than their device, a window no longer than the
// region and the queue pair it is bound to (soft-RoCE waits for it 51 s). The memory of a region is
// the caller's, and outlives it.
#pragma once

#include <infiniband/verbs.h>

#include <map>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"

#include "common/bytes.h"
#include "transport/verbs/verbs_calls.h"

namespace gemel {

class VerbsReceives;

// After a call that frees something of a device. A device that is gone (EIO) has freed it; any
// other error is a user's that is still there, and a broken invariant.
void CheckFreed(int error, const char* call);

// The device may write into it for this process, and windows may be bound to it; a peer may do
// nothing. One system call and the pages are pinned, so a range of slabs is registered once
// (DESIGN section 7).
class VerbsRegion {
 public:
  VerbsRegion(const VerbsCalls* calls, ibv_mr* mr) : calls_(calls), mr_(mr) {}

  VerbsRegion(const VerbsRegion&) = delete;
  VerbsRegion& operator=(const VerbsRegion&) = delete;
  // REQUIRES: no window is bound to it.
  ~VerbsRegion();

  uint32_t local_key() const { return mr_->lkey; }

  ibv_mr* handle() const { return mr_; }

  bool Holds(ByteSpan bytes) const;

 private:
  const VerbsCalls* const calls_;
  ibv_mr* const mr_;
};

// A memory window of type 2B: works on the queue pair that binds it, and on no other (amendment 10;
// InfiniBand Architecture 1.5, 10.6.7.2). The fence: once its invalidation is told, nobody writes.
class VerbsWindow {
 public:
  explicit VerbsWindow(ibv_mw* window) : window_(window), key_(window->rkey) {}

  VerbsWindow(const VerbsWindow&) = delete;
  VerbsWindow& operator=(const VerbsWindow&) = delete;
  ~VerbsWindow();

  // The device knows it no more, whatever is bound; it may not be bound again. Before its queue
  // pair is destroyed, when requests of that may name it still.
  void Free();

  // What a peer names: that of the last binding asked for, every one has another.
  uint32_t key() const { return key_; }

 private:
  friend class VerbsQueuePair;

  ibv_mw* window_;  // its key: that of the last binding told, by which the device finds it
  uint32_t key_;
  bool binding_ = false;  // asked for, not told: until then the window stays
};

class VerbsDevice {
 public:
  // The device of that name, or with "" the first that has an active port; its first active port.
  // NotFound names the devices there are; Unavailable: there is no RDMA, or no port is active.
  static absl::StatusOr<std::unique_ptr<VerbsDevice>> Open(const VerbsCalls* calls,
                                                           const std::string& name);
  // The device that has this address, as RoCE 2 names it; NotFound names those there are.
  static absl::StatusOr<std::unique_ptr<VerbsDevice>> OpenAt(const VerbsCalls* calls,
                                                             const ibv_gid& address);
  VerbsDevice(const VerbsDevice&) = delete;
  VerbsDevice& operator=(const VerbsDevice&) = delete;
  ~VerbsDevice();

  // ResourceExhausted, naming the limit to raise, when the pages may not be pinned.
  absl::StatusOr<std::unique_ptr<VerbsRegion>> Register(MutableByteSpan bytes);
  absl::StatusOr<std::unique_ptr<VerbsWindow>> MakeWindow();

  // Registers `memory` for the life of the device. Errors as Register().
  absl::Status AddMemory(MutableByteSpan memory);
  // That holds all of `bytes`, of what was added; else null.
  const VerbsRegion* RegionOf(ByteSpan bytes) const;

  // What its streams share of receives: VerbsReceives::Of() alone reads and writes them. Weak: they
  // go with the last stream.
  std::weak_ptr<VerbsReceives>& receives() { return receives_; }

  // So many at most, of one shared receive queue; 0: the device has none.
  uint32_t receives_max() const { return receives_max_; }

  // False: each stream has receives of its own, since sharing them has failed once.
  bool shares_receives() const { return shares_receives_; }

  void StopSharing() { shares_receives_ = false; }

  const VerbsCalls& calls() const { return *calls_; }

  ibv_context* context() const { return context_; }

  ibv_pd* domain() const { return domain_; }

  std::string name() const;

  uint8_t port() const { return port_; }

  ibv_mtu mtu() const { return mtu_; }

  const ibv_gid_entry& gid() const { return gid_; }

  uint16_t lid() const { return lid_; }

 private:
  VerbsDevice(const VerbsCalls* calls, ibv_context* context) : calls_(calls), context_(context) {}

  using Wanted = std::optional<ibv_gid>;

  static absl::StatusOr<std::unique_ptr<VerbsDevice>> Find(const VerbsCalls* calls,
                                                           const std::string& name,
                                                           const Wanted& wanted);
  absl::Status FindPort(const Wanted& wanted);
  absl::Status FindGid(uint32_t count, const Wanted& wanted);

  const VerbsCalls* const calls_;
  ibv_context* const context_;
  ibv_pd* domain_ = nullptr;
  uint8_t port_ = 0;
  ibv_mtu mtu_ = IBV_MTU_1024;
  uint16_t lid_ = 0;  // InfiniBand only
  ibv_gid_entry gid_{};
  std::map<uintptr_t, std::unique_ptr<VerbsRegion>> memory_;  // by its first byte
  uint32_t receives_max_ = 0;
  bool shares_receives_ = true;
  std::weak_ptr<VerbsReceives> receives_;
};

}  // namespace gemel

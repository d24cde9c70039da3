// SPDX-License-Identifier: Apache-2.0
//
// RealHost: Host over memfd and pidfd.
//
// Thread safety: CreateMemory(), Map() and OwnProcess() any thread (memory is prepared on a
// background thread: populating 64 MiB takes tens of milliseconds); WatchExit() the loop's.
// Ownership: mappings and handles outlive the host freely; the loop outlives every ExitWatch.
// Invariants:
//   (1) a memory's size is sealed (F_SEAL_SHRINK, F_SEAL_GROW) and its seals are sealed: a mapping
//   of it
//       never faults because another process cut it, and no receiver can forbid writing to the
//       owner;
//   (2) Map() refuses memory without those seals, or smaller than asked;
//   (3) a mapping is never inherited by fork: made PROT_NONE, MADV_DONTFORK, then protected.
// Huge pages: every mapping of 2 MiB or more asks for them (MADV_HUGEPAGE). The kernel gives them
// to shared memory where transparent_hugepage/shmem_enabled is advise, within_size or always: a
// first touch and an mprotect cost a tenth then (docs/TESTING.md). Errors: ResourceExhausted names
// the limit; InvalidArgument for a handle of another kind.
#pragma once

#include <memory>
#include <string>

#include "common/epoll_loop.h"
#include "transport/host.h"

namespace gemel {

class RealHost final : public Host {
 public:
  explicit RealHost(EpollLoop* loop) : loop_(loop) {}

  absl::StatusOr<std::shared_ptr<SharedHandle>> CreateMemory(std::string name,
                                                             uint64_t bytes) override;
  absl::StatusOr<std::unique_ptr<Mapping>> Map(const std::shared_ptr<SharedHandle>& memory,
                                               uint64_t bytes, Access access,
                                               bool populate) override;
  absl::StatusOr<std::shared_ptr<SharedHandle>> OwnProcess() override;
  absl::StatusOr<std::unique_ptr<ExitWatch>> WatchExit(const std::shared_ptr<SharedHandle>& process,
                                                       std::function<void()> exited) override;
  absl::StatusOr<uint64_t> LivingPid(const std::shared_ptr<SharedHandle>& process) override;

 private:
  EpollLoop* const loop_;
};

}  // namespace gemel

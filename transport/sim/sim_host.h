// SPDX-License-Identifier: Apache-2.0
//
// SimHost: Host of one simulated process, over the SimMachine of its node.
//
// A write through a read-only mapping cannot be trapped here; what is recorded is every mapping
// with its present Access (SimMemory::mappings), which tests check against the state the protocol
// says.
//
// Thread safety: one thread.
// Ownership: shares the process. Mappings and handles keep their memory alive; the owner destroys
// them with the process's other objects.
// Errors: as Host says; InvalidArgument for a handle of another node or kind.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "transport/host.h"
#include "transport/sim/sim_node_process.h"

namespace gemel {

class SimHost final : public Host {
 public:
  explicit SimHost(std::shared_ptr<SimNodeProcess> process);

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
  const std::shared_ptr<SimNodeProcess> process_;
};

}  // namespace gemel

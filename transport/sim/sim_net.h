// SPDX-License-Identifier: Apache-2.0
//
// SimNet: Net of one simulated process (transport/net.h holds the contract, SimEndpoint what the
// fabric does to frames). "sim://node/port" reaches any node, "unix://path" the own node, with
// handles.
//
// Thread safety: one thread.
// Ownership: shares the process. Connections and listeners belong to the process's objects.
// Errors: as Net says. InvalidArgument for other forms of address. DeadlineExceeded when a
// blackhole swallows the attempt.
#pragma once

#include <memory>
#include <string>

#include "transport/net.h"
#include "transport/sim/sim_node_process.h"

namespace gemel {

class SimNet final : public Net {
 public:
  explicit SimNet(std::shared_ptr<SimNodeProcess> process);

  Task<absl::StatusOr<std::unique_ptr<Connection>>> Connect(std::string address,
                                                            TimePoint deadline) override;
  absl::StatusOr<std::unique_ptr<Listener>> Listen(std::string address,
                                                   AcceptCallback accept) override;

 private:
  const std::shared_ptr<SimNodeProcess> process_;
};

}  // namespace gemel

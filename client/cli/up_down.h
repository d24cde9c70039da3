// SPDX-License-Identifier: Apache-2.0
//
// A cluster on this machine: started, restarted, stopped.
#pragma once

#include <string>

#include "absl/status/statusor.h"

#include "client/cli/cluster_file.h"

namespace gemel::cli {

struct UpOptions {
  std::string dir;
  uint32_t servers = 3;
  uint64_t memory_bytes = 0;  // per server
  uint64_t slab_bytes = 0;
  std::string only_server;      // restart this dead server of a running cluster
  bool only_placement = false;  // restart its dead placement
};

// Starts placement and servers, waits until all are ready. On failure stops what it started and
// gives the last lines of the log of what failed. FailedPrecondition when a cluster already runs
// below dir. A cluster that was stopped comes back as itself: same id, same ports where they are
// free.
absl::StatusOr<ClusterFile> Up(const UpOptions& options);

// Ends all processes of the cluster, removes sockets and ready files; `wipe` removes the folder
// too. Returns how many processes it ended.
absl::StatusOr<uint32_t> Down(const std::string& dir, bool wipe);

// Replaces the MetaStore by what the servers report (DESIGN section 5). The old one is moved aside.
absl::StatusOr<ClusterFile> RecoverPlacement(const std::string& dir, bool accept_loss, bool force);

}  // namespace gemel::cli

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
  uint32_t servers = 0;       // 0: as many as it had, or 3
  uint64_t memory_bytes = 0;  // per server; 0: what it had, or 1 GiB
  uint64_t slab_bytes = 0;    // 0: what it had with that memory, or DefaultSlabBytes()
  std::string listen;         // of placement; empty: where it was, or any free port
  std::string persist_dir;    // each server takes a folder of its own below it
  bool no_persist = false;
  bool no_keeper = false;       // a server's memory ends with its process
  std::string only_server;      // restart this dead server of a running cluster
  bool only_placement = false;  // restart its dead placement
};

struct UpResult {
  ClusterFile cluster;
  bool was_up = false;  // nothing was to be done
};

// Starts placement and servers, waits until all are ready. On failure stops what it started and
// says why it ended, as its log does. Of a cluster that runs already only what is dead is started,
// all of it at once; FailedPrecondition when other sizes were asked for. A cluster that was stopped
// comes back as itself: same id, same sizes, same address of placement.
absl::StatusOr<UpResult> Up(const UpOptions& options);

// Ends all processes of the cluster, removes sockets and ready files; `wipe` removes the folder
// too. Returns how many processes it ended.
absl::StatusOr<uint32_t> Down(const std::string& dir, bool wipe);

// Replaces the MetaStore by what the servers report (DESIGN section 5). The old one is moved aside.
absl::StatusOr<ClusterFile> RecoverPlacement(const std::string& dir, bool accept_loss, bool force);

}  // namespace gemel::cli

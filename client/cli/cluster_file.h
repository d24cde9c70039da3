// SPDX-License-Identifier: Apache-2.0
//
// ClusterFile: what `gemel up` leaves in DIR/cluster.json for the other commands: which processes
// run, where.
//
//   DIR/cluster.json
//   DIR/placement/…      MetaStore, log, ready.json
//   DIR/server-<i>/…     identity and records, log, ready.json, server.sock; keeper.log,
//   keeper.sock
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

#include "client/cli/host_processes.h"

namespace gemel::cli {

struct ServerEntry {
  std::string name;  // "server-0"
  std::string id;    // 32 hexadecimal digits, once it was up
  std::string socket;
  std::string data_address;
  ProcessName process;
  ProcessName keeper;  // holds its memory when it is dead
};

struct ClusterFile {
  std::string dir;
  std::string cluster;    // id, once placement was up
  std::string placement;  // "127.0.0.1:7601"
  ProcessName placement_process;
  uint64_t memory_bytes = 0;  // per server
  uint64_t slab_bytes = 0;
  std::string persist_dir;  // empty: below each server's own folder
  bool no_persist = false;
  bool no_keeper = false;
  std::vector<ServerEntry> servers;

  bool AnyAlive() const;
  // For GEMEL_ADDRESS: the servers' sockets, comma-separated.
  std::string Address() const;
  // What `gemel up -o json` prints.
  std::string ToJson() const;
};

// NotFound, with the way out, when nothing was started below `dir`; FailedPrecondition for a file
// of another version or a damaged one; PermissionDenied for one of another user.
absl::StatusOr<ClusterFile> ReadClusterFile(const std::string& dir);
absl::Status WriteClusterFile(const ClusterFile& cluster);

}  // namespace gemel::cli

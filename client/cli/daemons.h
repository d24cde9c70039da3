// SPDX-License-Identifier: Apache-2.0
//
// The processes of a cluster on this machine: started, awaited, stopped, one by one.
//
// Thread safety: one thread.
// Invariant: a process is in cluster.json as soon as it runs, so a CLI that is killed leaves none
// that `gemel down` does not know.
// Errors: Unavailable, with the last words of its log, for a daemon that ends at its start;
// FailedPrecondition, naming the process, for a port that is taken.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

#include "client/cli/cluster_file.h"
#include "client/cli/waiting.h"

namespace gemel::cli {

std::string PlacementFolder(const ClusterFile& cluster);
std::string ServerFolder(const ClusterFile& cluster, const std::string& name);

// Starts gemel-placement with the flags `extra`, waits until it serves, takes note of its address.
absl::Status StartPlacement(ClusterFile* cluster, const std::vector<std::string>& extra,
                            Waiting* waiting);

// Starts the keeper of a server, unless it runs or the cluster has none.
absl::Status LaunchKeeper(ClusterFile* cluster, ServerEntry* server);
// Starts one server, and its keeper first; AwaitServer() returns when clients may connect to it.
absl::Status LaunchServer(ClusterFile* cluster, ServerEntry* server);
absl::Status AwaitServer(const ClusterFile& cluster, ServerEntry* server, Waiting* waiting);

// Ends all of them, servers first and at once, keepers after them. How many were alive.
uint32_t StopDaemons(ClusterFile* cluster, Waiting* waiting);
// Waits until it is gone; SIGKILL when it does not go. True when it was alive.
bool StopDaemon(const ProcessName& process, Waiting* waiting);

// What a daemon said last before it ended, without its name before it; "nothing" for an empty log.
std::string LastWords(const std::string& log);

}  // namespace gemel::cli

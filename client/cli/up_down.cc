// SPDX-License-Identifier: Apache-2.0
#include "client/cli/up_down.h"

#include <algorithm>

#include "client/cli/daemons.h"
#include "client/cli/host_facts.h"
#include "common/bytes.h"
#include "common/check.h"
#include "common/errors.h"
#include "common/slab_size.h"
#include "common/status_macros.h"

namespace gemel::cli {
namespace {

constexpr uint32_t kServersDefault = 3;
constexpr uint32_t kServersMax = 64;
constexpr uint64_t kMemoryDefault = kGiB;
constexpr uint64_t kFitUnit = 64 * kMiB;

absl::Status StartAll(ClusterFile* cluster) {
  Waiting waiting(fmt::format("starting {} servers", cluster->servers.size()));
  GEMEL_RETURN_IF_ERROR(StartPlacement(cluster, {}, &waiting));
  for (ServerEntry& server : cluster->servers) {
    GEMEL_RETURN_IF_ERROR(LaunchServer(cluster, &server));
  }
  for (ServerEntry& server : cluster->servers) {
    GEMEL_RETURN_IF_ERROR(AwaitServer(*cluster, &server, &waiting));
  }
  return WriteClusterFile(*cluster);
}

// What fits leaves a tenth to everything else.
uint64_t FittingBytes(const MachineMemory& memory, uint64_t servers) {
  GEMEL_CHECK_GT(servers, 0U);
  return memory.most_bytes() / 10 * 9 / servers / kFitUnit * kFitUnit;
}

absl::Status CheckSizes(const ClusterFile& cluster) {
  const uint64_t servers = cluster.servers.size();
  if (servers == 0 || servers > kServersMax) {
    return error::InvalidArgument("--servers {} must be 1 to {}", servers, kServersMax);
  }
  const MachineMemory memory = ReadMachineMemory();
  if (cluster.memory_bytes <= memory.most_bytes() / servers) {
    return absl::OkStatus();
  }
  const std::string where = memory.group_file.empty()
                                ? "this machine has"
                                : fmt::format("the control group ({}) allows", memory.group_file);
  return error::ResourceExhausted(
      "{} servers of {} MiB are more than the {} MiB that {}; `--memory {}MiB` would fit", servers,
      cluster.memory_bytes >> 20, memory.most_bytes() >> 20, where,
      FittingBytes(memory, servers) >> 20);
}

absl::StatusOr<ClusterFile> RestartServer(ClusterFile cluster, const std::string& name) {
  for (ServerEntry& server : cluster.servers) {
    if (server.name != name) {
      continue;
    }
    if (IsAlive(server.process)) {
      return error::FailedPrecondition("{} runs already (process {})", name, server.process.pid);
    }
    Waiting waiting("starting " + name);
    GEMEL_RETURN_IF_ERROR(LaunchServer(&cluster, &server));
    GEMEL_RETURN_IF_ERROR(AwaitServer(cluster, &server, &waiting));
    GEMEL_RETURN_IF_ERROR(WriteClusterFile(cluster));
    return cluster;
  }
  return error::NotFound("{} has no server named {}; `gemel status` lists them", cluster.dir, name);
}

absl::StatusOr<ClusterFile> RestartPlacement(ClusterFile cluster) {
  if (IsAlive(cluster.placement_process)) {
    return error::FailedPrecondition("gemel-placement runs already (process {})",
                                     cluster.placement_process.pid);
  }
  Waiting waiting("starting gemel-placement");
  GEMEL_RETURN_IF_ERROR(StartPlacement(&cluster, {}, &waiting));
  GEMEL_RETURN_IF_ERROR(WriteClusterFile(cluster));
  return cluster;
}

// What was asked for, then what it had, then the defaults.
ClusterFile NewCluster(const UpOptions& options, const ClusterFile& before) {
  ClusterFile cluster = before;
  cluster.dir = options.dir;
  cluster.placement = options.listen.empty() ? before.placement : options.listen;
  cluster.placement_process = ProcessName();
  const uint64_t servers = options.servers != 0     ? options.servers
                           : before.servers.empty() ? kServersDefault
                                                    : before.servers.size();
  cluster.servers.clear();
  for (uint64_t i = 0; i < std::min<uint64_t>(servers, kServersMax + 1); ++i) {
    ServerEntry server;
    server.name = fmt::format("server-{}", i);
    cluster.servers.push_back(server);
  }
  if (options.memory_bytes != 0 || before.memory_bytes == 0) {
    cluster.memory_bytes = options.memory_bytes != 0 ? options.memory_bytes : kMemoryDefault;
  }
  if (options.slab_bytes != 0) {
    cluster.slab_bytes = options.slab_bytes;
  } else if (before.slab_bytes == 0 || cluster.memory_bytes != before.memory_bytes) {
    cluster.slab_bytes = DefaultSlabBytes(cluster.memory_bytes);
  }
  GEMEL_CHECK_GT(cluster.memory_bytes, 0U);
  GEMEL_CHECK_GT(cluster.slab_bytes, 0U);
  if (!options.persist_dir.empty() || options.no_persist) {
    cluster.persist_dir = options.persist_dir;
    cluster.no_persist = options.no_persist;
  }
  cluster.no_keeper = options.no_keeper || before.no_keeper;
  return cluster;
}

std::string SizesOf(const ClusterFile& cluster) {
  return fmt::format("{} servers of {} MiB in slabs of {} MiB", cluster.servers.size(),
                     cluster.memory_bytes >> 20, cluster.slab_bytes >> 20);
}

// A cluster that runs has the sizes and addresses that were asked for.
absl::Status CheckRunning(const UpOptions& options, const ClusterFile& running) {
  const ClusterFile wanted = NewCluster(options, running);
  if (wanted.servers.size() != running.servers.size() ||
      wanted.memory_bytes != running.memory_bytes || wanted.slab_bytes != running.slab_bytes ||
      wanted.placement != running.placement || wanted.persist_dir != running.persist_dir ||
      wanted.no_persist != running.no_persist || wanted.no_keeper != running.no_keeper) {
    return error::FailedPrecondition(
        "a cluster runs below {} ({}; placement at {}) and other sizes or addresses were asked "
        "for; `gemel down --dir {}` stops it first, another --dir starts a second one",
        options.dir, SizesOf(running), running.placement, options.dir);
  }
  return absl::OkStatus();
}

// All at once: servers that come back after a loss may have to wait for each other. True when
// anything was dead.
absl::StatusOr<bool> StartDead(ClusterFile* cluster) {
  const bool placement_dead = !IsAlive(cluster->placement_process);
  std::vector<ServerEntry*> dead;
  bool keeper_dead = false;
  for (ServerEntry& server : cluster->servers) {
    keeper_dead = keeper_dead || (!cluster->no_keeper && !IsAlive(server.keeper));
    if (!IsAlive(server.process)) {
      dead.push_back(&server);
    }
  }
  if (!placement_dead && !keeper_dead && dead.empty()) {
    return false;
  }
  Waiting waiting(fmt::format("starting what is dead: {} servers{}", dead.size(),
                              placement_dead ? " and gemel-placement" : ""));
  if (placement_dead) {
    GEMEL_RETURN_IF_ERROR(StartPlacement(cluster, {}, &waiting));
    GEMEL_RETURN_IF_ERROR(WriteClusterFile(*cluster));
  }
  for (ServerEntry& server : cluster->servers) {
    GEMEL_RETURN_IF_ERROR(LaunchKeeper(cluster, &server));
  }
  for (ServerEntry* server : dead) {
    GEMEL_RETURN_IF_ERROR(LaunchServer(cluster, server));
  }
  for (ServerEntry* server : dead) {
    GEMEL_RETURN_IF_ERROR(AwaitServer(*cluster, server, &waiting));
  }
  GEMEL_RETURN_IF_ERROR(WriteClusterFile(*cluster));
  return true;
}

}  // namespace

absl::StatusOr<UpResult> Up(const UpOptions& options) {
  GEMEL_RETURN_IF_ERROR(CheckOwner(options.dir + "/cluster.json"));
  absl::StatusOr<ClusterFile> before = ReadClusterFile(options.dir);
  if (!options.only_server.empty() || options.only_placement) {
    GEMEL_RETURN_IF_ERROR(before.status());
    GEMEL_ASSIGN_OR_RETURN(ClusterFile restarted,
                           options.only_placement ? RestartPlacement(*before)
                                                  : RestartServer(*before, options.only_server));
    return UpResult{restarted, false};
  }
  if (!before.ok() && before.status().code() != absl::StatusCode::kNotFound) {
    return before.status();
  }
  if (before.ok() && before->AnyAlive()) {
    GEMEL_RETURN_IF_ERROR(CheckRunning(options, *before));
    GEMEL_ASSIGN_OR_RETURN(const bool started, StartDead(&*before));
    return UpResult{*before, !started};
  }
  ClusterFile cluster = NewCluster(options, before.value_or(ClusterFile()));
  GEMEL_RETURN_IF_ERROR(CheckSizes(cluster));
  GEMEL_RETURN_IF_ERROR(MakeFolder(options.dir));
  GEMEL_RETURN_IF_ERROR(WriteClusterFile(cluster));
  if (absl::Status started = StartAll(&cluster); !started.ok()) {
    Waiting waiting("stopping what was started");
    StopDaemons(&cluster, &waiting);
    return started;
  }
  return UpResult{cluster, false};
}

absl::StatusOr<uint32_t> Down(const std::string& dir, bool wipe) {
  GEMEL_RETURN_IF_ERROR(CheckOwner(dir + "/cluster.json"));
  GEMEL_ASSIGN_OR_RETURN(ClusterFile cluster, ReadClusterFile(dir));
  Waiting waiting("stopping the cluster below " + dir);
  const uint32_t ended = StopDaemons(&cluster, &waiting);
  if (wipe) {
    RemoveTree(dir);
    return ended;
  }
  cluster.placement_process = ProcessName();
  for (ServerEntry& server : cluster.servers) {
    server.process = ProcessName();
    server.keeper = ProcessName();
  }
  GEMEL_RETURN_IF_ERROR(WriteClusterFile(cluster));
  return ended;
}

absl::StatusOr<ClusterFile> RecoverPlacement(const std::string& dir, bool accept_loss, bool force) {
  GEMEL_RETURN_IF_ERROR(CheckOwner(dir + "/cluster.json"));
  GEMEL_ASSIGN_OR_RETURN(ClusterFile cluster, ReadClusterFile(dir));
  if (IsAlive(cluster.placement_process) && !force) {
    return error::FailedPrecondition(
        "gemel-placement of {} runs (process {}); recover is for a lost MetaStore. Stop it, or say "
        "--force",
        dir, cluster.placement_process.pid);
  }
  Waiting waiting("recovering placement");
  StopDaemon(cluster.placement_process, &waiting);
  const std::string folder = PlacementFolder(cluster);
  if (Exists(folder)) {
    uint32_t number = 0;
    while (Exists(fmt::format("{}.lost-{}", folder, number))) {
      ++number;
    }
    GEMEL_RETURN_IF_ERROR(MoveAside(folder, fmt::format("{}.lost-{}", folder, number)));
  }
  std::vector<std::string> extra = {"--recover-from-servers"};
  if (accept_loss) {
    extra.emplace_back("--accept-loss");
  }
  GEMEL_RETURN_IF_ERROR(StartPlacement(&cluster, extra, &waiting));
  GEMEL_RETURN_IF_ERROR(WriteClusterFile(cluster));
  return cluster;
}

}  // namespace gemel::cli

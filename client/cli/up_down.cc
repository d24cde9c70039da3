// SPDX-License-Identifier: Apache-2.0
#include "client/cli/up_down.h"

#include <nlohmann/json.hpp>

#include "common/errors.h"
#include "common/status_macros.h"

namespace gemel::cli {
namespace {

constexpr Duration kReadyWithin = 20s;
constexpr Duration kPollEvery = 20ms;
constexpr Duration kStopPatience = 5s;
constexpr size_t kLogLinesShown = 8;
constexpr size_t kSocketPathBytesMax = 107;
constexpr uint32_t kServersMax = 64;
constexpr std::string_view kUnix = "unix://";

std::string PlacementDir(const ClusterFile& cluster) { return cluster.dir + "/placement"; }

std::string ServerDir(const ClusterFile& cluster, const std::string& name) {
  return cluster.dir + "/" + name;
}

absl::StatusOr<nlohmann::json> WaitReady(const std::string& folder, const std::string& what,
                                         const ProcessName& process) {
  const TimePoint deadline = Add(Now(), kReadyWithin);
  while (true) {
    absl::StatusOr<std::string> text = ReadTextFile(folder + "/ready.json");
    if (text.ok()) {
      nlohmann::json json = nlohmann::json::parse(*text, nullptr, false);
      if (json.is_object()) {
        return json;
      }
    }
    const bool alive = IsAlive(process);
    if (!alive || Now() >= deadline) {
      return error::Unavailable("{} {}; its log {}/log ends:{}", what,
                                alive ? "did not get ready in 20 s" : "ended at its start", folder,
                                TailOf(folder + "/log", kLogLinesShown));
    }
    Pause(kPollEvery);
  }
}

absl::Status StartPlacement(ClusterFile* cluster, const std::vector<std::string>& extra) {
  const std::string folder = PlacementDir(*cluster);
  GEMEL_RETURN_IF_ERROR(MakeFolder(folder));
  RemoveTree(folder + "/ready.json");
  GEMEL_ASSIGN_OR_RETURN(std::string programs, ProgramFolder());
  const std::string listen = cluster->placement.empty() ? "127.0.0.1:0" : cluster->placement;
  std::vector<std::string> command = {
      programs + "/gemel-placement", "--dir", folder, "--listen", listen, "--ready-file",
      folder + "/ready.json"};
  command.insert(command.end(), extra.begin(), extra.end());
  GEMEL_ASSIGN_OR_RETURN(cluster->placement_process, StartDetached(command, folder + "/log"));
  GEMEL_ASSIGN_OR_RETURN(nlohmann::json ready,
                         WaitReady(folder, "gemel-placement", cluster->placement_process));
  cluster->placement = ready.value("address", "");
  cluster->cluster = ready.value("cluster_id", cluster->cluster);
  return absl::OkStatus();
}

absl::Status LaunchServer(const ClusterFile& cluster, ServerEntry* server) {
  const std::string folder = ServerDir(cluster, server->name);
  GEMEL_RETURN_IF_ERROR(MakeFolder(folder));
  RemoveTree(folder + "/ready.json");
  const std::string socket = folder + "/server.sock";
  if (socket.size() > kSocketPathBytesMax) {
    return error::InvalidArgument(
        "the socket path {} has {} bytes, the system allows {}: choose a shorter --dir", socket,
        socket.size(), kSocketPathBytesMax);
  }
  server->socket = std::string(kUnix) + socket;
  GEMEL_ASSIGN_OR_RETURN(std::string programs, ProgramFolder());
  const std::string domain = "host-" + server->name.substr(server->name.rfind('-') + 1);
  const std::vector<std::string> command = {programs + "/gemel-server",
                                            "--dir",
                                            folder,
                                            "--name",
                                            server->name,
                                            "--domain",
                                            domain,
                                            "--placement",
                                            cluster.placement,
                                            "--socket",
                                            socket,
                                            "--data-listen",
                                            "tcp://127.0.0.1:0",
                                            "--memory",
                                            std::to_string(cluster.memory_bytes),
                                            "--slab-bytes",
                                            std::to_string(cluster.slab_bytes),
                                            "--ready-file",
                                            folder + "/ready.json"};
  GEMEL_ASSIGN_OR_RETURN(server->process, StartDetached(command, folder + "/log"));
  return absl::OkStatus();
}

absl::Status AwaitServer(const ClusterFile& cluster, ServerEntry* server) {
  GEMEL_ASSIGN_OR_RETURN(
      nlohmann::json ready,
      WaitReady(ServerDir(cluster, server->name), "gemel-server " + server->name, server->process));
  server->id = ready.value("server_id", "");
  server->data_address = ready.value("data_address", "");
  return absl::OkStatus();
}

uint32_t StopAll(ClusterFile* cluster) {
  uint32_t ended = 0;
  for (const ServerEntry& server : cluster->servers) {
    ended += AskToStop(server.process) ? 1 : 0;  // all at once: each may take a second
  }
  for (ServerEntry& server : cluster->servers) {
    StopProcess(server.process, kStopPatience);
    RemoveTree(ServerDir(*cluster, server.name) + "/server.sock");
    RemoveTree(ServerDir(*cluster, server.name) + "/ready.json");
  }
  ended += StopProcess(cluster->placement_process, kStopPatience) ? 1 : 0;
  RemoveTree(PlacementDir(*cluster) + "/ready.json");
  return ended;
}

absl::Status StartAll(ClusterFile* cluster) {
  GEMEL_RETURN_IF_ERROR(StartPlacement(cluster, {}));
  for (ServerEntry& server : cluster->servers) {
    GEMEL_RETURN_IF_ERROR(LaunchServer(*cluster, &server));
  }
  for (ServerEntry& server : cluster->servers) {
    GEMEL_RETURN_IF_ERROR(AwaitServer(*cluster, &server));
  }
  return WriteClusterFile(*cluster);
}

absl::Status CheckMemory(const UpOptions& options) {
  const uint64_t wanted = options.memory_bytes * options.servers;
  const uint64_t there = MachineMemoryBytes();
  if (wanted > there) {
    return error::ResourceExhausted(
        "{} servers of {} MiB are {} MiB; this machine has {} MiB. Lower --memory or --servers",
        options.servers, options.memory_bytes >> 20, wanted >> 20, there >> 20);
  }
  if (options.servers == 0 || options.servers > kServersMax) {
    return error::InvalidArgument("--servers {} must be 1 to {}", options.servers, kServersMax);
  }
  return absl::OkStatus();
}

absl::StatusOr<ClusterFile> RestartServer(ClusterFile cluster, const std::string& name) {
  for (ServerEntry& server : cluster.servers) {
    if (server.name != name) {
      continue;
    }
    if (IsAlive(server.process)) {
      return error::FailedPrecondition("{} runs already (process {})", name, server.process.pid);
    }
    GEMEL_RETURN_IF_ERROR(LaunchServer(cluster, &server));
    GEMEL_RETURN_IF_ERROR(AwaitServer(cluster, &server));
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
  GEMEL_RETURN_IF_ERROR(StartPlacement(&cluster, {}));
  GEMEL_RETURN_IF_ERROR(WriteClusterFile(cluster));
  return cluster;
}

ClusterFile NewCluster(const UpOptions& options, const absl::StatusOr<ClusterFile>& before) {
  ClusterFile cluster;
  cluster.dir = options.dir;
  if (before.ok()) {
    cluster.cluster = before->cluster;
    cluster.placement = before->placement;
  }
  cluster.memory_bytes = options.memory_bytes;
  cluster.slab_bytes = options.slab_bytes;
  for (uint32_t i = 0; i < options.servers; ++i) {
    ServerEntry server;
    server.name = fmt::format("server-{}", i);
    cluster.servers.push_back(server);
  }
  return cluster;
}

}  // namespace

absl::StatusOr<ClusterFile> Up(const UpOptions& options) {
  absl::StatusOr<ClusterFile> before = ReadClusterFile(options.dir);
  if (!options.only_server.empty() || options.only_placement) {
    GEMEL_RETURN_IF_ERROR(before.status());
    return options.only_placement ? RestartPlacement(*before)
                                  : RestartServer(*before, options.only_server);
  }
  if (before.ok() && before->AnyAlive()) {
    return error::FailedPrecondition(
        "a cluster runs below {} (placement at {}); `gemel down --dir {}` stops it", options.dir,
        before->placement, options.dir);
  }
  GEMEL_RETURN_IF_ERROR(CheckMemory(options));
  GEMEL_RETURN_IF_ERROR(MakeFolder(options.dir));
  ClusterFile cluster = NewCluster(options, before);
  // Written before anything runs and after each success: a CLI that is killed leaves no unknown
  // process.
  GEMEL_RETURN_IF_ERROR(WriteClusterFile(cluster));
  if (absl::Status started = StartAll(&cluster); !started.ok()) {
    StopAll(&cluster);
    return started;
  }
  return cluster;
}

absl::StatusOr<uint32_t> Down(const std::string& dir, bool wipe) {
  GEMEL_ASSIGN_OR_RETURN(ClusterFile cluster, ReadClusterFile(dir));
  const uint32_t ended = StopAll(&cluster);
  if (wipe) {
    RemoveTree(dir);
    return ended;
  }
  cluster.placement_process = ProcessName();
  for (ServerEntry& server : cluster.servers) {
    server.process = ProcessName();
  }
  GEMEL_RETURN_IF_ERROR(WriteClusterFile(cluster));
  return ended;
}

absl::StatusOr<ClusterFile> RecoverPlacement(const std::string& dir, bool accept_loss, bool force) {
  GEMEL_ASSIGN_OR_RETURN(ClusterFile cluster, ReadClusterFile(dir));
  if (IsAlive(cluster.placement_process) && !force) {
    return error::FailedPrecondition(
        "gemel-placement of {} runs (process {}); recover is for a lost MetaStore. Stop it, or say "
        "--force",
        dir, cluster.placement_process.pid);
  }
  StopProcess(cluster.placement_process, kStopPatience);
  const std::string folder = PlacementDir(cluster);
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
  GEMEL_RETURN_IF_ERROR(StartPlacement(&cluster, extra));
  GEMEL_RETURN_IF_ERROR(WriteClusterFile(cluster));
  return cluster;
}

}  // namespace gemel::cli

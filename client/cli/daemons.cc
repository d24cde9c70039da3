// SPDX-License-Identifier: Apache-2.0
#include "client/cli/daemons.h"

#include <nlohmann/json.hpp>
#include <optional>

#include "client/cli/host_facts.h"
#include "common/check.h"
#include "common/errors.h"
#include "common/status_macros.h"

namespace gemel::cli {
namespace {

constexpr Duration kReadyWithin = 20s;
constexpr Duration kPollEvery = 20ms;
constexpr Duration kStopPatience = 5s;
constexpr size_t kSocketPathBytesMax = 107;
constexpr size_t kWordsBytesMax = 400;
constexpr std::string_view kUnix = "unix://";
constexpr std::string_view kKeeperSocket = "keeper.sock";

absl::StatusOr<nlohmann::json> WaitReady(const std::string& folder, const std::string& what,
                                         const ProcessName& process, Waiting* waiting) {
  GEMEL_CHECK(waiting != nullptr && !folder.empty());
  const TimePoint began = Now();
  while (true) {
    absl::StatusOr<std::string> text = ReadTextFile(folder + "/ready.json");
    if (text.ok()) {
      nlohmann::json json = nlohmann::json::parse(*text, nullptr, false);
      if (json.is_object()) {
        return json;
      }
    }
    if (!IsAlive(process)) {
      return error::Unavailable("{} ended at its start: {}\n  its log: {}/log", what,
                                LastWords(folder + "/log"), folder);
    }
    const Duration waited = Now() - began;
    if (waited >= kReadyWithin) {
      return error::Unavailable(
          "{} did not get ready in 20 s; the last it said: {}\n  its log: {}/log", what,
          LastWords(folder + "/log"), folder);
    }
    waiting->Show(0, 0, what);
    Pause(kPollEvery);
  }
}

absl::Status CheckPort(const std::string& address) {
  const uint16_t port = PortOf(address);
  const std::optional<PortHolder> holder = port == 0 ? std::nullopt : HolderOfPort(port);
  if (!holder.has_value()) {
    return absl::OkStatus();
  }
  return error::FailedPrecondition(
      "port {} of gemel-placement is taken by {}; end that, or take another: `gemel up --listen "
      "127.0.0.1:PORT`",
      port, Describe(*holder));
}

std::vector<std::string> PersistFlags(const ClusterFile& cluster, const std::string& server) {
  if (cluster.no_persist) {
    return {"--persist-dir", ""};
  }
  if (cluster.persist_dir.empty()) {
    return {};
  }
  return {"--persist-dir", fmt::format("{}/{}", cluster.persist_dir, server)};
}

absl::StatusOr<std::string> SocketPath(const std::string& folder, std::string_view name) {
  std::string socket = fmt::format("{}/{}", folder, name);
  if (socket.size() > kSocketPathBytesMax) {
    return error::InvalidArgument(
        "the socket path {} has {} bytes, the system allows {}: choose a shorter --dir", socket,
        socket.size(), kSocketPathBytesMax);
  }
  return socket;
}

}  // namespace

std::string PlacementFolder(const ClusterFile& cluster) { return cluster.dir + "/placement"; }

std::string ServerFolder(const ClusterFile& cluster, const std::string& name) {
  return cluster.dir + "/" + name;
}

std::string LastWords(const std::string& log) {
  std::string words = TailOf(log, 1);
  words = words.substr(std::min(words.find_first_not_of("\n "), words.size()));
  for (const std::string_view name : {"gemel-server: ", "gemel-placement: "}) {
    words = words.starts_with(name) ? words.substr(name.size()) : words;
  }
  return words.empty() ? "nothing" : words.substr(0, kWordsBytesMax);
}

absl::Status StartPlacement(ClusterFile* cluster, const std::vector<std::string>& extra,
                            Waiting* waiting) {
  GEMEL_CHECK(!cluster->dir.empty());
  GEMEL_CHECK(!IsAlive(cluster->placement_process)) << cluster->placement_process.pid;
  const std::string folder = PlacementFolder(*cluster);
  GEMEL_RETURN_IF_ERROR(MakeFolder(folder));
  RemoveTree(folder + "/ready.json");
  GEMEL_ASSIGN_OR_RETURN(std::string programs, ProgramFolder());
  const std::string listen = cluster->placement.empty() ? "127.0.0.1:0" : cluster->placement;
  GEMEL_RETURN_IF_ERROR(CheckPort(listen));
  std::vector<std::string> command = {
      programs + "/gemel-placement", "--dir", folder, "--listen", listen, "--ready-file",
      folder + "/ready.json"};
  command.insert(command.end(), extra.begin(), extra.end());
  GEMEL_ASSIGN_OR_RETURN(cluster->placement_process, StartDetached(command, folder + "/log"));
  GEMEL_RETURN_IF_ERROR(WriteClusterFile(*cluster));
  GEMEL_ASSIGN_OR_RETURN(nlohmann::json ready,
                         WaitReady(folder, "gemel-placement", cluster->placement_process, waiting));
  cluster->placement = ready.value("address", "");
  cluster->cluster = ready.value("cluster_id", cluster->cluster);
  return absl::OkStatus();
}

// Its server waits for its socket.
absl::Status LaunchKeeper(ClusterFile* cluster, ServerEntry* server) {
  if (cluster->no_keeper || IsAlive(server->keeper)) {
    return absl::OkStatus();
  }
  const std::string folder = ServerFolder(*cluster, server->name);
  GEMEL_RETURN_IF_ERROR(MakeFolder(folder));
  GEMEL_ASSIGN_OR_RETURN(const std::string socket, SocketPath(folder, kKeeperSocket));
  GEMEL_ASSIGN_OR_RETURN(const std::string programs, ProgramFolder());
  GEMEL_ASSIGN_OR_RETURN(
      server->keeper,
      StartDetached({programs + "/gemel-keeper", "--socket", socket}, folder + "/keeper.log"));
  return WriteClusterFile(*cluster);
}

absl::Status LaunchServer(ClusterFile* cluster, ServerEntry* server) {
  GEMEL_CHECK(!IsAlive(server->process)) << server->name << " runs already";
  GEMEL_CHECK(!cluster->placement.empty()) << "servers start after placement";
  GEMEL_CHECK_GT(cluster->memory_bytes, 0U) << server->name;
  GEMEL_CHECK_GT(cluster->slab_bytes, 0U) << server->name;
  const std::string folder = ServerFolder(*cluster, server->name);
  GEMEL_RETURN_IF_ERROR(MakeFolder(folder));
  RemoveTree(folder + "/ready.json");
  GEMEL_ASSIGN_OR_RETURN(const std::string socket, SocketPath(folder, "server.sock"));
  GEMEL_RETURN_IF_ERROR(LaunchKeeper(cluster, server));
  server->socket = std::string(kUnix) + socket;
  GEMEL_ASSIGN_OR_RETURN(std::string programs, ProgramFolder());
  const std::string domain = "host-" + server->name.substr(server->name.rfind('-') + 1);
  std::vector<std::string> command = {programs + "/gemel-server",
                                      "--dir",
                                      folder,
                                      "--name",
                                      server->name,
                                      "--domain",
                                      domain,
                                      "--placement",
                                      cluster->placement,
                                      "--socket",
                                      socket,
                                      "--memory",
                                      std::to_string(cluster->memory_bytes),
                                      "--slab-bytes",
                                      std::to_string(cluster->slab_bytes),
                                      "--ready-file",
                                      folder + "/ready.json"};
  if (const std::string settings = cluster->dir + "/gemel.toml"; Exists(settings)) {
    command.insert(command.end(), {"--config", settings});
  }
  const std::vector<std::string> persist = PersistFlags(*cluster, server->name);
  command.insert(command.end(), persist.begin(), persist.end());
  if (!cluster->no_keeper) {
    command.insert(command.end(),
                   {"--keeper", fmt::format("{}{}/{}", kUnix, folder, kKeeperSocket)});
  }
  GEMEL_ASSIGN_OR_RETURN(server->process, StartDetached(command, folder + "/log"));
  return WriteClusterFile(*cluster);
}

absl::Status AwaitServer(const ClusterFile& cluster, ServerEntry* server, Waiting* waiting) {
  GEMEL_ASSIGN_OR_RETURN(nlohmann::json ready,
                         WaitReady(ServerFolder(cluster, server->name),
                                   "gemel-server " + server->name, server->process, waiting));
  server->id = ready.value("server_id", "");
  server->data_address = ready.value("data_address", "");
  return absl::OkStatus();
}

bool StopDaemon(const ProcessName& process, Waiting* waiting) {
  if (!AskToStop(process)) {
    return false;
  }
  const TimePoint give_up = Add(Now(), kStopPatience);
  while (IsAlive(process)) {
    if (Now() >= give_up) {
      Kill(process);
    }
    waiting->Show(0, 0, fmt::format("process {}", process.pid));
    Pause(kPollEvery);
  }
  return true;
}

uint32_t StopDaemons(ClusterFile* cluster, Waiting* waiting) {
  uint32_t ended = 0;
  for (const ServerEntry& server : cluster->servers) {
    ended += AskToStop(server.process) ? 1 : 0;  // all at once: each may take a second
  }
  for (ServerEntry& server : cluster->servers) {
    StopDaemon(server.process, waiting);
    RemoveTree(ServerFolder(*cluster, server.name) + "/server.sock");
    RemoveTree(ServerFolder(*cluster, server.name) + "/ready.json");
  }
  for (const ServerEntry& server : cluster->servers) {
    ended += AskToStop(server.keeper) ? 1 : 0;
  }
  for (ServerEntry& server : cluster->servers) {
    StopDaemon(server.keeper, waiting);
    RemoveTree(fmt::format("{}/{}", ServerFolder(*cluster, server.name), kKeeperSocket));
  }
  ended += StopDaemon(cluster->placement_process, waiting) ? 1 : 0;
  RemoveTree(PlacementFolder(*cluster) + "/ready.json");
  return ended;
}

}  // namespace gemel::cli

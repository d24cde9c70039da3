// SPDX-License-Identifier: Apache-2.0
#include "client/cli/cluster_file.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "common/errors.h"
#include "common/status_macros.h"

namespace gemel::cli {
namespace {

constexpr int kFileVersion = 1;

nlohmann::json ToJsonOf(const ProcessName& process) {
  return {{"pid", process.pid}, {"start_ticks", process.start_ticks}};
}

ProcessName ProcessOf(const nlohmann::json& json) {
  return {json.value("pid", 0), json.value("start_ticks", uint64_t{0})};
}

ServerEntry ServerOf(const nlohmann::json& json) {
  ServerEntry server;
  server.name = json.value("name", "");
  server.id = json.value("id", "");
  server.socket = json.value("socket", "");
  server.data_address = json.value("data_address", "");
  server.process = ProcessOf(json.value("process", nlohmann::json::object()));
  server.keeper = ProcessOf(json.value("keeper", nlohmann::json::object()));
  return server;
}

}  // namespace

bool ClusterFile::AnyAlive() const {
  return IsAlive(placement_process) ||
         std::any_of(servers.begin(), servers.end(), [](const ServerEntry& server) {
           return IsAlive(server.process) || IsAlive(server.keeper);
         });
}

std::string ClusterFile::Address() const {
  std::string address;
  for (const ServerEntry& server : servers) {
    address += (address.empty() ? "" : ",") + server.socket;
  }
  return address;
}

std::string ClusterFile::ToJson() const {
  nlohmann::ordered_json json;
  json["version"] = kFileVersion;
  json["cluster"] = cluster;
  json["dir"] = dir;
  json["placement"] = placement;
  json["address"] = Address();
  json["memory_bytes"] = memory_bytes;
  json["slab_bytes"] = slab_bytes;
  json["persist_dir"] = persist_dir;
  json["no_persist"] = no_persist;
  json["no_keeper"] = no_keeper;
  json["placement_process"] = ToJsonOf(placement_process);
  nlohmann::ordered_json pids = {{"placement", placement_process.pid},
                                 {"servers", nlohmann::ordered_json::array()}};
  for (const ServerEntry& server : servers) {
    pids["servers"].push_back({{"id", server.id},
                               {"name", server.name},
                               {"pid", server.process.pid},
                               {"socket", server.socket},
                               {"data_address", server.data_address},
                               {"process", ToJsonOf(server.process)},
                               {"keeper", ToJsonOf(server.keeper)}});
  }
  json["pids"] = pids;
  return json.dump(2);
}

absl::StatusOr<ClusterFile> ReadClusterFile(const std::string& dir) {
  const std::string path = dir + "/cluster.json";
  absl::StatusOr<std::string> text = ReadTextFile(path);
  if (text.status().code() == absl::StatusCode::kNotFound) {
    return error::NotFound("no cluster below {}; `gemel up --dir {}` starts one", dir, dir);
  }
  GEMEL_RETURN_IF_ERROR(text.status());
  const nlohmann::json json = nlohmann::json::parse(*text, nullptr, false);
  if (json.is_discarded() || !json.is_object() || !json.contains("version") ||
      !json["version"].is_number_integer()) {
    return error::FailedPrecondition(
        "{} is damaged; end the processes that `pgrep -af {}` shows, then remove the folder", path,
        dir);
  }
  if (json["version"].get<int64_t>() != kFileVersion) {
    return error::FailedPrecondition(
        "{} has format {}, this gemel ({}) knows format {}; use the gemel that made it to `down` "
        "it, "
        "or another --dir",
        path, json["version"].get<int64_t>(), GEMEL_VERSION, kFileVersion);
  }
  ClusterFile cluster;
  cluster.dir = dir;
  cluster.cluster = json.value("cluster", "");
  cluster.placement = json.value("placement", "");
  cluster.memory_bytes = json.value("memory_bytes", uint64_t{0});
  cluster.slab_bytes = json.value("slab_bytes", uint64_t{0});
  cluster.persist_dir = json.value("persist_dir", "");
  cluster.no_persist = json.value("no_persist", false);
  cluster.no_keeper = json.value("no_keeper", false);
  cluster.placement_process = ProcessOf(json.value("placement_process", nlohmann::json::object()));
  const nlohmann::json pids = json.value("pids", nlohmann::json::object());
  for (const nlohmann::json& server : pids.value("servers", nlohmann::json::array())) {
    cluster.servers.push_back(ServerOf(server));
  }
  return cluster;
}

absl::Status WriteClusterFile(const ClusterFile& cluster) {
  return WriteTextFile(cluster.dir + "/cluster.json", cluster.ToJson() + "\n");
}

}  // namespace gemel::cli

// SPDX-License-Identifier: Apache-2.0
#include <nlohmann/json.hpp>

#include "client/cli/commands.h"
#include "client/cli/doctor.h"
#include "client/cli/doctor_facts.h"
#include "client/cli/exit_codes.h"
#include "client/cli/table.h"
#include "client/cli/waiting.h"
#include "common/bytes.h"
#include "common/check.h"
#include "common/errors.h"
#include "common/slab_size.h"
#include "common/status_macros.h"

namespace gemel::cli {

const char* LevelText(Level level) {
  switch (level) {
    case Level::kOk:
      return "ok";
    case Level::kWarn:
      return "warn";
    case Level::kFail:
      return "fail";
  }
  GEMEL_CHECK(false) << static_cast<int>(level);
  return "";
}

namespace {

using Json = nlohmann::ordered_json;

constexpr uint32_t kServersDefault = 3;

struct Group {
  const char* name;
  Findings findings;
};

// Sizes: of the flags, then of the cluster, then the defaults.
absl::StatusOr<MemoryFacts> WantedMemory(const Flags& flags, const ClusterFile* cluster) {
  MemoryFacts facts;
  facts.servers = cluster != nullptr && !cluster->servers.empty()
                      ? static_cast<uint32_t>(cluster->servers.size())
                      : kServersDefault;
  facts.memory_bytes =
      cluster != nullptr && cluster->memory_bytes != 0 ? cluster->memory_bytes : kGiB;
  if (cluster != nullptr && cluster->AnyAlive()) {
    facts.held_bytes = facts.memory_bytes * facts.servers;
  }
  if (flags.cluster.servers != 0) {
    facts.servers = flags.cluster.servers;
  }
  if (!flags.cluster.memory.empty()) {
    GEMEL_ASSIGN_OR_RETURN(facts.memory_bytes, ParseBytes(flags.cluster.memory));
  }
  return facts;
}

void AskPlacement(const Flags& flags, const std::string& address, ClusterFacts* facts) {
  facts->placement = address;
  absl::StatusOr<std::unique_ptr<PlacementClient>> placement = PlacementOf(flags);
  absl::StatusOr<Json> status =
      placement.ok() ? QueryStatus(placement->get()) : absl::StatusOr<Json>(placement.status());
  if (!status.ok()) {
    facts->placement_error = MessageOf(status.status());
    return;
  }
  facts->placement_answers = true;
  for (const Json& server : (*status)["servers"]) {
    facts->servers.emplace_back(server["name"], server["state"]);
  }
  for (const Json& warning : (*status)["warnings"]) {
    facts->warnings.push_back(warning);
  }
}

ClusterFacts ReadClusterFacts(const Flags& flags, const absl::StatusOr<ClusterFile>& cluster) {
  ClusterFacts facts;
  facts.dir = flags.dir;
  facts.own_user = OwnUser();
  facts.known = cluster.ok();
  if (!cluster.ok() && cluster.status().code() != absl::StatusCode::kNotFound) {
    facts.problem = MessageOf(cluster.status());
  }
  facts.stopped = cluster.ok() && !cluster->AnyAlive() && flags.placement.empty();
  if (!flags.address.empty()) {
    facts.sockets.push_back(ReadSocketFacts(flags.address));
  } else if (cluster.ok() && !facts.stopped) {
    for (const ServerEntry& server : cluster->servers) {
      facts.sockets.push_back(ReadSocketFacts(server.socket));
    }
  }
  if (!flags.placement.empty()) {
    AskPlacement(flags, flags.placement, &facts);
  } else if (cluster.ok() && !facts.stopped) {
    AskPlacement(flags, cluster->placement, &facts);
  }
  return facts;
}

absl::StatusOr<std::vector<Group>> Examine(const Flags& flags) {
  Waiting waiting("examining");
  const absl::StatusOr<ClusterFile> file = ReadClusterFile(flags.dir);
  const ClusterFile* cluster = file.ok() ? &*file : nullptr;
  GEMEL_ASSIGN_OR_RETURN(MemoryFacts memory, WantedMemory(flags, cluster));
  ReadMemoryFacts(&memory);
  waiting.Show(1, 6, "memory");
  const uint64_t slab_bytes = cluster != nullptr && cluster->slab_bytes != 0
                                  ? cluster->slab_bytes
                                  : DefaultSlabBytes(memory.memory_bytes);
  const KernelFacts kernel = ReadKernelFacts(memory.memory_bytes / slab_bytes);
  const NetworkFacts network = ReadNetworkFacts();
  waiting.Show(3, 6, "disk");
  DiskFacts disk = ReadDiskFacts(flags.dir);
  disk.state_bytes = memory.memory_bytes * memory.servers;
  waiting.Show(4, 6, "versions");
  const VersionFacts versions = ReadVersionFacts(cluster);
  waiting.Show(5, 6, "cluster");
  const ClusterFacts facts = ReadClusterFacts(flags, file);
  return std::vector<Group>{
      {"memory", CheckMemory(memory)},       {"kernel", CheckKernel(kernel)},
      {"network", CheckNetwork(network)},    {"disk", CheckDisk(disk)},
      {"versions", CheckVersions(versions)}, {"cluster", CheckCluster(facts)}};
}

std::string TextOf(const std::vector<Group>& groups, uint32_t warnings, uint32_t failures) {
  std::string text;
  for (const Group& group : groups) {
    text += fmt::format("{}\n", group.name);
    for (const Finding& finding : group.findings) {
      text +=
          fmt::format("  {:<4}  {}: {}\n", LevelText(finding.level), finding.check, finding.found);
      if (!finding.mend.empty()) {
        text += fmt::format("        mend: {}\n", finding.mend);
      }
    }
  }
  return text + fmt::format("{} failures, {} warnings\n", failures, warnings);
}

}  // namespace

absl::StatusOr<int> RunDoctor(const Flags& flags) {
  GEMEL_ASSIGN_OR_RETURN(const std::vector<Group> groups, Examine(flags));
  uint32_t warnings = 0;
  uint32_t failures = 0;
  Json checks = Json::array();
  for (const Group& group : groups) {
    for (const Finding& finding : group.findings) {
      GEMEL_CHECK_EQ(finding.level == Level::kOk, finding.mend.empty()) << finding.check;
      warnings += finding.level == Level::kWarn ? 1 : 0;
      failures += finding.level == Level::kFail ? 1 : 0;
      checks.push_back({{"group", group.name},
                        {"check", finding.check},
                        {"level", LevelText(finding.level)},
                        {"found", finding.found},
                        {"mend", finding.mend}});
    }
  }
  const Json value = {{"checks", checks}, {"failures", failures}, {"warnings", warnings}};
  GEMEL_RETURN_IF_ERROR(Print(flags, value, TextOf(groups, warnings, failures)));
  return failures > 0 ? kExitRefused : kExitDone;
}

}  // namespace gemel::cli

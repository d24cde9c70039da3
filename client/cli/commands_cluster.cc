// SPDX-License-Identifier: Apache-2.0
#include <nlohmann/json.hpp>

#include "client/cli/commands.h"
#include "client/cli/table.h"
#include "client/cli/up_down.h"
#include "client/cli/waiting.h"
#include "common/errors.h"
#include "common/status_macros.h"

namespace gemel::cli {
namespace {

using Json = nlohmann::ordered_json;

constexpr Duration kRecoverEvery = 100ms;
constexpr int kRecoverLooksMax = 80;  // placement waits 2 s for members that are merely slower

absl::StatusOr<UpOptions> UpOptionsOf(const Flags& flags) {
  const ClusterFlags& given = flags.cluster;
  UpOptions options;
  options.dir = flags.dir;
  options.servers = given.servers;
  if (!given.memory.empty()) {
    GEMEL_ASSIGN_OR_RETURN(options.memory_bytes, ParseBytes(given.memory));
  }
  if (!given.slab_bytes.empty()) {
    GEMEL_ASSIGN_OR_RETURN(options.slab_bytes, ParseBytes(given.slab_bytes));
  }
  if (given.no_persist && !given.persist_dir.empty()) {
    return error::InvalidArgument("--persist-dir and --no-persist exclude one another");
  }
  options.listen = given.listen;
  options.persist_dir = given.persist_dir;
  options.no_persist = given.no_persist;
  options.no_keeper = given.no_keeper;
  options.only_server = given.only_server;
  options.only_placement = given.only_placement;
  return options;
}

std::string UpTable(const UpResult& up) {
  const ClusterFile& cluster = up.cluster;
  return fmt::format(
      "cluster {} is up{}: {} servers of {} MiB, placement at {}\n"
      "  use it:   export GEMEL_ADDRESS={}\n"
      "  look:     gemel status --dir {}\n"
      "  stop it:  gemel down --dir {}\n",
      cluster.cluster.substr(0, 8), up.was_up ? " already" : "", cluster.servers.size(),
      cluster.memory_bytes >> 20, cluster.placement, cluster.Address(), cluster.dir, cluster.dir);
}

// Unavailable with what placement waits for when it does not serve in time. It goes on listening.
absl::Status AwaitServing(PlacementClient* placement, const std::string& address) {
  Waiting waiting("waiting for what the servers report");
  for (int look = 0; look < kRecoverLooksMax; ++look) {
    if (QueryJobs(placement).ok()) {
      return absl::OkStatus();
    }
    waiting.Show(0, 0, address);
    Pause(kRecoverEvery);
  }
  GEMEL_ASSIGN_OR_RETURN(Json status, QueryStatus(placement));
  std::string why;
  for (const Json& warning : status["warnings"]) {
    why += (why.empty() ? "" : "; ") + warning.get<std::string>();
  }
  return error::Unavailable("placement listens at {} and does not serve yet: {}", address, why);
}

}  // namespace

absl::StatusOr<UpResult> UpWith(const Flags& flags) {
  GEMEL_ASSIGN_OR_RETURN(UpOptions options, UpOptionsOf(flags));
  return Up(options);
}

absl::Status RunUp(const Flags& flags) {
  GEMEL_ASSIGN_OR_RETURN(UpResult up, UpWith(flags));
  return Print(flags, Json::parse(up.cluster.ToJson()), UpTable(up));
}

absl::Status RunDown(const Flags& flags) {
  GEMEL_ASSIGN_OR_RETURN(uint32_t ended, Down(flags.dir, flags.wipe));
  return Print(flags, Json{{"ended", ended}},
               fmt::format("{} processes of {} ended\n", ended, flags.dir));
}

absl::Status RunRecover(const Flags& flags) {
  GEMEL_ASSIGN_OR_RETURN(ClusterFile cluster,
                         RecoverPlacement(flags.dir, flags.accept_loss, flags.force));
  GEMEL_ASSIGN_OR_RETURN(std::unique_ptr<PlacementClient> placement,
                         PlacementClient::Make(cluster.placement));
  GEMEL_RETURN_IF_ERROR(AwaitServing(placement.get(), cluster.placement));
  return Print(
      flags, Json::parse(cluster.ToJson()),
      fmt::format("placement serves at {} from what the servers reported; the old MetaStore was "
                  "moved aside\n",
                  cluster.placement));
}

}  // namespace gemel::cli

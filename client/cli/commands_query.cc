// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "client/cli/commands.h"
#include "client/cli/suggest.h"
#include "client/cli/table.h"
#include "client/cli/waiting.h"
#include "common/errors.h"
#include "common/status_macros.h"

namespace gemel::cli {
namespace {

using Json = nlohmann::ordered_json;

constexpr Duration kWatchEvery = 500ms;

std::string StatusTable(const Json& status) {
  std::string text =
      fmt::format("cluster {}  generation {}  map {}  jobs {}\n",
                  status["cluster"].get<std::string>().substr(0, 8), status["generation"].dump(),
                  status["map_version"].dump(), status["jobs"].dump());
  text += TableOf(status["servers"], {"name", "state", "domain", "data_address", "used_bytes",
                                      "capacity_bytes", "incarnation"});
  for (const Json& warning : status["warnings"]) {
    text += "warning: " + warning.get<std::string>() + "\n";
  }
  return text;
}

// Values of `key` in a list of objects.
std::vector<std::string> NamesIn(const Json& list, const char* key) {
  std::vector<std::string> names;
  for (const Json& row : list) {
    names.push_back(row.value(key, ""));
  }
  return names;
}

// A job that was begun under this name and never committed: a typing error of the training script
// looks like that.
std::string NothingYet(PlacementClient* placement, const std::string& job) {
  const absl::StatusOr<Json> jobs = QueryJobs(placement);
  std::vector<std::string> others;
  for (const Json& one : jobs.ok() ? (*jobs)["jobs"] : Json::array()) {
    if (one["job"] != job && !one["latest"].get<std::string>().empty()) {
      others.push_back(one["job"]);
    }
  }
  return fmt::format("job {} has no snapshot yet{}; `gemel jobs` lists all\n", job,
                     DidYouMean(job, others));
}

}  // namespace

absl::Status Print(const Flags& flags, const Json& value, const std::string& table) {
  std::fputs((flags.json() ? value.dump(2) + "\n" : table).c_str(), stdout);
  std::fflush(stdout);
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<PlacementClient>> PlacementOf(const Flags& flags) {
  if (!flags.placement.empty()) {
    return PlacementClient::Make(flags.placement);
  }
  GEMEL_ASSIGN_OR_RETURN(ClusterFile cluster, ReadClusterFile(flags.dir));
  if (!cluster.AnyAlive()) {
    return error::Unavailable("the cluster below {} does not run; `gemel up --dir {}` starts it",
                              flags.dir, flags.dir);
  }
  if (!IsAlive(cluster.placement_process)) {
    return error::Unavailable(
        "gemel-placement of {} is dead (was process {}); `gemel up --placement --dir {}` starts it "
        "again, {}/placement/log says why it ended",
        flags.dir, cluster.placement_process.pid, flags.dir, flags.dir);
  }
  return PlacementClient::Make(cluster.placement);
}

absl::Status WithSuggestion(const absl::Status& status, PlacementClient* placement,
                            const JobAndName& what) {
  if (status.code() != absl::StatusCode::kNotFound) {
    return status;
  }
  const absl::StatusOr<Json> jobs = QueryJobs(placement);
  if (!jobs.ok()) {
    return status;
  }
  const std::vector<std::string> names = NamesIn((*jobs)["jobs"], "job");
  if (std::find(names.begin(), names.end(), what.job) == names.end()) {
    return error::NotFound("{}{}", MessageOf(status), DidYouMean(what.job, names));
  }
  const absl::StatusOr<Json> snapshots = QuerySnapshots(placement, what.job);
  if (!snapshots.ok()) {
    return status;
  }
  return error::NotFound("{}{}", MessageOf(status),
                         DidYouMean(what.name, NamesIn((*snapshots)["snapshots"], "name")));
}

absl::Status RunStatus(const Flags& flags) {
  GEMEL_ASSIGN_OR_RETURN(std::unique_ptr<PlacementClient> placement, PlacementOf(flags));
  while (true) {
    GEMEL_ASSIGN_OR_RETURN(Json status, QueryStatus(placement.get()));
    GEMEL_RETURN_IF_ERROR(Print(flags, status, StatusTable(status)));
    if (!flags.watch) {
      return absl::OkStatus();
    }
    Pause(kWatchEvery);
  }
}

absl::Status RunJobs(const Flags& flags) {
  GEMEL_ASSIGN_OR_RETURN(std::unique_ptr<PlacementClient> placement, PlacementOf(flags));
  GEMEL_ASSIGN_OR_RETURN(Json jobs, QueryJobs(placement.get()));
  return Print(flags, jobs,
               TableOf(jobs["jobs"], {"job", "epoch", "snapshots", "latest", "persisted",
                                      "latest_bytes", "world_size"}));
}

absl::Status RunSnapshots(const Flags& flags) {
  GEMEL_ASSIGN_OR_RETURN(std::unique_ptr<PlacementClient> placement, PlacementOf(flags));
  absl::StatusOr<Json> snapshots = QuerySnapshots(placement.get(), flags.target);
  if (!snapshots.ok()) {
    return WithSuggestion(snapshots.status(), placement.get(), {flags.target, ""});
  }
  if ((*snapshots)["snapshots"].empty()) {
    return Print(flags, *snapshots, NothingYet(placement.get(), flags.target));
  }
  return Print(
      flags, *snapshots,
      TableOf((*snapshots)["snapshots"],
              {"name", "state", "epoch", "sequence", "attempt", "world_size", "bytes", "copies_now",
               "copies_wanted", "in_memory", "persisted", "latest", "detail"}));
}

absl::Status RunVerify(const Flags& flags) {
  GEMEL_ASSIGN_OR_RETURN(std::unique_ptr<PlacementClient> placement, PlacementOf(flags));
  const JobAndName what = SplitJobAndName(flags.target);
  absl::StatusOr<Json> result = Json();
  {
    Waiting waiting(fmt::format("verifying {}", flags.target));
    placement->WhileWaiting([&waiting] { waiting.Show(0, 0, "every copy is hashed again"); });
    result = QueryVerify(placement.get(), what);
    placement->WhileWaiting(nullptr);
  }
  if (!result.ok()) {
    return WithSuggestion(result.status(), placement.get(), what);
  }
  const auto bad = (*result)["bad"].get<uint32_t>();
  GEMEL_RETURN_IF_ERROR(
      Print(flags, *result, TableOf((*result)["copies"], {"rank", "server", "good", "why"})));
  if (bad != 0 || !(*result)["complete"].get<bool>()) {
    return error::DataLoss("{} of {} copies of {} are not good", bad, (*result)["copies"].size(),
                           flags.target);
  }
  return absl::OkStatus();
}

absl::Status RunRemove(const Flags& flags) {
  if (!flags.yes) {
    return error::FailedPrecondition("removing {} cannot be undone; say --yes", flags.target);
  }
  GEMEL_ASSIGN_OR_RETURN(std::unique_ptr<PlacementClient> placement, PlacementOf(flags));
  const JobAndName what = SplitJobAndName(flags.target);
  absl::StatusOr<Json> result = RemoveSnapshots(placement.get(), what);
  if (!result.ok()) {
    return WithSuggestion(result.status(), placement.get(), what);
  }
  return Print(flags, *result, fmt::format("{} snapshots removed\n", (*result)["removed"].dump()));
}

absl::Status RunExplain(const Flags& flags) {
  GEMEL_ASSIGN_OR_RETURN(std::unique_ptr<PlacementClient> placement, PlacementOf(flags));
  const JobAndName what = SplitJobAndName(flags.target);
  absl::StatusOr<Json> result = QueryExplain(placement.get(), what, flags);
  if (!result.ok()) {
    return WithSuggestion(result.status(), placement.get(), what);
  }
  std::string text;
  for (const Json& line : (*result)["lines"]) {
    text += line.get<std::string>() + "\n";
  }
  return Print(flags, *result, text);
}

}  // namespace gemel::cli

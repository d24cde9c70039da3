// SPDX-License-Identifier: Apache-2.0
#include <nlohmann/json.hpp>

#include "client/cli/commands.h"
#include "client/cli/waiting.h"
#include "common/bytes.h"
#include "common/check.h"
#include "common/errors.h"
#include "common/status_macros.h"

namespace gemel::cli {
namespace {

double MebibytesOf(uint64_t bytes) {
  return static_cast<double>(bytes) / static_cast<double>(kMiB);
}

std::string TitleOf(const JobAndName& what) {
  return what.name.empty() ? what.job : fmt::format("{}@{}", what.job, what.name);
}

// Placement names the snapshot and why it gave up; the way out is ours.
absl::Status GivenUp(const absl::Status& why, const JobAndName& what) {
  return why.code() == absl::StatusCode::kFailedPrecondition
             ? error::FailedPrecondition(
                   "{}; it stays in memory, `gemel status` says how the tier is, and `gemel "
                   "persist "
                   "{}` tries again",
                   MessageOf(why), TitleOf(what))
             : why;
}

}  // namespace

absl::StatusOr<PersistResult> Persist(PlacementClient* placement, const JobAndName& what,
                                      Duration patience) {
  Waiting waiting(fmt::format("persisting {}", TitleOf(what)));
  GEMEL_CHECK(patience >= Duration::zero());
  uint64_t most = 0;
  TimePoint moved = Now();
  while (true) {
    absl::StatusOr<PersistStep> step = PersistOnce(placement, what);
    if (!step.ok()) {
      return GivenUp(WithSuggestion(step.status(), placement, what), what);
    }
    if (step->done) {
      return PersistResult{step->name, step->bytes, step->shards};
    }
    waiting.Show(step->bytes_done, step->bytes,
                 fmt::format("{} of {} shards {}", step->shards_done, step->shards, step->detail));
    const uint64_t now_done = step->bytes_done + step->shards_done;
    moved = now_done > most ? Now() : moved;
    most = std::max(most, now_done);
    if (Now() - moved > patience) {
      return error::DeadlineExceeded(
          "{}@{}: {} of {} shards are on disk and none followed for {} s: {}. It goes on in the "
          "background; `gemel status` names the tier's trouble",
          what.job, step->name, step->shards_done, step->shards,
          std::chrono::duration_cast<std::chrono::seconds>(patience).count(),
          step->detail.empty() ? "the disks are slow" : step->detail);
    }
  }
}

absl::Status RunPersist(const Flags& flags) {
  GEMEL_ASSIGN_OR_RETURN(std::unique_ptr<PlacementClient> placement, PlacementOf(flags));
  const JobAndName what = SplitJobAndName(flags.target);
  GEMEL_ASSIGN_OR_RETURN(PersistResult done,
                         Persist(placement.get(), what, std::chrono::seconds(flags.patience_s)));
  return Print(
      flags,
      nlohmann::ordered_json{
          {"job", what.job}, {"name", done.name}, {"shards", done.shards}, {"bytes", done.bytes}},
      fmt::format("{}@{} is on disk: {} shards, {:.1f} MiB\n", what.job, done.name, done.shards,
                  MebibytesOf(done.bytes)));
}

}  // namespace gemel::cli

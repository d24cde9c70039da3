// SPDX-License-Identifier: Apache-2.0
//
// The commands: each does one thing for the flags it was given and prints to standard output, as a
// table or as JSON. Errors name the thing and the way out; ExitCodeOf() gives the exit code.
//
// Thread safety: one thread.
#pragma once

#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "absl/status/statusor.h"

#include "client/cli/flags.h"
#include "client/cli/queries.h"
#include "client/cli/up_down.h"

namespace gemel::cli {

// A cluster on this machine.
absl::Status RunUp(const Flags& flags);
absl::Status RunDown(const Flags& flags);
absl::Status RunRecover(const Flags& flags);
// The exit code of its command, or the error of what surrounds it.
absl::StatusOr<int> RunRun(const Flags& flags);
// kExitRefused when a check fails.
absl::StatusOr<int> RunDoctor(const Flags& flags);

// Questions to placement.
absl::Status RunStatus(const Flags& flags);
absl::Status RunJobs(const Flags& flags);
absl::Status RunSnapshots(const Flags& flags);
absl::Status RunVerify(const Flags& flags);
absl::Status RunRemove(const Flags& flags);
absl::Status RunExplain(const Flags& flags);
absl::Status RunPersist(const Flags& flags);
absl::Status RunRepair(const Flags& flags);
absl::Status RunDrain(const Flags& flags);

// ---- what they share

// `value` for -o json, otherwise `table`.
absl::Status Print(const Flags& flags, const nlohmann::ordered_json& value,
                   const std::string& table);

// Placement of --placement, or of the cluster below --dir; an error names the command that starts
// what is dead.
absl::StatusOr<std::unique_ptr<PlacementClient>> PlacementOf(const Flags& flags);

// Up() with what the flags say; sizes that were not said are those the cluster had, or defaults.
absl::StatusOr<UpResult> UpWith(const Flags& flags);

// NotFound of a job or a step, with the nearest name there is; any other status as it is.
absl::Status WithSuggestion(const absl::Status& status, PlacementClient* placement,
                            const JobAndName& what);

struct PersistResult {
  std::string name;
  uint64_t bytes = 0;
  uint32_t shards = 0;
};

// Returns when the snapshot is on disk, with a progress line meanwhile. FailedPrecondition with the
// reason when placement gave up; DeadlineExceeded when nothing moved for `patience`.
absl::StatusOr<PersistResult> Persist(PlacementClient* placement, const JobAndName& what,
                                      Duration patience);

}  // namespace gemel::cli

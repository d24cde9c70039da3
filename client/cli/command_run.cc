// SPDX-License-Identifier: Apache-2.0
//
// `gemel run`: a command with a cluster around it. What it started, it stops again when the command
// succeeded, and only after everything new is on disk; when the command failed, the cluster stays,
// with the memory that the next attempt restores from.
#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>

#include "client/cli/commands.h"
#include "client/cli/doctor_facts.h"
#include "client/cli/exit_codes.h"
#include "common/check.h"
#include "common/errors.h"
#include "common/status_macros.h"

namespace gemel::cli {
namespace {

using Json = nlohmann::ordered_json;

// Newest snapshot of each job: to tell which jobs the command has changed.
using Newest = std::map<std::string, std::pair<uint64_t, std::string>>;  // job: sequence, name

absl::StatusOr<Newest> NewestOfAll(PlacementClient* placement) {
  GEMEL_ASSIGN_OR_RETURN(Json jobs, QueryJobs(placement));
  Newest newest;
  for (const Json& job : jobs["jobs"]) {
    newest[job["job"].get<std::string>()] = {job["latest_sequence"].get<uint64_t>(),
                                             job["latest"].get<std::string>()};
  }
  return newest;
}

void Say(const std::string& text) {
  std::fprintf(stderr, "gemel run: %s\n", text.c_str());
  std::fflush(stderr);
}

std::string CommandLine(const std::vector<std::string>& words) {
  std::string line;
  for (const std::string& word : words) {
    const bool plain =
        !word.empty() && word.find_first_of(" \t\n\"'$&|;<>()*?\\") == std::string::npos;
    line += (line.empty() ? "" : " ") + (plain ? word : "'" + word + "'");
  }
  return line;
}

struct Surroundings {
  std::string address;
  std::string dir;
  bool started = false;  // by us
  bool persists = true;
  Newest before;
};

absl::StatusOr<Surroundings> FindOrStart(const Flags& flags) {
  Surroundings around;
  around.dir = flags.dir;
  around.address = Environment("GEMEL_ADDRESS");
  if (!around.address.empty()) {
    return around;
  }
  GEMEL_CHECK(!flags.dir.empty());
  const absl::StatusOr<ClusterFile> there = ReadClusterFile(flags.dir);
  around.started = !there.ok() || !there->AnyAlive();
  Flags asked = flags;
  if (!around.started) {
    asked.cluster = ClusterFlags();  // sizes are for a cluster that we would start
  }
  GEMEL_ASSIGN_OR_RETURN(UpResult up, UpWith(asked));
  around.address = up.cluster.Address();
  around.persists = !up.cluster.no_persist;
  if (around.started) {
    Say(fmt::format("started cluster {} below {} for this command", up.cluster.cluster.substr(0, 8),
                    flags.dir));
    GEMEL_ASSIGN_OR_RETURN(std::unique_ptr<PlacementClient> placement, PlacementOf(flags));
    GEMEL_ASSIGN_OR_RETURN(around.before, NewestOfAll(placement.get()));
  }
  return around;
}

// Everything that the command has changed; the first error ends it, naming the job and step.
absl::Status PersistChanges(const Flags& flags, const Surroundings& around) {
  GEMEL_ASSIGN_OR_RETURN(std::unique_ptr<PlacementClient> placement, PlacementOf(flags));
  GEMEL_ASSIGN_OR_RETURN(const Newest now, NewestOfAll(placement.get()));
  for (const auto& [job, newest] : now) {
    const auto before = around.before.find(job);
    if (newest.second.empty() ||
        (before != around.before.end() && before->second.first == newest.first)) {
      continue;
    }
    absl::StatusOr<PersistResult> done =
        Persist(placement.get(), {job, newest.second}, std::chrono::seconds(flags.patience_s));
    if (!done.ok()) {
      return done.status();
    }
    Say(fmt::format("{}@{} is on disk ({} MiB)", job, done->name, done->bytes >> 20));
  }
  return absl::OkStatus();
}

absl::StatusOr<int> AfterSuccess(const Flags& flags, const Surroundings& around) {
  GEMEL_CHECK(around.started) << "a cluster of somebody else is not ours to stop";
  if (!around.persists) {
    Say("nothing was persisted (--no-persist): what was saved is gone with the cluster");
  } else if (absl::Status persisted = PersistChanges(flags, around); !persisted.ok()) {
    Say(fmt::format("the command succeeded; the cluster below {} is kept, because {}", around.dir,
                    MessageOf(persisted)));
    Say(fmt::format("once that is mended: gemel persist JOB --dir {}, then gemel down --dir {}",
                    around.dir, around.dir));
    return ExitCodeOf(persisted);
  }
  GEMEL_RETURN_IF_ERROR(Down(flags.dir, false).status());
  Say(fmt::format("the cluster below {} is stopped; `gemel up --dir {}` brings it back", around.dir,
                  around.dir));
  return kExitDone;
}

// What a newcomer's first failure mostly is.
void SayWherePythonFindsUs(const std::string& program) {
  if (program.find("python") == std::string::npos &&
      program.find("torchrun") == std::string::npos) {
    return;
  }
  const VersionFacts facts = ReadVersionFacts(nullptr);
  if (facts.package.version.empty() && !facts.package_folder.empty()) {
    Say(fmt::format("{} cannot import gemel: export PYTHONPATH={}", facts.package.where,
                    facts.package_folder));
  }
}

void AfterFailure(const Flags& flags, const Surroundings& around, int code) {
  GEMEL_CHECK_NE(code, kExitDone);
  Say(fmt::format("the command ended with {}; the cluster below {} is kept, its memory with it",
                  code, around.dir));
  Say(fmt::format("look: gemel jobs --dir {}; go on: gemel run --dir {} -- {}", around.dir,
                  around.dir, CommandLine(flags.command)));
  Say(fmt::format("stop it: gemel down --dir {} (what is not persisted is lost)", around.dir));
}

}  // namespace

absl::StatusOr<int> RunRun(const Flags& flags) {
  GEMEL_CHECK(!flags.command.empty());
  if (FindProgram(flags.command[0]).empty()) {
    Say(fmt::format("no program '{}' in PATH or at that path; nothing was started",
                    flags.command[0]));
    return kExitNoProgram;
  }
  GEMEL_ASSIGN_OR_RETURN(Surroundings around, FindOrStart(flags));
  GEMEL_ASSIGN_OR_RETURN(int code,
                         RunForeground(flags.command, {{"GEMEL_ADDRESS", around.address}}));
  if (code != kExitDone) {
    SayWherePythonFindsUs(flags.command[0]);
  }
  if (!around.started) {
    return code;
  }
  if (code == kExitDone) {
    return AfterSuccess(flags, around);
  }
  AfterFailure(flags, around, code);
  return code;
}

}  // namespace gemel::cli

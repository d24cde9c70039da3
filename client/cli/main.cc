// SPDX-License-Identifier: Apache-2.0
//
// gemel: the command of people and scripts. Exit codes: docs/OPERATIONS.md and ExitCodeOf() below.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <functional>
#include <nlohmann/json.hpp>

#include "client/cli/archiving.h"
#include "client/cli/queries.h"
#include "client/cli/table.h"
#include "client/cli/up_down.h"
#include "common/errors.h"
#include "common/status_macros.h"

namespace gemel::cli {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kVersion = "0.1.0";
constexpr Duration kWatchEvery = 500ms;
constexpr Duration kRecoverEvery = 100ms;
constexpr int kRecoverLooksMax = 80;  // placement waits 2 s for members that are merely slower

constexpr const char* kFooter = R"(Examples:
  gemel up --servers 3 --memory 1GiB       a cluster on this machine
  gemel run -- torchrun --nproc-per-node 2 train.py
  gemel status                             who is alive
  gemel snapshots gpt                      what could be restored
  gemel verify gpt@7                       re-hash every copy of step 7
  gemel down                               stop; nothing is left behind

Exit codes: 0 done, 1 other failure, 2 bad usage, 3 not found, 4 cannot be reached,
5 refused in this state, 6 not enough memory or disk, 7 data is damaged or lost, 8 took too long.
)";

int ExitCodeOf(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return 0;
    case absl::StatusCode::kInvalidArgument:
      return 2;
    case absl::StatusCode::kNotFound:
      return 3;
    case absl::StatusCode::kUnavailable:
      return 4;
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kAlreadyExists:
    case absl::StatusCode::kPermissionDenied:
      return 5;
    case absl::StatusCode::kResourceExhausted:
      return 6;
    case absl::StatusCode::kDataLoss:
      return 7;
    case absl::StatusCode::kDeadlineExceeded:
      return 8;
    default:
      return 1;
  }
}

struct Flags {
  std::string dir;
  std::string placement;
  std::string output = "table";
  uint32_t servers = 3;
  std::string memory = "1GiB";
  std::string slab_bytes = "64MiB";
  std::string server;
  std::string target;
  std::vector<std::string> command;
  uint32_t copies = 2;
  bool only_placement = false;
  bool wipe = false;
  bool watch = false;
  bool yes = false;
  bool accept_loss = false;
  bool from_servers = false;  // said so that nobody rebuilds by mistake
  bool force = false;

  bool json() const { return output == "json"; }
};

absl::Status Print(const Flags& flags, const Json& value, const std::string& table) {
  std::fputs((flags.json() ? value.dump(2) + "\n" : table).c_str(), stdout);
  std::fflush(stdout);
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<PlacementClient>> Placement(const Flags& flags) {
  std::string address = flags.placement;
  if (address.empty()) {
    GEMEL_ASSIGN_OR_RETURN(ClusterFile cluster, ReadClusterFile(flags.dir));
    address = cluster.placement;
  }
  if (address.empty()) {
    return error::NotFound("the cluster below {} was never up; `gemel up` starts it", flags.dir);
  }
  return PlacementClient::Make(address);
}

absl::StatusOr<UpOptions> UpOptionsOf(const Flags& flags) {
  UpOptions options;
  options.dir = flags.dir;
  options.servers = flags.servers;
  GEMEL_ASSIGN_OR_RETURN(options.memory_bytes, ParseBytes(flags.memory));
  GEMEL_ASSIGN_OR_RETURN(options.slab_bytes, ParseBytes(flags.slab_bytes));
  options.only_server = flags.server;
  options.only_placement = flags.only_placement;
  return options;
}

absl::Status RunUp(const Flags& flags) {
  GEMEL_ASSIGN_OR_RETURN(UpOptions options, UpOptionsOf(flags));
  GEMEL_ASSIGN_OR_RETURN(ClusterFile cluster, Up(options));
  const std::string table = fmt::format(
      "cluster {} is up: {} servers, placement at {}\n"
      "  use it:   export GEMEL_ADDRESS={}\n"
      "  look:     gemel status --dir {}\n"
      "  stop it:  gemel down --dir {}\n",
      cluster.cluster.substr(0, 8), cluster.servers.size(), cluster.placement, cluster.Address(),
      cluster.dir, cluster.dir);
  return Print(flags, Json::parse(cluster.ToJson()), table);
}

absl::Status RunDown(const Flags& flags) {
  GEMEL_ASSIGN_OR_RETURN(uint32_t ended, Down(flags.dir, flags.wipe));
  return Print(flags, Json{{"ended", ended}},
               fmt::format("{} processes of {} ended\n", ended, flags.dir));
}

// The command's own exit code, or the error of starting the cluster.
absl::StatusOr<int> RunRun(const Flags& flags) {
  std::string address = Environment("GEMEL_ADDRESS");
  bool started = false;
  if (address.empty()) {
    absl::StatusOr<ClusterFile> cluster = ReadClusterFile(flags.dir);
    if (!cluster.ok() || !cluster->AnyAlive()) {
      GEMEL_ASSIGN_OR_RETURN(UpOptions options, UpOptionsOf(flags));
      cluster = Up(options);
      started = cluster.ok();
    }
    GEMEL_RETURN_IF_ERROR(cluster.status());
    address = cluster->Address();
  }
  GEMEL_ASSIGN_OR_RETURN(int code, RunForeground(flags.command, {{"GEMEL_ADDRESS", address}}));
  if (started && code == 0) {
    GEMEL_RETURN_IF_ERROR(Down(flags.dir, false).status());
  } else if (started) {
    std::fprintf(
        stderr,
        "gemel run: the command ended with %d; the cluster below %s is kept, its memory with it\n",
        code, flags.dir.c_str());
  }
  return code;
}

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

absl::Status RunStatus(const Flags& flags) {
  GEMEL_ASSIGN_OR_RETURN(std::unique_ptr<PlacementClient> placement, Placement(flags));
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
  GEMEL_ASSIGN_OR_RETURN(std::unique_ptr<PlacementClient> placement, Placement(flags));
  GEMEL_ASSIGN_OR_RETURN(Json jobs, QueryJobs(placement.get()));
  return Print(
      flags, jobs,
      TableOf(jobs["jobs"], {"job", "epoch", "snapshots", "latest", "latest_bytes", "world_size"}));
}

absl::Status RunSnapshots(const Flags& flags) {
  GEMEL_ASSIGN_OR_RETURN(std::unique_ptr<PlacementClient> placement, Placement(flags));
  GEMEL_ASSIGN_OR_RETURN(Json snapshots, QuerySnapshots(placement.get(), flags.target));
  return Print(flags, snapshots,
               TableOf(snapshots["snapshots"],
                       {"name", "state", "epoch", "sequence", "attempt", "world_size", "bytes",
                        "copies_now", "copies_wanted", "latest", "detail"}));
}

absl::Status RunVerify(const Flags& flags) {
  GEMEL_ASSIGN_OR_RETURN(std::unique_ptr<PlacementClient> placement, Placement(flags));
  GEMEL_ASSIGN_OR_RETURN(Json result, QueryVerify(placement.get(), SplitJobAndName(flags.target)));
  const auto bad = result["bad"].get<uint32_t>();
  GEMEL_RETURN_IF_ERROR(
      Print(flags, result, TableOf(result["copies"], {"rank", "server", "good", "why"})));
  if (bad != 0 || !result["complete"].get<bool>()) {
    return error::DataLoss("{} of {} copies of {} are not good", bad, result["copies"].size(),
                           flags.target);
  }
  return absl::OkStatus();
}

absl::Status RunRemove(const Flags& flags) {
  if (!flags.yes) {
    return error::FailedPrecondition("removing {} cannot be undone; say --yes", flags.target);
  }
  GEMEL_ASSIGN_OR_RETURN(std::unique_ptr<PlacementClient> placement, Placement(flags));
  GEMEL_ASSIGN_OR_RETURN(Json result,
                         RemoveSnapshots(placement.get(), SplitJobAndName(flags.target)));
  return Print(flags, result, fmt::format("{} snapshots removed\n", result["removed"].dump()));
}

absl::Status RunExplain(const Flags& flags) {
  GEMEL_ASSIGN_OR_RETURN(std::unique_ptr<PlacementClient> placement, Placement(flags));
  GEMEL_ASSIGN_OR_RETURN(
      Json result, QueryExplain(placement.get(), SplitJobAndName(flags.target), flags.copies));
  std::string text;
  for (const Json& line : result["lines"]) {
    text += line.get<std::string>() + "\n";
  }
  return Print(flags, result, text);
}

// Unavailable with what placement waits for when it does not serve in time. It goes on listening.
absl::Status AwaitServing(PlacementClient* placement, const std::string& address) {
  for (int look = 0; look < kRecoverLooksMax; ++look) {
    if (QueryJobs(placement).ok()) {
      return absl::OkStatus();
    }
    Pause(kRecoverEvery);
  }
  GEMEL_ASSIGN_OR_RETURN(Json status, QueryStatus(placement));
  std::string why;
  for (const Json& warning : status["warnings"]) {
    why += (why.empty() ? "" : "; ") + warning.get<std::string>();
  }
  return error::Unavailable("placement listens at {} and does not serve yet: {}", address, why);
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

using Runner = std::function<absl::StatusOr<int>(const Flags&)>;

Runner Simple(absl::Status (*run)(const Flags&)) {
  return [run](const Flags& flags) -> absl::StatusOr<int> {
    GEMEL_RETURN_IF_ERROR(run(flags));
    return 0;
  };
}

class Program {
 public:
  Program() : app_("Gemel keeps training state in the memory of the hosts that run it.", "gemel") {
    const std::string home = Environment("HOME");
    flags_.dir = (home.empty() ? "/var/tmp" : home) + "/.gemel";
    app_.footer(kFooter);
    app_.require_subcommand(1);
    app_.set_version_flag("--version", kVersion);
    AddCluster();
    AddQueries();
    AddRecovery();
    AddArchiving();
  }

  int Run(int argc, char** argv) {
    try {  // CLI11's interface: the one place where an exception is caught
      app_.parse(argc, argv);
    } catch (const CLI::ParseError& parse_error) {
      return app_.exit(parse_error) == 0 ? 0 : 2;
    }
    absl::StatusOr<int> code = chosen_(flags_);
    if (!code.ok()) {
      std::fprintf(stderr, "gemel: %s\n", std::string(MessageOf(code.status())).c_str());
      return ExitCodeOf(code.status());
    }
    return *code;
  }

 private:
  CLI::App* Command(CLI::App* parent, const char* name, const char* help, Runner run) {
    CLI::App* command = parent->add_subcommand(name, help);
    command->add_option("--dir", flags_.dir, "the cluster's folder")->capture_default_str();
    command->add_option("-o,--output", flags_.output, "table or json")
        ->check(CLI::IsMember({"table", "json"}))
        ->capture_default_str();
    command->callback([this, run = std::move(run)] { chosen_ = run; });
    return command;
  }

  CLI::App* Query(const char* name, const char* help, Runner run) {
    CLI::App* command = Command(&app_, name, help, std::move(run));
    command->add_option("--placement", flags_.placement,
                        "address of gemel-placement; default: that of the cluster below --dir");
    return command;
  }

  void AddSizes(CLI::App* command) {
    command->add_option("--servers", flags_.servers, "how many")->capture_default_str();
    command->add_option("--memory", flags_.memory, "of each server")->capture_default_str();
    command
        ->add_option("--slab-bytes", flags_.slab_bytes, "unit of memory; smaller for small servers")
        ->capture_default_str();
  }

  void AddCluster() {
    CLI::App* up = Command(&app_, "up", "Start a cluster on this machine", Simple(RunUp));
    AddSizes(up);
    up->add_flag("--placement", flags_.only_placement,
                 "restart only the dead placement of a running cluster");
    up->add_option("--server", flags_.server, "restart only this dead server of a running cluster");
    CLI::App* down = Command(&app_, "down", "Stop it; nothing is left behind", Simple(RunDown));
    down->add_flag("--wipe", flags_.wipe, "remove its folder too");
    CLI::App* run = Command(
        &app_, "run", "Run a command with GEMEL_ADDRESS set; starts a cluster when there is none",
        [](const Flags& flags) { return RunRun(flags); });
    AddSizes(run);
    run->add_option("command", flags_.command, "the command and its arguments, after --")
        ->required();
    run->positionals_at_end();
    run->prefix_command();
  }

  void AddQueries() {
    CLI::App* status = Query("status", "Who is alive, and how full", Simple(RunStatus));
    status->add_flag("--watch", flags_.watch, "again and again");
    Query("jobs", "Jobs and their newest snapshot", Simple(RunJobs));
    CLI::App* snapshots = Query("snapshots", "Snapshots of a job", Simple(RunSnapshots));
    snapshots->add_option("job", flags_.target, "JOB")->required();
    CLI::App* verify = Query("verify", "Re-hash every copy of a snapshot", Simple(RunVerify));
    verify->add_option("what", flags_.target, "JOB or JOB@STEP; default the newest step")
        ->required();
    CLI::App* remove = Query("rm", "Remove a snapshot, or a job", Simple(RunRemove));
    remove->add_option("what", flags_.target, "JOB or JOB@STEP")->required();
    remove->add_flag("--yes", flags_.yes, "yes, remove it");
    CLI::App* explain =
        Query("explain", "Who keeps what and what would be survived", Simple(RunExplain));
    explain->add_option("what", flags_.target, "JOB or JOB@STEP; default the cluster");
    explain->add_option("--copies", flags_.copies, "of a shard")->capture_default_str();
  }

  void AddRecovery() {
    CLI::App* placement = app_.add_subcommand("placement", "Operations on gemel-placement");
    placement->require_subcommand(1);
    CLI::App* recover = Command(placement, "recover", "Rebuild a lost MetaStore from the servers",
                                Simple(RunRecover));
    recover->add_flag("--from-servers", flags_.from_servers, "what it is rebuilt from")->required();
    recover->add_flag("--accept-loss", flags_.accept_loss,
                      "go on without a majority of the last members");
    recover->add_flag("--force", flags_.force, "also when placement runs");
  }

  void AddArchiving() {
    archiving_.AddExport(
        Command(&app_, "export", Archiving::kExportHelp,
                [this](const Flags& flags) { return archiving_.Export(flags.dir, flags.json()); }));
    archiving_.AddImport(
        Command(&app_, "import", Archiving::kImportHelp,
                [this](const Flags& flags) { return archiving_.Import(flags.dir, flags.json()); }));
    archiving_.AddArchive(Command(
        &app_, "archive", Archiving::kArchiveHelp,
        [this](const Flags& flags) { return archiving_.Archive(flags.dir, flags.json()); }));
  }

  CLI::App app_;
  Archiving archiving_;
  Flags flags_;
  Runner chosen_;
};

}  // namespace
}  // namespace gemel::cli

int main(int argc, char** argv) {
  gemel::cli::Program program;
  return program.Run(argc, argv);
}

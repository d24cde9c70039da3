// SPDX-License-Identifier: Apache-2.0
#include "client/cli/archiving.h"

#include <signal.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>

#include "client/cli/archiving_ground.h"
#include "client/cli/cluster_file.h"
#include "client/cli/host_processes.h"
#include "common/check.h"
#include "common/errors.h"
#include "common/real_process.h"
#include "common/status_macros.h"

namespace gemel::cli {
namespace {

constexpr const char* kProbe =
    "import importlib.util as u, sys; sys.exit(0 if u.find_spec('torch') and u.find_spec('gemel') "
    "else 9)";
constexpr int kNotImportable = 9;
constexpr int kNotRunnable = 127;

constexpr const char* kTargets =
    "\nA target is a directory, or s3://BUCKET/PREFIX[?endpoint=URL&region=NAME&style=path|host].\n"
    "Credentials of a bucket: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN;\n"
    "where it is: AWS_ENDPOINT_URL and AWS_REGION, unless the address says.\n";

}  // namespace

absl::StatusOr<Duration> ParseDuration(const std::string& text) {
  const size_t digits = std::min(text.find_first_not_of("0123456789"), text.size());
  const std::string unit = text.substr(digits);
  constexpr size_t kDigitsMax = 7;
  Duration one{};
  if (unit == "ms") {
    one = 1ms;
  } else if (unit == "s") {
    one = 1s;
  } else if (unit == "m") {
    one = 1min;
  } else if (unit == "h") {
    one = 1h;
  }
  if (digits == 0 || digits > kDigitsMax || one == Duration{}) {
    return error::InvalidArgument("'{}' is not a time like 250ms, 30s, 10m or 2h", text);
  }
  return one * std::stoll(text.substr(0, digits));
}

Archiving::Ground::~Ground() {
  if (signal_fd >= 0) {
    loop->Unwatch(signal_fd);
    close(signal_fd);
  }
  loop->Shutdown();
}

absl::StatusOr<std::unique_ptr<Archiving::Ground>> Archiving::Prepare() const {
  auto ground = std::make_unique<Ground>();
  GEMEL_ASSIGN_OR_RETURN(ground->loop, EpollLoop::Create());
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  // Before the first thread is made, which inherits what is blocked.
  GEMEL_CHECK_EQ(sigprocmask(SIG_BLOCK, &signals, nullptr), 0);
  ground->signal_fd = signalfd(-1, &signals, SFD_NONBLOCK | SFD_CLOEXEC);
  if (ground->signal_fd < 0) {
    return error::ResourceExhausted("no descriptor for signals: raise `ulimit -n`");
  }
  ground->loop->Watch(ground->signal_fd, EPOLLIN, [ground = ground.get()](uint32_t) {
    signalfd_siginfo info;
    while (read(ground->signal_fd, &info, sizeof(info)) == sizeof(info)) {
      ground->stop = true;
    }
  });
  ground->pace = std::make_unique<archive::LoopPace>(ground->loop.get(), &ground->stop);
  return ground;
}

void Archiving::AddCommon(CLI::App* command) {
  command->add_option(
      "--address", address_,
      "socket of this host's server; default: GEMEL_ADDRESS, then the cluster below "
      "--dir");
  command->add_flag("--insecure", insecure_, "http to a bucket beyond this machine");
  command->add_option("--patience", patience_, "how long to try a bucket that does not answer")
      ->capture_default_str();
}

void Archiving::AddExport(CLI::App* command) {
  AddCommon(command);
  command->add_option("what", what_, "JOB or JOB@STEP; default the newest step")->required();
  command->add_option("target", target_, "DIR or s3://BUCKET/PREFIX")->required();
  command->add_option("--format", format_, "safetensors, or dcp for torch's own reader")
      ->check(CLI::IsMember({"safetensors", "dcp"}))
      ->capture_default_str();
  command->add_flag("--force", force_, "replace what is there");
  command->add_flag("--verify-only", verify_only_, "write nothing: check the export that is there");
  command->footer(std::string("Examples:\n"
                              "  gemel export gpt@7 /backup/gpt-7\n"
                              "  gemel export gpt s3://models/gpt?region=eu-west-1\n"
                              "  gemel export gpt /backup/dcp --format dcp\n"
                              "Interrupted, it goes on when it is run again.\n") +
                  kTargets);
}

void Archiving::AddImport(CLI::App* command) {
  AddCommon(command);
  command->add_option("source", target_, "DIR, FILE.safetensors or s3://BUCKET/PREFIX")->required();
  command->add_option("--job", job_, "default: the job that was exported");
  command->add_option("--name", name_, "step; default: the one that was exported");
  command->add_option("--copies", copies_, "servers that hold each shard")->capture_default_str();
  command->add_option("--strategy", strategy_, "how its copies are spread: group or ring")
      ->check(CLI::IsMember({"group", "ring"}))
      ->capture_default_str();
  command->add_flag("--takeover", takeover_,
                    "also a job that is there: its trainer loses its epoch");
  command->add_flag("--verify-only", verify_only_, "import nothing: check every digest");
  command->footer(
      std::string(
          "Examples:\n"
          "  gemel import /backup/gpt-7\n"
          "  gemel import model.safetensors --job gpt --name 0\n"
          "A directory of torch's DCP has a .metadata file, which is a pickle: importing one "
          "runs code of\nwhoever wrote it. Import only what you trust.\n") +
      kTargets);
}

void Archiving::AddArchive(CLI::App* command) {
  AddCommon(command);
  command->add_option("job", what_, "JOB")->required();
  command->add_option("--to", target_, "DIR or s3://BUCKET/PREFIX")->required();
  command->add_option("--every", every_, "archive no more than every n-th snapshot")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_option("--interval", interval_, "archive no more often than this")
      ->capture_default_str();
  command->add_option("--keep", keep_, "archived snapshots that stay; 0: all")
      ->capture_default_str();
  command->add_flag("--once", once_, "the newest snapshot, then end");
  command->add_flag("--verify", verify_, "read everything back before it is named in latest.json");
  command->footer(std::string("Examples:\n"
                              "  gemel archive gpt --to /nfs/archive --interval 10m --keep 3\n"
                              "  gemel archive gpt --to s3://archive/prod --once\n"
                              "Runs until it is ended (SIGTERM); started again it goes on.\n") +
                  kTargets);
}

absl::StatusOr<std::unique_ptr<archive::Target>> Archiving::OpenTarget(const std::string& address,
                                                                       archive::Pace* pace) const {
  archive::Target::Options options;
  options.s3 = {Environment("AWS_ENDPOINT_URL"), Environment("AWS_REGION"), insecure_};
  options.access_key = Environment("AWS_ACCESS_KEY_ID");
  options.secret_key = Environment("AWS_SECRET_ACCESS_KEY");
  options.session_token = Environment("AWS_SESSION_TOKEN");
  GEMEL_ASSIGN_OR_RETURN(options.patience, ParseDuration(patience_));
  options.seed = RealProcess().Entropy64();
  return archive::Target::Open(address, options, pace);
}

absl::StatusOr<std::vector<std::string>> Archiving::Addresses(const std::string& dir) const {
  std::string given = address_.empty() ? Environment("GEMEL_ADDRESS") : address_;
  if (given.empty()) {
    GEMEL_ASSIGN_OR_RETURN(const ClusterFile cluster, ReadClusterFile(dir));
    given = cluster.Address();
  }
  std::vector<std::string> addresses;
  for (size_t at = 0; at < given.size();) {
    const size_t comma = std::min(given.find(',', at), given.size());
    if (comma > at) {
      addresses.push_back(given.substr(at, comma - at));
    }
    at = comma + 1;
  }
  if (addresses.empty()) {
    return error::NotFound("no server's address: set GEMEL_ADDRESS, say --address, or `gemel up`");
  }
  return addresses;
}

absl::StatusOr<int> Archiving::RunPython(const std::string& module,
                                         std::vector<std::string> arguments, const std::string& dir,
                                         bool json) const {
  const std::string given = Environment("GEMEL_PYTHON");
  const std::string python = given.empty() ? "python3" : given;
  GEMEL_ASSIGN_OR_RETURN(const std::vector<std::string> addresses, Addresses(dir));
  GEMEL_ASSIGN_OR_RETURN(const int probe, RunForeground({python, "-c", kProbe}, {}));
  if (probe == kNotImportable || probe == kNotRunnable) {
    return error::FailedPrecondition(
        "--format dcp needs torch and gemel's Python package, and {} {}: `{} -m pip install torch` "
        "and the package of this Gemel, or set GEMEL_PYTHON to an interpreter that has both",
        python, probe == kNotRunnable ? "cannot be run" : "cannot import them", python);
  }
  std::vector<std::string> command = {python, "-m", module};
  command.insert(command.end(), std::make_move_iterator(arguments.begin()),
                 std::make_move_iterator(arguments.end()));
  if (verify_only_) {
    command.emplace_back("--verify-only");
  }
  if (json) {
    command.emplace_back("--json");
  }
  return RunForeground(command, {{"GEMEL_ADDRESS", addresses[0]}});
}

}  // namespace gemel::cli

// SPDX-License-Identifier: Apache-2.0
#include "tests/sim/campaign.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <string>
#include <vector>

#include "common/check.h"
#include "common/errors.h"
#include "tests/sim/traps.h"

namespace gemel::sim {
namespace {

constexpr uint64_t kRerunEvery = 10;
constexpr double kSeedWithinS = 300;  // of wall time; then the worker hangs
constexpr int kLookEveryMs = 200;
constexpr size_t kAnswerBytesMax = 1 << 20;

double NowS() {
  const auto since = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration<double>(since).count();
}

constexpr char kEnd = '\0';  // of the totals, and of each violation: they may have many lines

// One seed, in a worker: the totals, then the violations.
std::string AnswerFor(ScenarioOptions options, uint64_t seed) {
  options.seed = seed;
  const ScenarioResult result = RunScenario(options);
  CampaignTotals totals;
  totals.seeds = 1;
  totals.failed = result.violations.empty() ? 0 : 1;
  totals.counts = result.counts;
  std::string violations;
  for (const std::string& violation : result.violations) {
    violations += violation + kEnd;
  }
  if (seed % kRerunEvery == 0) {
    totals.reruns = 1;
    const uint64_t again = RunScenario(options).history_hash;
    if (again != result.history_hash) {
      totals.mismatches = 1;
      totals.failed = 1;
      violations += fmt::format("not deterministic: hash {:016x}, run again {:016x}{}",
                                result.history_hash, again, kEnd);
    }
  }
  return EncodeTotals(totals) + kEnd + violations;
}

bool WriteAll(int fd, const void* data, size_t bytes) {
  const char* at = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t done = write(fd, at, bytes);
    if (done < 0 && errno == EINTR) {
      continue;
    }
    if (done <= 0) {
      return false;
    }
    at += done;
    bytes -= static_cast<size_t>(done);
  }
  return true;
}

bool ReadAll(int fd, void* data, size_t bytes) {
  char* at = static_cast<char*>(data);
  while (bytes > 0) {
    const ssize_t done = read(fd, at, bytes);
    if (done < 0 && errno == EINTR) {
      continue;
    }
    if (done <= 0) {
      return false;
    }
    at += done;
    bytes -= static_cast<size_t>(done);
  }
  return true;
}

// Until its pipe is closed.
[[noreturn]] void Work(int requests, int answers, const ScenarioOptions& options) {
  uint64_t seed = 0;
  while (ReadAll(requests, &seed, sizeof(seed))) {
    ArmTraps();
    const std::string answer = AnswerFor(options, seed);
    DisarmTraps();
    const uint64_t bytes = answer.size();
    if (!WriteAll(answers, &bytes, sizeof(bytes)) ||
        !WriteAll(answers, answer.data(), answer.size())) {
      break;
    }
  }
  _exit(0);
}

struct Worker {
  pid_t pid = -1;
  int requests = -1;
  int answers = -1;
  std::optional<uint64_t> seed;  // under way
  double since = 0;
};

class Campaign {
 public:
  Campaign(const CampaignOptions& options, std::vector<std::string>* violations)
      : options_(options),
        violations_(violations),
        started_(NowS()),
        next_(options.scenario.seed) {}

  CampaignTotals Run();

 private:
  void StartWorker(Worker* worker);
  void EndWorker(Worker* worker);
  bool More() const;
  void Tell(Worker* worker);
  void Take(Worker* worker);
  void Lost(Worker* worker, const std::string& how);
  void Report(uint64_t seed, const std::string& violation) const;

  const CampaignOptions& options_;
  std::vector<std::string>* const violations_;
  const double started_;
  uint64_t next_;
  CampaignTotals totals_;
  std::vector<Worker> workers_;
};

void Campaign::StartWorker(Worker* worker) {
  int requests[2];
  int answers[2];
  GEMEL_CHECK(pipe(requests) == 0 && pipe(answers) == 0) << "no pipe for a worker";
  std::fflush(nullptr);
  const pid_t pid = fork();
  GEMEL_CHECK(pid >= 0) << "no worker process";
  if (pid == 0) {
    for (const Worker& other : workers_) {
      close(other.requests);
      close(other.answers);
    }
    close(requests[1]);
    close(answers[0]);
    Work(requests[0], answers[1], options_.scenario);
  }
  close(requests[0]);
  close(answers[1]);
  worker->pid = pid;
  worker->requests = requests[1];
  worker->answers = answers[0];
  worker->seed.reset();
}

void Campaign::EndWorker(Worker* worker) {
  close(worker->requests);
  close(worker->answers);
  int status = 0;
  waitpid(worker->pid, &status, 0);
  worker->requests = -1;
  worker->answers = -1;
}

bool Campaign::More() const {
  if (totals_.failed >= options_.failures_max) {
    return false;
  }
  return options_.minutes.has_value() ? NowS() - started_ < *options_.minutes * 60
                                      : next_ - options_.scenario.seed < options_.seeds;
}

void Campaign::Report(uint64_t seed, const std::string& violation) const {
  if (violations_ != nullptr) {
    violations_->push_back(violation);
    return;
  }
  ScenarioOptions replay = options_.scenario;
  replay.seed = seed;
  std::printf("VIOLATION %s\n  replay: %s\n", violation.c_str(), ReplayLine(replay).c_str());
  std::fflush(stdout);
}

void Campaign::Tell(Worker* worker) {
  const uint64_t seed = next_++;
  worker->seed = seed;
  worker->since = NowS();
  if (!WriteAll(worker->requests, &seed, sizeof(seed))) {
    Lost(worker, "the worker is gone");
  }
}

// The seed is lost with it: that is a violation, whatever it was.
void Campaign::Lost(Worker* worker, const std::string& how) {
  Report(*worker->seed, how);
  totals_.seeds += 1;
  totals_.failed += 1;
  kill(worker->pid, SIGKILL);
  EndWorker(worker);
  StartWorker(worker);
}

void Campaign::Take(Worker* worker) {
  uint64_t bytes = 0;
  std::string answer;
  bool whole = ReadAll(worker->answers, &bytes, sizeof(bytes)) && bytes <= kAnswerBytesMax;
  if (whole) {
    answer.resize(bytes);
    whole = ReadAll(worker->answers, answer.data(), answer.size());
  }
  const size_t end = answer.find(kEnd);
  const absl::StatusOr<CampaignTotals> totals =
      DecodeTotals(std::string_view(answer).substr(0, end));
  if (!whole || !totals.ok()) {
    Lost(worker, "the simulator died: its last words are above");
    return;
  }
  totals_.Add(*totals);
  std::string_view rest = std::string_view(answer).substr(end + 1);
  while (!rest.empty()) {
    const size_t line = rest.find(kEnd);
    Report(*worker->seed, std::string(rest.substr(0, line)));
    rest.remove_prefix(line + 1);
  }
  worker->seed.reset();
}

CampaignTotals Campaign::Run() {
  std::signal(SIGPIPE, SIG_IGN);  // NOLINT(cert-err33-c)
  workers_.resize(options_.processes);
  for (Worker& worker : workers_) {
    StartWorker(&worker);
  }
  bool busy = true;
  while (busy) {
    busy = false;
    std::vector<pollfd> waits;
    for (Worker& worker : workers_) {
      if (!worker.seed.has_value() && More()) {
        Tell(&worker);
      }
      busy = busy || worker.seed.has_value();
      waits.push_back({.fd = worker.answers, .events = POLLIN, .revents = 0});
    }
    if (!busy || poll(waits.data(), waits.size(), kLookEveryMs) < 0) {
      continue;
    }
    for (size_t i = 0; i < workers_.size(); ++i) {
      Worker& worker = workers_[i];
      if (worker.seed.has_value() && waits[i].revents != 0) {
        Take(&worker);
      } else if (worker.seed.has_value() && NowS() - worker.since > kSeedWithinS) {
        Lost(&worker, fmt::format("the simulator hangs: no end within {} s", kSeedWithinS));
      }
    }
  }
  for (Worker& worker : workers_) {
    EndWorker(&worker);
  }
  totals_.wall_s = NowS() - started_;
  totals_.processes = options_.processes;
  return totals_;
}

}  // namespace

CampaignTotals RunCampaign(const CampaignOptions& options, std::vector<std::string>* violations) {
  GEMEL_CHECK(options.processes >= 1 && options.processes <= kProcessesMax);
  return Campaign(options, violations).Run();
}

uint64_t SeedOfToday() {
  constexpr uint64_t kSeedsPerDay = 1'000'000;
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::hours>(now).count() / 24) *
         kSeedsPerDay;
}

std::string ReplayLine(const ScenarioOptions& options) {
  std::string line = fmt::format("gemel-sim --seed {}", options.seed);
  std::string disabled;
  for (const Fault fault : options.disabled) {
    disabled += fmt::format("{}{}", disabled.empty() ? "" : ",", NameOf(fault));
  }
  disabled += options.knobs ? "" : disabled.empty() ? "knobs" : ",knobs";
  disabled += options.overkill ? "" : disabled.empty() ? "overkill" : ",overkill";
  line += disabled.empty() ? "" : " --disable " + disabled;
  constexpr uint32_t kAny = std::numeric_limits<uint32_t>::max();
  line += options.servers_max == kAny ? "" : fmt::format(" --servers-max {}", options.servers_max);
  line += options.jobs_max == kAny ? "" : fmt::format(" --jobs-max {}", options.jobs_max);
  line += options.ranks_max == kAny ? "" : fmt::format(" --ranks-max {}", options.ranks_max);
  line += options.fault_phase == kFaultPhase
              ? ""
              : fmt::format(" --fault-phase {:.3f}", Milliseconds(options.fault_phase) / 1e3);
  return line;
}

}  // namespace gemel::sim

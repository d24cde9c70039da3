// SPDX-License-Identifier: Apache-2.0
//
// The measuring part of bench/rpc.py: small requests between two processes, or in one for counting.
//
//   bench_rpc measure [--pairs 15] [--seconds 0.2] [--cores 1]
//       a line a measurement: pair kind depth operations wall_s cpu_s p50_us p99_us; CPU is user
//       and system time of both processes, p50 and p99 (of depth 1) are 0 at other depths
//   bench_rpc count KIND DEPTH OPERATIONS
//       both ends on one thread, and nothing else: for valgrind --tool=callgrind
#include "bench/rpc.h"

#include <fmt/format.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "common/check.h"

namespace gemel::bench {
namespace {

struct Kind {
  const char* name;
  Serve serve;
  MakeCaller call;
  MakePair pair;  // null: not counted
};

constexpr std::array<Kind, 5> kKinds = {
    Kind{"bare", ServeBare, CallBare, PairBare},
    Kind{"framed", ServeFramed, CallFramed, PairFramed},
    Kind{"session", ServeSession, CallSession, PairSession},
    Kind{"grpc-queue", ServeGrpcQueue, CallGrpcQueue, nullptr},
    Kind{"grpc-callback", ServeGrpcCallback, CallGrpcCallback, nullptr},
};
constexpr size_t kBare = 0;
constexpr size_t kDepths[] = {1, 8, 64, 256};
constexpr size_t kWarmOperations = 2000;

void PinTo(size_t core) {
  cpu_set_t cores;
  CPU_ZERO(&cores);
  CPU_SET(core, &cores);
  GEMEL_CHECK_EQ(sched_setaffinity(0, sizeof cores, &cores), 0);
}

double CpuSeconds(clockid_t clock) {
  timespec used{};
  GEMEL_CHECK_EQ(clock_gettime(clock, &used), 0);
  return static_cast<double>(used.tv_sec) + static_cast<double>(used.tv_nsec) / 1e9;
}

// A server in a process of its own, and its caller in this one.
class Measured {
 public:
  // Before any thread of this process.
  void StartServer(const Kind& kind, size_t core) {
    int ready[2];
    GEMEL_CHECK_EQ(pipe(ready), 0);
    server_ = fork();
    GEMEL_CHECK_GE(server_, 0);
    if (server_ == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      PinTo(core);
      kind.serve(ready[1]);
      _exit(0);
    }
    port_ = HearPort(ready[0]);
    GEMEL_CHECK_EQ(clock_getcpuclockid(server_, &server_clock_), 0);
  }

  void StartCaller(const Kind& kind) { caller_ = kind.call(port_); }

  ~Measured() {
    caller_.reset();
    kill(server_, SIGKILL);
    waitpid(server_, nullptr, 0);
  }

  struct Cost {
    double wall_s = 0;
    double cpu_s = 0;
    std::vector<double> taken;
  };

  Cost Ask(size_t count, size_t depth) const {
    Cost cost;
    cost.taken.reserve(depth == 1 ? count : 0);
    const double cpu = CpuOfBoth();
    const auto began = std::chrono::steady_clock::now();
    caller_->Ask(count, depth, &cost.taken);
    cost.wall_s = SecondsSince(began);
    cost.cpu_s = CpuOfBoth() - cpu;
    return cost;
  }

  // How many operations take `seconds`.
  size_t CountFor(double seconds, size_t depth) const {
    Ask(kWarmOperations, depth);
    const Cost warm = Ask(kWarmOperations, depth);
    return std::max(kWarmOperations, static_cast<size_t>(seconds / warm.wall_s * kWarmOperations));
  }

 private:
  double CpuOfBoth() const {
    return CpuSeconds(CLOCK_PROCESS_CPUTIME_ID) + CpuSeconds(server_clock_);
  }

  pid_t server_ = -1;
  int port_ = 0;
  clockid_t server_clock_{};
  std::unique_ptr<Caller> caller_;
};

double Quantile(std::vector<double> values, double part) {
  if (values.empty()) {
    return 0;
  }
  std::sort(values.begin(), values.end());
  return values[static_cast<size_t>(std::lround(part * static_cast<double>(values.size() - 1)))];
}

int MeasureAll(size_t pairs, double seconds, size_t cores) {
  std::array<Measured, kKinds.size()> all;
  PinTo(0);
  for (size_t i = 0; i < all.size(); ++i) {
    all[i].StartServer(kKinds[i], cores - 1);
  }
  for (size_t i = 0; i < all.size(); ++i) {
    all[i].StartCaller(kKinds[i]);
  }
  for (const size_t depth : kDepths) {
    std::array<size_t, kKinds.size()> counts{};
    for (size_t i = 0; i < all.size(); ++i) {
      counts[i] = all[i].CountFor(seconds, depth);
    }
    for (size_t pair = 0; pair < pairs; ++pair) {
      // The yardstick stands before and behind what is measured with it.
      for (const size_t i : {size_t{0}, size_t{1}, size_t{2}, size_t{0}, size_t{3}, size_t{4}}) {
        const Measured::Cost cost = all[i].Ask(counts[i], depth);
        fmt::print("{} {} {} {} {:.6f} {:.6f} {:.2f} {:.2f}\n", pair, kKinds[i].name, depth,
                   counts[i], cost.wall_s, cost.cpu_s, 1e6 * Quantile(cost.taken, 0.5),
                   1e6 * Quantile(cost.taken, 0.99));
      }
    }
    std::fflush(stdout);
  }
  return 0;
}

int Count(const std::string& name, size_t depth, size_t operations) {
  for (const Kind& kind : kKinds) {
    if (kind.name == name && kind.pair != nullptr) {
      kind.pair()->caller()->Ask(operations, depth, nullptr);
      return 0;
    }
  }
  fmt::print(stderr, "error: no kind '{}' to count\n", name);
  return 2;
}

int Main(int argc, char** argv) {
  CLI::App app("Small requests: ours, bare sockets, gRPC");
  app.require_subcommand(1);
  size_t pairs = 15;
  double seconds = 0.2;
  size_t cores = 1;
  CLI::App* measure = app.add_subcommand("measure", "time and CPU, between two processes");
  measure->add_option("--pairs", pairs, "measurements, each beside its yardstick");
  measure->add_option("--seconds", seconds, "of one measurement");
  measure->add_option("--cores", cores, "1: both processes on one core; 2: one each")
      ->check(CLI::Range(1, 2));
  std::string kind;
  size_t depth = 1;
  size_t operations = 0;
  CLI::App* count = app.add_subcommand("count", "both ends on one thread, nothing else");
  count->add_option("kind", kind)->required();
  count->add_option("depth", depth)->required()->check(CLI::Range(size_t{1}, kDepthMax));
  count->add_option("operations", operations)->required();
  CLI11_PARSE(app, argc, argv);
  return measure->parsed() ? MeasureAll(pairs, seconds, cores) : Count(kind, depth, operations);
}

}  // namespace

void TellPort(int ready, int port) {
  GEMEL_CHECK_EQ(write(ready, &port, sizeof port), static_cast<ssize_t>(sizeof port));
}

int HearPort(int ready) {
  int port = 0;
  GEMEL_CHECK_EQ(read(ready, &port, sizeof port), static_cast<ssize_t>(sizeof port));
  return port;
}

}  // namespace gemel::bench

int main(int argc, char** argv) { return gemel::bench::Main(argc, argv); }

// SPDX-License-Identifier: Apache-2.0
//
// Hedged reads against the same reads without, under stalls: real tcp sessions to two processes.
//
//   bench_hedge [--pairs 15] [--reads 5000] [--median-ms 40] [--json build/bench/hedge.json]
//
// Both processes have the bytes. Each answers after lognormal(0, 0.25) x the median, one of a
// hundred after 10 to 40 x (notes of the design: the Monte Carlo that the target comes from). A
// reader reads from each in turn; with hedges a late read goes to the other process as well, within
// the budget, and the loser is cancelled. What is drawn is drawn by the processes, anew for each.
//
// Printed: the median of the pairs and their spread. The share of stalls is that of p99: without
// hedges it is now below and now within them, p99.9 is always. Ends with 1 when a target is missed:
// p99 / p50 <= 2.5 and p99.9 / p50 <= 3.5 with <= 2.5 % more requests.
#include "transport/hedge.h"

#include <fmt/format.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "common/check.h"
#include "common/epoll_loop.h"
#include "common/random.h"
#include "common/status_macros.h"
#include "common/sync.h"
#include "common/xxh3.h"
#include "transport/real_net.h"
#include "transport/session.h"

namespace gemel {
namespace {

constexpr Duration kPatience = 300s;  // of this bench, with itself
constexpr Duration kReadDeadline = 10s;
constexpr size_t kServers = 2;
constexpr size_t kReaders = 128;  // at a time
constexpr size_t kWarmUp = 3000;
constexpr size_t kBytes = 16 * kKiB;
constexpr double kSigma = 0.25;
constexpr uint64_t kStallPercent = 1;
constexpr double kStallLeast = 10;
constexpr double kStallMost = 40;
constexpr double kTailTarget = 2.5;     // p99 / p50
constexpr double kFarTailTarget = 3.5;  // p99.9 / p50
constexpr double kExtraTarget = 2.5;    // percent of the requests

std::vector<std::byte> Content() {
  std::vector<std::byte> content(kBytes);
  for (size_t i = 0; i < content.size(); ++i) {
    content[i] = static_cast<std::byte>((i * 2654435761U >> 13) | 1U);
  }
  return content;
}

// --------------------------------------------------------------------------- a serving process

class Serving final : public SessionHandler {
 public:
  Serving(Loop* loop, uint64_t seed, Duration median)
      : loop_(loop), random_(seed), median_(median), content_(Content()) {}

  Task<Reply> Handle(std::shared_ptr<Session> /*session*/, IncomingRequest request) override {
    Reply reply;
    if (request.header.type == FrameType::kRead) {
      co_await loop_->Sleep(Draw());
      reply.payload = content_;
    }
    co_return reply;
  }

  void OnSessionClosed(Session* /*session*/, const absl::Status& /*why*/) override { over_ = true; }

  bool over() const { return over_; }

 private:
  double Part() { return (static_cast<double>(random_.Below(1U << 30)) + 0.5) / (1U << 30); }

  Duration Draw() {
    const double normal = std::sqrt(-2 * std::log(Part())) * std::cos(2 * M_PI * Part());
    const double stall = kStallLeast + (kStallMost - kStallLeast) * Part();
    const bool stalls = random_.Chance(kStallPercent, 100);
    const double times = stalls ? stall : std::exp(kSigma * normal);
    return Duration(static_cast<int64_t>(times * static_cast<double>(median_.count())));
  }

  Loop* const loop_;
  Random random_;
  const Duration median_;
  const std::vector<std::byte> content_;
  bool over_ = false;
};

[[noreturn]] void RunServing(int ready, uint64_t seed, Duration median) {
  auto loop = EpollLoop::Create();
  GEMEL_CHECK(loop.ok()) << loop.status();
  RealNet net(loop->get(), nullptr, {});
  Serving serving(loop->get(), seed, median);
  std::shared_ptr<Session> session;
  auto listener = net.Listen("tcp://127.0.0.1:0", [&](std::unique_ptr<Connection> connection) {
    session = Session::Start(loop->get(), std::move(connection), &serving, {});
  });
  GEMEL_CHECK(listener.ok()) << listener.status();
  const std::string address = (*listener)->address() + "\n";
  GEMEL_CHECK_EQ(write(ready, address.data(), address.size()),
                 static_cast<ssize_t>(address.size()));
  (*loop)->RunUntil([&] { return serving.over(); }, kTimeNever);
  _exit(0);
}

struct Child {
  pid_t pid = 0;
  std::string address;
};

Child StartServing(uint64_t seed, Duration median) {
  int ready[2];
  GEMEL_CHECK_EQ(pipe(ready), 0);
  Child child;
  child.pid = fork();
  GEMEL_CHECK_GE(child.pid, 0);
  if (child.pid == 0) {
    RunServing(ready[1], seed, median);
  }
  for (char c = 0; read(ready[0], &c, 1) == 1 && c != '\n';) {
    child.address += c;
  }
  close(ready[0]);
  close(ready[1]);
  return child;
}

// ---------------------------------------------------------------------------------- the reader

class Reading {
 public:
  explicit Reading(EpollLoop* loop) : loop_(loop), digest_(Xxh3_128(Content())) {}

  void Connect(Net* net, const std::string& address) {
    Run(ConnectTo(this, net, address));
    sessions_.back()->SetPeerCancels();
  }

  // Milliseconds of each of `count` reads.
  std::vector<double> Read(size_t count, bool hedged) {
    std::vector<double> taken;
    size_t left = count;
    readers_ = kReaders;
    for (size_t reader = 0; reader < kReaders; ++reader) {
      loop_->Spawn(ReadMany(this, hedged, &left, &taken));
    }
    GEMEL_CHECK(loop_->RunUntil([this] { return readers_ == 0; }, loop_->Now() + kPatience));
    GEMEL_CHECK_EQ(taken.size(), count);
    return taken;
  }

  const HedgePolicy::Counts& counts() const { return policy_.counts(); }

  void Close() {
    for (const std::shared_ptr<Session>& session : sessions_) {
      session->Close(absl::CancelledError("done"));
    }
    bool over = false;
    loop_->Post([&over] { over = true; });
    loop_->RunUntil([&over] { return over; }, loop_->Now() + kPatience);
  }

 private:
  void Run(Task<void> task) {
    bool done = false;
    loop_->Spawn(Finish(std::move(task), &done));
    GEMEL_CHECK(loop_->RunUntil([&done] { return done; }, loop_->Now() + kPatience)) << "stuck";
  }

  static Task<void> Finish(Task<void> task, bool* done) {
    co_await std::move(task);
    *done = true;
  }

  static Task<void> ConnectTo(Reading* self, Net* net, std::string address) {
    auto made = co_await net->Connect(std::move(address), self->loop_->Now() + kPatience);
    GEMEL_CHECK(made.ok()) << made.status();
    self->sessions_.push_back(Session::Start(self->loop_, *std::move(made), nullptr, {}));
  }

  static Task<absl::StatusOr<Digest128>> ReadFrom(Reading* self, size_t server,
                                                  HedgedRead::Into into) {
    Request request;
    request.type = FrameType::kRead;
    request.stop = into.stop;
    const TimePoint deadline = self->loop_->Now() + kReadDeadline;
    const absl::StatusOr<Reply> reply =
        co_await self->sessions_[server]->Call(std::move(request), into.place, deadline);
    GEMEL_CO_RETURN_IF_ERROR(reply.status());
    co_return DigestOf(reply->payload, reply->landed);
  }

  static Task<void> ReadMany(Reading* self, bool hedged, size_t* left, std::vector<double>* taken) {
    while (*left > 0) {
      *left -= 1;
      const size_t server = self->turn_++ % kServers;
      const auto place = std::make_shared<std::vector<std::byte>>(kBytes);
      HedgedRead::Wanted wanted;
      wanted.place = *place;
      wanted.keep = place;
      wanted.digest = self->digest_;
      wanted.first = [self, server](HedgedRead::Into into) {
        return ReadFrom(self, server, std::move(into));
      };
      wanted.second = [self, server]() -> HedgedRead::Source {
        return [self, server](HedgedRead::Into into) {
          return ReadFrom(self, (server + 1) % kServers, std::move(into));
        };
      };
      HedgePolicy* const policy = hedged ? &self->policy_ : nullptr;
      const auto read = std::make_shared<HedgedRead>(self->loop_, policy, std::move(wanted));
      const TimePoint began = self->loop_->Now();
      const absl::Status done = co_await read->Result();
      GEMEL_CHECK(done.ok()) << done;
      taken->push_back(Milliseconds(self->loop_->Now() - began));
      self->readers_ += 1;
      self->loop_->Spawn(AwaitEnd(self, read));
    }
    self->readers_ -= 1;
  }

  // Who reads does not wait for the loser.
  static Task<void> AwaitEnd(Reading* self, std::shared_ptr<HedgedRead> read) {
    co_await read->Ended();
    self->readers_ -= 1;
  }

  EpollLoop* const loop_;
  const Digest128 digest_;
  HedgePolicy policy_;
  std::vector<std::shared_ptr<Session>> sessions_;
  size_t turn_ = 0;
  size_t readers_ = 0;  // and losers that have not ended
};

// ---------------------------------------------------------------------------------- the report

double Quantile(std::vector<double> values, double part) {
  GEMEL_CHECK(!values.empty());
  std::sort(values.begin(), values.end());
  const auto index = static_cast<size_t>(part * static_cast<double>(values.size() - 1) + 0.5);
  return values[index];
}

struct Figure {
  std::string name;
  std::string unit;
  std::vector<double> values;  // of the pairs
};

struct Target {
  std::string name;
  double value = 0;
  double bound = 0;

  bool met() const { return value <= bound; }
};

std::string OutputOf(const char* command) {
  std::string text;
  FILE* const pipe = popen(command, "r");
  GEMEL_CHECK(pipe != nullptr);
  for (int c = fgetc(pipe); c != EOF; c = fgetc(pipe)) {
    text += static_cast<char>(c);
  }
  pclose(pipe);
  while (!text.empty() && text.back() == '\n') {
    text.pop_back();
  }
  return text;
}

std::string MachineJson() {
  std::string cpu = "unknown";
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    if (line.starts_with("model name")) {
      cpu = line.substr(line.find(':') + 2);
      break;
    }
  }
  double load = 0;
  GEMEL_CHECK_EQ(getloadavg(&load, 1), 1);
  utsname name{};
  GEMEL_CHECK_EQ(uname(&name), 0);
  const double gib = static_cast<double>(sysconf(_SC_PHYS_PAGES)) *
                     static_cast<double>(sysconf(_SC_PAGE_SIZE)) / static_cast<double>(kGiB);
  return fmt::format(
      R"({{"cpu": "{}", "cores": {}, "memory_gib": {:.1f}, "kernel": "{}", "load": {:.2f}}})", cpu,
      sysconf(_SC_NPROCESSORS_ONLN), gib, static_cast<const char*>(name.release), load);
}

void WriteJson(const std::string& path, const std::vector<Figure>& figures,
               const std::vector<Target>& targets) {
  std::string commit = OutputOf("git describe --always --dirty 2>/dev/null");
  commit = commit.empty() ? "not a git checkout" : commit;
  std::string json = fmt::format("{{\n  \"bench\": \"hedge\",\n  \"commit\": \"{}\",\n", commit);
  json += fmt::format("  \"machine\": {},\n", MachineJson());
  for (const Figure& figure : figures) {
    json += fmt::format(
        "  \"{}\": {{\"min\": {}, \"median\": {}, \"max\": {}, \"count\": {}, \"unit\": \"{}\", "
        "\"values\": [{}]}},\n",
        figure.name, Quantile(figure.values, 0), Quantile(figure.values, 0.5),
        Quantile(figure.values, 1), figure.values.size(), figure.unit,
        fmt::join(figure.values, ", "));
  }
  json += "  \"targets\": {";
  for (const Target& target : targets) {
    json += fmt::format("{}\n    \"{}\": {{\"value\": {}, \"bound\": \"<= {}\", \"met\": {}}}",
                        &target == targets.data() ? "" : ",", target.name, target.value,
                        target.bound, target.met());
  }
  json += "\n  }\n}\n";
  std::filesystem::create_directories(std::filesystem::path(path).parent_path());
  std::ofstream file(path);
  file << json;
  file.close();
  if (!file) {
    fmt::print("{} could not be written\n", path);
  }
}

void AddTail(const std::string& mode, const std::vector<double>& taken,
             std::map<std::string, Figure>* figures) {
  const auto add = [&](const std::string& name, const std::string& unit, double value) {
    Figure& figure = (*figures)[mode + ": " + name];
    figure.name = mode + ": " + name;
    figure.unit = unit;
    figure.values.push_back(value);
  };
  const double p50 = Quantile(taken, 0.5);
  add("p50", "ms", p50);
  add("p99", "ms", Quantile(taken, 0.99));
  add("p99.9", "ms", Quantile(taken, 0.999));
  add("p99 / p50", "x", Quantile(taken, 0.99) / p50);
  add("p99.9 / p50", "x", Quantile(taken, 0.999) / p50);
}

bool Measure(Reading* reading, size_t pairs, size_t reads, const std::string& json) {
  std::map<std::string, Figure> tails;
  Figure extra{"hedged: extra requests", "%", {}};
  Figure wasted{"hedged: wasted bytes", "%", {}};
  reading->Read(kWarmUp, true);
  for (size_t pair = 0; pair < pairs; ++pair) {
    for (const bool hedged : {pair % 2 == 0, pair % 2 != 0}) {
      const HedgePolicy::Counts before = reading->counts();
      const std::vector<double> taken = reading->Read(reads, hedged);
      AddTail(hedged ? "hedged" : "unhedged", taken, &tails);
      if (hedged) {
        const HedgePolicy::Counts& after = reading->counts();
        const auto all = static_cast<double>(reads) / 100;
        extra.values.push_back(static_cast<double>(after.hedged - before.hedged) / all);
        wasted.values.push_back(static_cast<double>(after.wasted_bytes - before.wasted_bytes) /
                                (all * static_cast<double>(kBytes)));
      }
    }
  }
  std::vector<Figure> figures;
  for (const auto& [name, figure] : tails) {
    figures.push_back(figure);
  }
  figures.push_back(extra);
  figures.push_back(wasted);
  fmt::print("{:<28} {:>10} {:>10} {:>10}\n", "", "least", "median", "most");
  for (const Figure& figure : figures) {
    fmt::print("{:<28} {:>10.3f} {:>10.3f} {:>10.3f} {}\n", figure.name, Quantile(figure.values, 0),
               Quantile(figure.values, 0.5), Quantile(figure.values, 1), figure.unit);
  }
  const std::vector<Target> targets = {
      {"hedged: p99 / p50", Quantile(tails.at("hedged: p99 / p50").values, 0.5), kTailTarget},
      {"hedged: p99.9 / p50", Quantile(tails.at("hedged: p99.9 / p50").values, 0.5),
       kFarTailTarget},
      {"hedged: extra requests, %", Quantile(extra.values, 0.5), kExtraTarget}};
  bool met = true;
  for (const Target& target : targets) {
    fmt::print("{}: {:.3f} <= {}: {}\n", target.name, target.value, target.bound,
               target.met() ? "met" : "MISSED");
    met = met && target.met();
  }
  WriteJson(json, figures, targets);
  return met;
}

int Main(int argc, char** argv) {
  CLI::App app("Hedged reads against the same without, under stalls of one of a hundred");
  size_t pairs = 15;
  size_t reads = 5000;
  int64_t median_ms = 40;  // the loops' timers have a millisecond
  std::string json = "build/bench/hedge.json";
  app.add_option("--pairs", pairs, "measurements with and without hedges")
      ->check(CLI::Range(1, 1000));
  app.add_option("--reads", reads, "of a measurement")->check(CLI::Range(200, 10'000'000));
  app.add_option("--median-ms", median_ms, "what a read takes")->check(CLI::Range(1, 1000));
  app.add_option("--json", json, "where the figures go");
  CLI11_PARSE(app, argc, argv);
  std::vector<Child> children;
  for (uint64_t seed = 1; seed <= kServers; ++seed) {
    children.push_back(StartServing(seed, std::chrono::milliseconds(median_ms)));
  }
  auto loop = EpollLoop::Create();
  GEMEL_CHECK(loop.ok()) << loop.status();
  bool met = false;
  {
    RealNet net(loop->get(), nullptr, {});
    Reading reading(loop->get());
    for (const Child& child : children) {
      reading.Connect(&net, child.address);
    }
    met = Measure(&reading, pairs, reads, json);
    reading.Close();
  }
  for (const Child& child : children) {
    int status = 0;
    GEMEL_CHECK_EQ(waitpid(child.pid, &status, 0), child.pid);
    GEMEL_CHECK_EQ(status, 0);
  }
  return met ? 0 : 1;
}

}  // namespace
}  // namespace gemel

int main(int argc, char** argv) { return gemel::Main(argc, argv); }

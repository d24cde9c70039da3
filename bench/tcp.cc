// SPDX-License-Identifier: Apache-2.0
//
// The tcp fabric between two processes, against bare sockets on the same cores, in the same run.
//
//   bench_tcp [--mib 256] [--pairs 15] [--reads 20000] [--spin-us 100]
//
//   put    slices of 1 MiB under a grant, each to its final place, hashed there, answered; beside a
//          bare loop that sends and receives the same bytes, and one that hashes them as well
//   read   4 KiB to 2 MiB, one at a time, verified; beside a bare ping-pong of the same sizes
//
// Each measurement of ours stands between two of its yardstick; the ratio of a pair is against
// their mean. Printed: the median of the ratios and their spread; written with all samples to
// build/bench/tcp.json. CPU is user and system time of both processes. Ends with 1 when a target is
// missed.
#include <fmt/format.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "bench/bare_sockets.h"
#include "bench/pairs.h"
#include "common/check.h"
#include "common/epoll_loop.h"
#include "common/fields.h"
#include "common/sync.h"
#include "common/xxh3.h"
#include "transport/local/real_host.h"
#include "transport/peer/messages.h"
#include "transport/real_net.h"
#include "transport/region.h"
#include "transport/session.h"

namespace gemel {
namespace {

constexpr size_t kWindow = 8;  // outstanding writes, as a server's
constexpr Duration kPatience = 30s;
constexpr double kPutTarget = 0.90;      // of the bare rate
constexpr double kPutCpuTarget = 1.30;   // x the CPU of the bare loop that hashes
constexpr double kReadP50Target = 1.25;  // x the bare ping-pong
constexpr double kReadP99Target = 1.50;
constexpr uint64_t kReadSizes[] = {4 * kKiB, 64 * kKiB, 256 * kKiB, 2 * kMiB};

using Clock = std::chrono::steady_clock;

double Seconds(Clock::duration taken) { return std::chrono::duration<double>(taken).count(); }

// User and system time of this process so far.
double CpuSeconds() {
  rusage usage{};
  GEMEL_CHECK_EQ(getrusage(RUSAGE_SELF, &usage), 0);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) / 1e6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

// No zeros.
void Fill(MutableByteSpan bytes) {
  for (size_t i = 0; i < bytes.size(); ++i) {
    bytes[i] = static_cast<std::byte>((i * 2654435761U >> 13) | 1U);
  }
}

// Warm.
std::vector<std::byte> Buffer(uint64_t bytes) {
  std::vector<std::byte> made(bytes);
  Fill(made);
  return made;
}

// Warm shared memory, as a server's slabs are.
struct Shared {
  Shared(EpollLoop* loop, uint64_t size) {
    RealHost host(loop);
    const auto memory = host.CreateMemory("bench", size);
    GEMEL_CHECK(memory.ok()) << memory.status();
    auto mapped = host.Map(*memory, size, Access::kReadWrite, true);
    GEMEL_CHECK(mapped.ok()) << mapped.status();
    mapping = *std::move(mapped);
    Fill(mapping->bytes());
  }

  ByteSpan bytes() const { return mapping->bytes(); }

  std::unique_ptr<Mapping> mapping;
};

std::vector<Digest128> DigestsOf(ByteSpan bytes) {
  std::vector<Digest128> digests;
  for (uint64_t at = 0; at < bytes.size(); at += kChunkBytes) {
    digests.push_back(
        Xxh3_128(bytes.subspan(at, std::min<uint64_t>(kChunkBytes, bytes.size() - at))));
  }
  return digests;
}

// What one side asks the other to do on the bare socket.
struct Order {
  enum Kind : uint64_t { kTake, kTakeAndHash, kGive, kCpu, kEnd } kind = kEnd;

  uint64_t bytes = 0;
};

// --------------------------------------------------------------------------- the passive process

// What a server does with writes and reads (server/holder*.cc), without its tables.
class Passive final : public SessionHandler {
 public:
  explicit Passive(uint64_t bytes) : memory_(Buffer(bytes)) {}

  Placement PlaceRequestPayload(Session* session, const FrameHeader& header,
                                std::string_view /*body*/) override {
    absl::StatusOr<Placement> placement = regions_.BeginPlacing(header, {session});
    GEMEL_CHECK(placement.ok()) << placement.status();
    return *std::move(placement);
  }

  Task<Reply> Handle(std::shared_ptr<Session> session, IncomingRequest request) override {
    Reply reply;
    switch (request.header.type) {
      case FrameType::kOffer: {
        OfferReply grant;
        const Grant opened =
            regions_.Open({MutableByteSpan(memory_)}, memory_.size(), Incarnation());
        grant.region = opened.region;
        grant.generation = opened.generation;
        reply.body = EncodeMessage(grant);
        break;
      }
      case FrameType::kWrite: {
        const absl::StatusOr<Write> write = DecodeMessage<Write>(request.body);
        GEMEL_CHECK(write.ok()) << write.status();
        reply.status =
            regions_.FinishPlacing(request.header, write->digest, session.get(), request.landed);
        break;
      }
      case FrameType::kPeerSeal: {
        const auto closed = regions_.Close(request.header.region, request.header.generation);
        GEMEL_CHECK(closed.ok() && closed->complete) << closed.status();
        break;
      }
      default:  // kRead
        reply.payload = ByteSpan(memory_).subspan(request.header.offset, request.header.generation);
        break;
    }
    co_return reply;
  }

  void OnSessionClosed(Session* /*session*/, const absl::Status& /*why*/) override { over_ = true; }

  bool over() const { return over_; }

 private:
  std::vector<std::byte> memory_;
  RegionTable regions_;
  bool over_ = false;
};

// All of `memory`, answered when the last byte is there.
void TakeBare(int bare, MutableByteSpan memory, bool hashes) {
  Digest128 last;
  while (!memory.empty()) {
    const MutableByteSpan slice = memory.first(std::min<size_t>(kChunkBytes, memory.size()));
    ReadAll(bare, slice.data(), slice.size());
    if (hashes) {
      last = Xxh3_128(slice);
    }
    memory = memory.subspan(slice.size());
  }
  WriteAll(bare, &last, sizeof last);
}

void ServeBare(int bare, uint64_t most) {
  std::vector<std::byte> memory = Buffer(most);
  while (true) {
    Order order;
    ReadAll(bare, &order, sizeof order);
    if (order.kind == Order::kEnd) {
      return;
    }
    if (order.kind == Order::kGive) {
      WriteAll(bare, memory.data(), order.bytes);
    } else if (order.kind == Order::kCpu) {
      const double cpu = CpuSeconds();
      WriteAll(bare, &cpu, sizeof cpu);
    } else {
      TakeBare(bare, MutableByteSpan(memory).first(order.bytes), order.kind == Order::kTakeAndHash);
    }
  }
}

// Both at once would share the core with each other: the bare side is served by a thread that
// blocks, ours by the loop of this one.
[[noreturn]] void RunPassive(int bare, int ready, uint64_t most, Duration spin) {
  std::thread bare_thread([bare, most] { ServeBare(bare, most); });
  auto loop = EpollLoop::Create();
  GEMEL_CHECK(loop.ok()) << loop.status();
  (*loop)->SpinFor(spin);
  RealNet net(loop->get(), nullptr, {});
  Passive passive(most);
  std::shared_ptr<Session> session;
  auto listener = net.Listen("tcp://127.0.0.1:0", [&](std::unique_ptr<Connection> connection) {
    session = Session::Start(loop->get(), std::move(connection), &passive, {});
  });
  GEMEL_CHECK(listener.ok()) << listener.status();
  const std::string address = (*listener)->address() + "\n";
  GEMEL_CHECK_EQ(write(ready, address.data(), address.size()),
                 static_cast<ssize_t>(address.size()));
  (*loop)->RunUntil([&] { return passive.over(); }, kTimeNever);
  bare_thread.join();
  session.reset();
  _exit(0);
}

// ---------------------------------------------------------------------------- the active process

struct Cost {
  double wall_s = 0;
  double cpu_s = 0;
};

class Active {
 public:
  Active(EpollLoop* loop, std::shared_ptr<Session> session, int bare, uint64_t bytes)
      : loop_(loop),
        session_(std::move(session)),
        bare_(bare),
        source_(loop, bytes),
        target_(Buffer(2 * kMiB)),
        digests_(DigestsOf(source_.bytes())) {}

  double CpuOfBoth() const {
    const Order order{Order::kCpu, 0};
    double other = 0;
    WriteAll(bare_, &order, sizeof order);
    ReadAll(bare_, &other, sizeof other);
    return CpuSeconds() + other;
  }

  Cost Measure(const std::function<void()>& work) const {
    const double cpu = CpuOfBoth();
    const auto began = Clock::now();
    work();
    const double wall = Seconds(Clock::now() - began);
    return {wall, CpuOfBoth() - cpu};
  }

  void Run(Task<void> task) {
    bool done = false;
    loop_->Spawn(Finish(std::move(task), &done));
    GEMEL_CHECK(loop_->RunUntil([&done] { return done; }, loop_->Now() + kPatience)) << "stuck";
  }

  void Put() { Run(PutAll(this)); }

  void PutBare(Order::Kind kind) {
    const Order order{kind, source_.bytes().size()};
    WriteAll(bare_, &order, sizeof order);
    const ByteSpan source = source_.bytes();
    for (uint64_t at = 0; at < source.size(); at += kChunkBytes) {
      WriteAll(bare_, source.data() + at, std::min<uint64_t>(kChunkBytes, source.size() - at));
    }
    Digest128 last;
    ReadAll(bare_, &last, sizeof last);
  }

  // Seconds of each of `count` reads.
  std::vector<double> Read(uint64_t bytes, size_t count) {
    std::vector<double> taken;
    Run(ReadMany(this, bytes, count, &taken));
    return taken;
  }

  std::vector<double> ReadBare(uint64_t bytes, size_t count) {
    std::vector<double> taken;
    for (size_t i = 0; i < count; ++i) {
      const auto began = Clock::now();
      const Order order{Order::kGive, bytes};
      WriteAll(bare_, &order, sizeof order);
      ReadAll(bare_, target_.data(), bytes);
      taken.push_back(Seconds(Clock::now() - began));
    }
    return taken;
  }

 private:
  static Task<void> Finish(Task<void> task, bool* done) {
    co_await std::move(task);
    *done = true;
  }

  Task<Reply> Ask(Request request, MutableByteSpan into = {}) {
    absl::StatusOr<Reply> reply =
        co_await session_->Call(std::move(request), into, loop_->Now() + kPatience);
    GEMEL_CHECK(reply.ok() && reply->status.ok()) << reply.status();
    co_return *std::move(reply);
  }

  static Task<void> PutOne(Active* self, Request request, Semaphore* permits) {
    co_await self->Ask(std::move(request));
    permits->Release(1);
  }

  static Task<void> PutAll(Active* self) {
    Request ask;
    ask.type = FrameType::kOffer;
    ask.body = EncodeMessage(Offer());
    const Reply answer = co_await self->Ask(std::move(ask));
    const absl::StatusOr<OfferReply> grant = DecodeMessage<OfferReply>(answer.body);
    GEMEL_CHECK(grant.ok()) << grant.status();
    Semaphore permits(self->loop_, kWindow);
    for (size_t chunk = 0; chunk < self->digests_.size(); ++chunk) {
      co_await permits.Acquire(1, kTimeNever);
      const uint64_t at = chunk * kChunkBytes;
      Write write;
      write.digest = self->digests_[chunk];
      Request request;
      request.type = FrameType::kWrite;
      request.region = grant->region;
      request.generation = grant->generation;
      request.offset = at;
      request.body = EncodeMessage(write);
      request.payload = self->source_.bytes().subspan(
          at, std::min(kChunkBytes, self->source_.bytes().size() - at));
      self->loop_->Spawn(PutOne(self, std::move(request), &permits));
    }
    co_await permits.Acquire(kWindow, kTimeNever);
    Request seal;
    seal.type = FrameType::kPeerSeal;
    seal.region = grant->region;
    seal.generation = grant->generation;
    co_await self->Ask(std::move(seal));
  }

  static Task<void> ReadMany(Active* self, uint64_t bytes, size_t count,
                             std::vector<double>* taken) {
    Digest128 kept;
    for (size_t i = 0; i < count; ++i) {
      const auto began = Clock::now();
      for (uint64_t at = 0; at < bytes; at += kChunkBytes) {
        const uint64_t size = std::min(kChunkBytes, bytes - at);
        Request request;
        request.type = FrameType::kRead;
        request.offset = at;
        request.generation = size;  // here: how many bytes
        const MutableByteSpan into = MutableByteSpan(self->target_).subspan(at, size);
        const Reply reply = co_await self->Ask(std::move(request), into);
        kept = DigestOf(reply.payload, reply.landed);
      }
      taken->push_back(Seconds(Clock::now() - began));
    }
    GEMEL_CHECK(!kept.IsZero());
  }

  EpollLoop* const loop_;
  const std::shared_ptr<Session> session_;
  const int bare_;
  const Shared source_;
  std::vector<std::byte> target_;
  const std::vector<Digest128> digests_;
};

// ------------------------------------------------------------------------------------ the report

void MeasurePuts(Active* active, uint64_t bytes, size_t pairs, PairsReport* report) {
  const double gigabytes = static_cast<double>(bytes) / 1e9;
  Pairs rate{
      .what = "put", .unit = "GB/s", .yardstick = "bare", .target = kPutTarget, .at_least = true};
  Pairs cpu{.what = "put, CPU a GB",
            .unit = "s",
            .yardstick = "bare that hashes",
            .target = kPutCpuTarget};
  active->Put();
  for (size_t pair = 0; pair < pairs; ++pair) {
    const Cost before = active->Measure([&] { active->PutBare(Order::kTake); });
    const Cost hashed = active->Measure([&] { active->PutBare(Order::kTakeAndHash); });
    const Cost ours = active->Measure([&] { active->Put(); });
    const Cost after = active->Measure([&] { active->PutBare(Order::kTake); });
    const double bare = (before.wall_s + after.wall_s) / 2;
    rate.ours.push_back(gigabytes / ours.wall_s);
    rate.bare.push_back(gigabytes / bare);
    rate.ratios.push_back(bare / ours.wall_s);
    cpu.ours.push_back(ours.cpu_s / gigabytes);
    cpu.bare.push_back(hashed.cpu_s / gigabytes);
    cpu.ratios.push_back(ours.cpu_s / hashed.cpu_s);
  }
  report->Add(rate);
  report->Add(cpu);
}

void MeasureReads(Active* active, uint64_t size, size_t pairs, size_t reads, PairsReport* report) {
  const size_t count = std::max<size_t>(200, reads * 64 * kKiB / std::max(size, 64 * kKiB));
  const std::string what = fmt::format("read {} KiB", size / kKiB);
  Pairs middle{
      .what = what + ", p50", .unit = "us", .yardstick = "ping-pong", .target = kReadP50Target};
  Pairs tail{
      .what = what + ", p99", .unit = "us", .yardstick = "ping-pong", .target = kReadP99Target};
  for (size_t pair = 0; pair < pairs; ++pair) {
    const std::vector<double> bare = active->ReadBare(size, count / pairs + 1);
    const std::vector<double> ours = active->Read(size, count / pairs + 1);
    for (Pairs* line : {&middle, &tail}) {
      const double part = line == &middle ? 0.5 : 0.99;
      line->ours.push_back(1e6 * Quantile(ours, part));
      line->bare.push_back(1e6 * Quantile(bare, part));
      line->ratios.push_back(line->ours.back() / line->bare.back());
    }
  }
  report->Add(middle);
  report->Add(tail);
}

std::unique_ptr<Connection> Connected(EpollLoop* loop, RealNet* net, std::string peer) {
  std::unique_ptr<Connection> connection;
  bool done = false;
  auto connect_to = [](RealNet* from, std::string to, TimePoint deadline,
                       std::unique_ptr<Connection>* into, bool* over) -> Task<void> {
    auto made = co_await from->Connect(std::move(to), deadline);
    GEMEL_CHECK(made.ok()) << made.status();
    *into = *std::move(made);
    *over = true;
  };
  const TimePoint deadline = loop->Now() + kPatience;
  loop->Spawn(connect_to(net, std::move(peer), deadline, &connection, &done));
  GEMEL_CHECK(loop->RunUntil([&done] { return done; }, deadline));
  return connection;
}

RealNet::Options OptionsOf(bool by_reference) {
  RealNet::Options options;
  if (by_reference) {
    std::signal(SIGPIPE, SIG_IGN);  // NOLINT(cert-err33-c)
    options.tcp.by_reference = SendByReference::kAlways;
  }
  return options;
}

int Main(int argc, char** argv) {
  CLI::App app("The tcp fabric against bare sockets");
  uint64_t mib = 256;
  size_t pairs = 15;
  size_t reads = 20000;
  int64_t spin_us = 100;  // as a server's
  bool by_reference = false;
  app.add_option("--mib", mib, "bytes of one put")->check(CLI::Range(1, 4096));
  app.add_option("--pairs", pairs, "measurements, each beside its yardstick");
  app.add_option("--reads", reads, "of 64 KiB and less; fewer of larger ones");
  app.add_option("--spin-us", spin_us, "both loops poll so long before they park; 0: never");
  app.add_flag("--by-reference", by_reference, "payloads of a put always (docs/decisions/0020)");
  CLI11_PARSE(app, argc, argv);
  const Duration spin = std::chrono::microseconds(spin_us);
  const uint64_t bytes = mib * kMiB;
  int ready[2];
  GEMEL_CHECK_EQ(pipe(ready), 0);
  const int listening = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  GEMEL_CHECK(bind(listening, reinterpret_cast<sockaddr*>(&address), size) == 0 &&
              listen(listening, 1) == 0 &&
              getsockname(listening, reinterpret_cast<sockaddr*>(&address), &size) == 0);
  const pid_t child = fork();
  GEMEL_CHECK_GE(child, 0);
  if (child == 0) {
    const int bare = accept(listening, nullptr, nullptr);
    TuneBare(bare);
    RunPassive(bare, ready[1], std::max(bytes, 2 * kMiB), spin);
  }
  const int bare = socket(AF_INET, SOCK_STREAM, 0);
  GEMEL_CHECK_EQ(connect(bare, reinterpret_cast<sockaddr*>(&address), size), 0);
  TuneBare(bare);
  std::string peer;
  for (char c = 0; read(ready[0], &c, 1) == 1 && c != '\n';) {
    peer += c;
  }
  auto loop = EpollLoop::Create();
  GEMEL_CHECK(loop.ok()) << loop.status();
  (*loop)->SpinFor(spin);
  RealNet net(loop->get(), nullptr, OptionsOf(by_reference));
  PairsReport report("tcp");
  report.Fact("MiB of a put", static_cast<double>(mib));
  report.Fact("spin, us", static_cast<double>(spin_us));
  {
    auto session =
        Session::Start(loop->get(), Connected(loop->get(), &net, std::move(peer)), nullptr, {});
    Active active(loop->get(), session, bare, bytes);
    MeasurePuts(&active, bytes, pairs, &report);
    for (const uint64_t read : kReadSizes) {
      MeasureReads(&active, read, pairs, reads, &report);
    }
    const Order end{Order::kEnd, 0};
    WriteAll(bare, &end, sizeof end);
    session->Close(absl::CancelledError("done"));
    bool over = false;
    (*loop)->Post([&over] { over = true; });
    (*loop)->RunUntil([&over] { return over; }, (*loop)->Now() + kPatience);
  }
  int status = 0;
  GEMEL_CHECK_EQ(waitpid(child, &status, 0), child);
  GEMEL_CHECK_EQ(status, 0);
  return report.Finish();
}

}  // namespace
}  // namespace gemel

int main(int argc, char** argv) { return gemel::Main(argc, argv); }

// SPDX-License-Identifier: Apache-2.0
//
// Copy and digest, and each alone, against memcpy of the same bytes into warm memory, in turn.
//
//   bench_digest [--mib 256] [--pairs 15]
//
// 1 MiB a call, as the client does. Each measurement stands between two memcpys into the same
// memory: shared memory that asks for huge pages, as a server's slabs do, and one of 4 KiB pages.
// The source has 4 KiB pages, as a tensor has unless its allocator asks for others. Ends with 1
// when a target is missed; all samples are written to build/bench/digest.json.
#include <fmt/format.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "bench/copy_steps.h"
#include "bench/pairs.h"
#include "common/bytes.h"
#include "common/check.h"
#include "common/crc32c.h"
#include "common/xxh3.h"

namespace gemel {
namespace {

constexpr size_t kCallBytes = kMiB;
constexpr double kCopyAndDigestTarget = 0.85;  // x the rate of memcpy
constexpr double kCopyTarget = 0.95;

// Memory that was written before, with the pages that were asked for.
class Memory {
 public:
  Memory(size_t bytes, int flags, int advice)
      : bytes_(bytes),
        place_(mmap(nullptr, bytes, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS, -1, 0)) {
    GEMEL_CHECK(place_ != MAP_FAILED) << bytes;
    static_cast<void>(madvise(place_, bytes, advice));  // a wish: the kernel may have none
    std::memset(place_, 1, bytes);
  }

  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  ~Memory() { GEMEL_CHECK_EQ(munmap(place_, bytes_), 0); }

  std::byte* data() const { return static_cast<std::byte*>(place_); }

 private:
  const size_t bytes_;
  void* const place_;
};

// Digests go here, so that none is left out.
uint64_t sink = 0;

// `step(to, from, bytes)` over all of the memory.
using Step = std::function<void(std::byte*, const std::byte*, size_t)>;

struct Candidate {
  std::string what;
  Step step;
  std::optional<double> target;
};

class Bench {
 public:
  Bench(size_t bytes, size_t pairs, PairsReport* report)
      : bytes_(bytes),
        pairs_(pairs),
        report_(report),
        source_(bytes, MAP_PRIVATE, MADV_NOHUGEPAGE) {
    for (size_t i = 0; i < bytes; ++i) {
      source_.data()[i] = static_cast<std::byte>(i * 2654435761U >> 13);
    }
  }

  void Run(const Candidate& candidate, const Memory& target, const std::string& pages) {
    Pairs line{.what = fmt::format("{}, {}", candidate.what, pages),
               .unit = "GB/s",
               .yardstick = "memcpy",
               .target = candidate.target,
               .at_least = true};
    const double gigabytes = static_cast<double>(bytes_) / 1e9;
    const auto memcpy_all = [&] { std::memcpy(target.data(), source_.data(), bytes_); };
    const auto ours_all = [&] {
      for (size_t at = 0; at < bytes_; at += kCallBytes) {
        candidate.step(target.data() + at, source_.data() + at, kCallBytes);
      }
    };
    ours_all();
    double before = SecondsOf(memcpy_all);
    for (size_t pair = 0; pair < pairs_; ++pair) {
      const double ours = SecondsOf(ours_all);
      const double after = SecondsOf(memcpy_all);
      const double bare = (before + after) / 2;
      line.ours.push_back(gigabytes / ours);
      line.bare.push_back(gigabytes / bare);
      line.ratios.push_back(bare / ours);
      before = after;
    }
    report_->Add(line);
  }

 private:
  const size_t bytes_;
  const size_t pairs_;
  PairsReport* const report_;
  const Memory source_;
};

Step CopyAndDigestWith(Xxh3Isa isa) {
  return [isa](std::byte* to, const std::byte* from, size_t n) {
    sink += CopyAndDigest(to, from, n, isa).low;
  };
}

// What a save does, and its halves.
std::vector<Candidate> Chosen() {
  std::vector<Candidate> made = {
      {"copy + digest",
       [](std::byte* to, const std::byte* from, size_t n) {
         sink += CopyAndDigest(to, from, n).low;
       },
       kCopyAndDigestTarget},
  };
  const auto isas = SupportedXxh3Isas();
  if (!CopyStepsNeedAvx2() || std::find(isas.begin(), isas.end(), Xxh3Isa::kAvx2) != isas.end()) {
    made.push_back({"copy without digest", CopySteps, kCopyTarget});
  } else {
    fmt::print("copy without digest: left out, this processor has no AVX2\n");
  }
  return made;
}

std::vector<Candidate> Others() {
  std::vector<Candidate> made;
  for (const Xxh3Isa isa : SupportedXxh3Isas()) {
    made.push_back(
        {fmt::format("copy + digest, {}", Xxh3IsaName(isa)), CopyAndDigestWith(isa), {}});
    made.push_back({fmt::format("digest alone, {}", Xxh3IsaName(isa)),
                    [isa](std::byte*, const std::byte* from, size_t n) {
                      sink += Xxh3_128(std::span(from, n), isa).low;
                    },
                    {}});
  }
  made.push_back(
      {"crc32c alone",
       [](std::byte*, const std::byte* from, size_t n) { sink += Crc32c(std::span(from, n)); },
       {}});
  return made;
}

int Main(int argc, char** argv) {
  CLI::App app("Copy and digest against memcpy");
  size_t mib = 256;
  size_t pairs = 15;
  app.add_option("--mib", mib, "bytes of one measurement")->check(CLI::Range(1, 4096));
  app.add_option("--pairs", pairs, "measurements, each between two memcpys")
      ->check(CLI::Range(1, 1000));
  CLI11_PARSE(app, argc, argv);
  const size_t bytes = mib * kMiB;
  PairsReport report("digest");
  report.Fact("MiB", static_cast<double>(mib));
  const Memory slabs(bytes, MAP_SHARED, MADV_HUGEPAGE);
  const Memory small(bytes, MAP_SHARED, MADV_NOHUGEPAGE);
  report.Fact("of the memory as the slabs, MiB in huge pages", HugeMib());
  Bench bench(bytes, pairs, &report);
  for (const Candidate& candidate : Chosen()) {
    bench.Run(candidate, slabs, "pages as the slabs");
    bench.Run({candidate.what, candidate.step, {}}, small, "4 KiB pages");
  }
  for (const Candidate& candidate : Others()) {
    bench.Run(candidate, slabs, "pages as the slabs");
  }
  fmt::print("(sum of digests {:x})\n", sink);
  return report.Finish();
}

}  // namespace
}  // namespace gemel

int main(int argc, char** argv) { return gemel::Main(argc, argv); }

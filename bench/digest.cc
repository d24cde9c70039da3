// SPDX-License-Identifier: Apache-2.0
//
// Copy and digest against memcpy of the same bytes into warm memory, in the same run.
//
//   bench_digest [Google Benchmark flags]
//
// 256 MiB, 1 MiB a call as the client does; every benchmark is repeated, the repetitions of all
// are shuffled together, and the table at the end gives the ratio of medians and the spread.
// Ends with 1 when the chosen copy + digest stays below kTargetRatio of memcpy. The machine is in
// Google Benchmark's header (and in its JSON with --benchmark_out).
#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "benchmark/benchmark.h"

#include "common/check.h"
#include "common/crc32c.h"
#include "common/xxh3.h"

namespace gemel {
namespace {

constexpr size_t kBufferBytes = size_t{256} << 20;
constexpr size_t kChunkBytes = size_t{1} << 20;
static_assert(kBufferBytes % kChunkBytes == 0);
constexpr double kTargetRatio = 0.7;
constexpr char kYardstick[] = "memcpy/whole";
constexpr char kChosen[] = "copy_and_digest/chosen";

// Two buffers every benchmark shares: warm means that each page has been written before.
struct WarmBuffers {
  WarmBuffers() : source(kBufferBytes), target(kBufferBytes, std::byte{1}) {
    for (size_t i = 0; i < kBufferBytes; ++i)
      source[i] = static_cast<std::byte>(i * 2654435761u >> 13);
  }

  std::vector<std::byte> source;
  std::vector<std::byte> target;
};

WarmBuffers& Buffers() {
  static WarmBuffers buffers;
  return buffers;
}

// Runs `step(target, source, bytes)` over the whole buffer, `bytes` at a time.
template <typename Step>
void Sweep(benchmark::State& state, size_t bytes, Step step) {
  WarmBuffers& buffers = Buffers();
  for (auto _ : state) {
    for (size_t at = 0; at < kBufferBytes; at += bytes) {
      step(buffers.target.data() + at, buffers.source.data() + at, bytes);
    }
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations()) *
                          static_cast<int64_t>(kBufferBytes));
}

void Add(const std::string& name, size_t bytes, auto step) {
  benchmark::RegisterBenchmark(name.c_str(),
                               [=](benchmark::State& state) { Sweep(state, bytes, step); })
      ->Unit(benchmark::kMillisecond)
      ->UseRealTime();
}

void RegisterAll() {
  const auto copy = [](std::byte* to, const std::byte* from, size_t n) {
    std::memcpy(to, from, n);
  };
  Add(kYardstick, kBufferBytes, copy);
  Add("memcpy/chunks", kChunkBytes, copy);
  Add(kChosen, kChunkBytes, [](std::byte* to, const std::byte* from, size_t n) {
    benchmark::DoNotOptimize(CopyAndDigest(to, from, n));
  });
  for (Xxh3Isa isa : SupportedXxh3Isas()) {
    const std::string name(Xxh3IsaName(isa));
    Add("copy_and_digest/" + name, kChunkBytes,
        [=](std::byte* to, const std::byte* from, size_t n) {
          benchmark::DoNotOptimize(CopyAndDigest(to, from, n, isa));
        });
    Add("xxh3/" + name, kChunkBytes, [=](std::byte*, const std::byte* from, size_t n) {
      benchmark::DoNotOptimize(Xxh3_128(std::span(from, n), isa));
    });
  }
  Add("crc32c/table", kChunkBytes, [](std::byte*, const std::byte* from, size_t n) {
    benchmark::DoNotOptimize(internal::Crc32cTable(std::span(from, n), 0));
  });
  Add("crc32c/chosen", kChunkBytes, [](std::byte*, const std::byte* from, size_t n) {
    benchmark::DoNotOptimize(Crc32c(std::span(from, n)));
  });
}

// Keeps the time of every repetition beside the usual console lines.
class RatioReporter : public benchmark::ConsoleReporter {
 public:
  void ReportRuns(const std::vector<Run>& runs) override {
    for (const Run& run : runs) {
      if (run.run_type == Run::RT_Iteration && !run.error_occurred) {
        milliseconds_[run.run_name.function_name].push_back(run.GetAdjustedRealTime());
      }
    }
    ConsoleReporter::ReportRuns(runs);
  }

  // False when the target is missed; true also when a filter left the pair out.
  bool PrintRatios() {
    const auto yardstick = milliseconds_.find(kYardstick);
    if (yardstick == milliseconds_.end()) return true;
    const double base = Median(yardstick->second);
    std::printf("\n%-26s %9s %9s %9s %15s\n", "256 MiB", "median ms", "GB/s", "spread %",
                "x memcpy/whole");
    for (auto& [name, times] : milliseconds_) PrintLine(name, times, base);
    const auto chosen = milliseconds_.find(kChosen);
    if (chosen == milliseconds_.end()) return true;
    const bool met = base / Median(chosen->second) >= kTargetRatio;
    std::printf("copy + digest (%s) >= %.1f x memcpy: %s\n",
                std::string(Xxh3IsaName(PreferredXxh3Isa())).c_str(), kTargetRatio,
                met ? "met" : "missed");
    return met;
  }

 private:
  static double Median(std::vector<double> values) {
    GEMEL_CHECK(!values.empty());
    std::sort(values.begin(), values.end());
    return values[values.size() / 2];
  }

  static void PrintLine(const std::string& name, const std::vector<double>& times, double base) {
    const double median = Median(times);
    const auto [least, most] = std::minmax_element(times.begin(), times.end());
    std::printf("%-26s %9.2f %9.2f %9.1f %15.3f\n", name.c_str(), median,
                kBufferBytes / median / 1e6, 100 * (*most - *least) / median, base / median);
  }

  std::map<std::string, std::vector<double>> milliseconds_;
};

int Main(int argc, char** argv) {
  // The defaults come first: a flag of the caller wins.
  std::string repetitions = "--benchmark_repetitions=9";
  std::string interleaving = "--benchmark_enable_random_interleaving=true";
  std::string min_time = "--benchmark_min_time=0.1";
  std::vector<char*> arguments = {argv[0], repetitions.data(), interleaving.data(),
                                  min_time.data()};
  arguments.insert(arguments.end(), argv + 1, argv + argc);
  int count = static_cast<int>(arguments.size());
  arguments.push_back(nullptr);
  benchmark::Initialize(&count, arguments.data());
  if (benchmark::ReportUnrecognizedArguments(count, arguments.data())) return 2;
  RegisterAll();
  RatioReporter reporter;
  benchmark::RunSpecifiedBenchmarks(&reporter);
  return reporter.PrintRatios() ? 0 : 1;
}

}  // namespace
}  // namespace gemel

int main(int argc, char** argv) { return gemel::Main(argc, argv); }

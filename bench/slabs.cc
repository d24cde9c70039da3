// SPDX-License-Identifier: Apache-2.0
//
// How long a server takes to find memory for a shard (server/slabs.h), beside malloc of a block.
//
//   bench_slabs [--slabs 256] [--takes 20000] [--pairs 15]
//
// A pool of 1 MiB slabs, half of which objects hold, in random order; a client takes one slab for a
// shard and an older one is released, so that every slab changes hands. The yardstick is malloc and
// free of blocks of the same number and size in the same order: address space, not memory.
// Ends with 1 when the 99th percentile is above the target.
#include "server/slabs.h"

#include <algorithm>
#include <cstdlib>
#include <vector>

#include "CLI/CLI.hpp"
#include "bench/pairs.h"
#include "common/check.h"
#include "common/daemon.h"
#include "common/epoll_loop.h"
#include "common/metrics.h"
#include "common/random.h"
#include "transport/local/real_host.h"

namespace gemel {
namespace {

constexpr double kTargetNs = 1000;
constexpr uint64_t kSlabBytes = kMiB;

// Takes and releases in one random order; the times of the takes.
template <typename Block, typename Take, typename Release>
std::vector<double> TimesOf(size_t held, size_t takes, Take&& take, Release&& release) {
  Random random(1);
  std::vector<Block> blocks;
  std::vector<double> times;
  for (size_t i = 0; i < held; ++i) {
    blocks.push_back(take());
  }
  for (size_t i = 0; i < takes; ++i) {
    Block& oldest = blocks[random.Below(held)];
    release(oldest);
    times.push_back(1e9 * SecondsOf([&] { oldest = take(); }));
  }
  for (const Block& block : blocks) {
    release(block);
  }
  return times;
}

std::shared_ptr<SlabPool> MakePool(const ServerSeams& seams, size_t slabs) {
  SlabPool::Options options;
  options.server.bytes[0] = 1;
  options.slab_bytes = kSlabBytes;
  options.memory_bytes = slabs * kSlabBytes;
  auto pool = SlabPool::Create(seams, options);
  GEMEL_CHECK(pool.ok()) << pool.status();
  return *std::move(pool);
}

int Run(size_t slabs, size_t takes, size_t pairs) {
  auto loop = EpollLoop::Create();
  GEMEL_CHECK(loop.ok()) << loop.status();
  RealHost host(loop->get());
  MetricRegistry metrics;
  LogEvents events(&metrics);
  ServerSeams seams;
  seams.loop = loop->get();
  seams.host = &host;
  seams.metrics = &metrics;
  seams.events = &events;
  const std::shared_ptr<SlabPool> pool = MakePool(seams, slabs);
  const HolderKey client = pool->AddHolder(1);
  const auto take = [&] { return pool->Take(client, kSlabBytes)->front(); };
  const auto release = [&](uint32_t slab) { pool->Release(slab); };
  const auto allocate = [] { return std::malloc(kSlabBytes); };
  const auto free = [](void* block) { std::free(block); };
  Pairs p50{.what = "a slab for a shard, p50", .unit = "ns", .yardstick = "malloc"};
  Pairs p99{.what = "the same, p99", .unit = "ns", .yardstick = "malloc"};
  double worst = 0;
  for (size_t i = 0; i < pairs; ++i) {
    const std::vector<double> ours = TimesOf<uint32_t>(slabs / 2, takes, take, release);
    const std::vector<double> bare = TimesOf<void*>(slabs / 2, takes, allocate, free);
    for (auto* const of : {&p50, &p99}) {
      const double part = of == &p50 ? 0.5 : 0.99;
      of->ours.push_back(Quantile(ours, part));
      of->bare.push_back(Quantile(bare, part));
      of->ratios.push_back(of->ours.back() / of->bare.back());
    }
    worst = std::max(worst, p99.ours.back());
  }
  PairsReport report("slabs");
  report.Fact("slabs", static_cast<double>(slabs));
  report.Add(p50);
  report.Add(p99);
  Pairs target{.what = "p99, us", .unit = "us", .yardstick = "the target"};
  for (const double ns : p99.ours) {
    target.ours.push_back(ns / kTargetNs);
    target.bare.push_back(1);
    target.ratios.push_back(ns / kTargetNs);
  }
  target.target = 1.0;
  report.Add(target);
  return report.Finish();
}

}  // namespace
}  // namespace gemel

int main(int argc, char** argv) {
  CLI::App app("Memory for a shard, beside malloc");
  size_t slabs = 256;
  size_t takes = 20000;
  size_t pairs = 15;
  app.add_option("--slabs", slabs, "of the pool")->check(CLI::Range(2, 4096));
  app.add_option("--takes", takes, "of one measurement")->check(CLI::PositiveNumber);
  app.add_option("--pairs", pairs, "measurements, each beside its yardstick")
      ->check(CLI::PositiveNumber);
  CLI11_PARSE(app, argc, argv);
  return gemel::Run(slabs, takes, pairs);
}

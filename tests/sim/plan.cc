// SPDX-License-Identifier: Apache-2.0
#include "tests/sim/plan.h"

#include <fmt/format.h>

#include <algorithm>

#include "common/check.h"
#include "common/random.h"
#include "server/limits.h"

namespace gemel::sim {
namespace {

constexpr uint64_t kSmallShardMax = 150 * kKiB;
constexpr uint64_t kLargeShardMax = 2 * kMiB + 300 * kKiB;
constexpr uint32_t kCopiesMax = 3;
constexpr uint64_t kMemoryMin = 16 * kMiB;
constexpr Duration kScrubPass = 2s;

// A choice among weights: its index.
size_t Weighted(Random* random, std::initializer_list<uint32_t> weights) {
  uint64_t sum = 0;
  for (const uint32_t weight : weights) {
    sum += weight;
  }
  uint64_t drawn = random->Below(sum);
  size_t index = 0;
  for (const uint32_t weight : weights) {
    if (drawn < weight) {
      return index;
    }
    drawn -= weight;
    index += 1;
  }
  GEMEL_CHECK(false) << "weights that do not add up";
  return 0;
}

uint32_t Between(Random* random, uint32_t min, uint32_t max) {
  return min + static_cast<uint32_t>(random->Below(max - min + 1));
}

// Most often small, seldom up to the bounds.
uint32_t DrawServers(Random random) {
  constexpr uint32_t kServers[] = {1, 2, 3, 4, 5, 6, 7, 8, 9};
  return kServers[Weighted(&random, {4, 8, 36, 22, 14, 6, 4, 3, 3})];
}

JobPlan DrawJob(uint32_t index, uint32_t servers, Random random) {
  JobPlan job;
  job.name = fmt::format("job-{}", index);
  // A second and a third job are small: they are there to be in each other's way.
  const size_t size = index == 0 ? Weighted(&random, {78, 17, 5}) : 0;
  job.ranks_max = size == 0   ? Between(&random, 1, 4)
                  : size == 1 ? Between(&random, 5, 8)
                              : Between(&random, 9, 16);
  job.shard_bytes_max = size == 0 && random.Chance(2, 3) ? kLargeShardMax : kSmallShardMax;
  job.copies = std::min<uint32_t>(
      {1 + static_cast<uint32_t>(Weighted(&random, {12, 66, 22})), kCopiesMax, servers});
  job.keep_latest = 1 + static_cast<uint32_t>(Weighted(&random, {60, 25, 15}));
  job.persist_every = static_cast<uint32_t>(Weighted(&random, {30, 25, 25, 20}));
  job.persist_copies = 1 + static_cast<uint32_t>(random.Below(std::min(2U, job.copies)));
  return job;
}

// Enough for all ranks of all jobs on one host, with what is kept, in flight, pinned and admitted.
uint64_t MemoryFor(const std::vector<JobPlan>& jobs, uint64_t slab_bytes) {
  uint64_t bytes = kMemoryMin;
  for (const JobPlan& job : jobs) {
    const uint64_t slabs = DivideUp(job.shard_bytes_max, slab_bytes);
    bytes += uint64_t{job.ranks_max} * slabs * slab_bytes * (job.keep_latest + 3);
  }
  return bytes;
}

PlacementOptions DrawPlacement(Random random) {
  PlacementOptions options;
  LivenessOptions& times = options.liveness;
  const uint32_t factor = Between(&random, 60, 250);  // per cent of the defaults
  const auto scaled = [factor](Duration duration) { return duration * factor / 100; };
  times.suspect_after = scaled(times.suspect_after);
  times.dead_after = std::max(scaled(times.dead_after), 3 * kHeartbeatDeadline);
  times.hang_after = times.dead_after + 50ms;
  times.probe_timeout = scaled(times.probe_timeout);
  times.tick = std::chrono::milliseconds(Between(&random, 20, 100));
  times.heartbeat_ms = Between(&random, 40, 150);
  times.startup_grace = std::chrono::milliseconds(Between(&random, 1500, 3000));
  options.in_flight_max = Between(&random, 1, 4);
  options.wait_max = std::chrono::milliseconds(Between(&random, 300, 30'000));
  return options;
}

void DrawFaults(const ScenarioOptions& options, const Random& random, RunPlan* plan) {
  Random subset = random.Split("subset");
  const uint64_t share = Between(&subset, 10, 70);  // per cent of the classes
  for (size_t i = 0; i < kFaultCount; ++i) {
    const auto fault = static_cast<Fault>(i);
    Random stream = random.Split(NameOf(fault));
    const bool wanted = stream.Chance(share, 100);
    plan->strength[i] = Between(&stream, 1, 100);
    if (wanted && !options.disabled.contains(fault)) {
      plan->enabled.insert(fault);
    }
  }
}

}  // namespace

RunPlan DrawPlan(const ScenarioOptions& options) {
  const Random random = Random(options.seed).Split("plan");
  RunPlan plan;
  ClusterShape& shape = plan.shape;
  Random racks = random.Split("racks");
  Random sizes = random.Split("sizes");
  shape.servers = std::max(1U, std::min(DrawServers(random.Split("servers")), options.servers_max));
  Random managers = random.Split("managers");
  shape.managers = 1 + static_cast<uint32_t>(Weighted(&managers, {60, 12, 28}));
  shape.racks = racks.Chance(1, 2) ? 0 : Between(&racks, 1, 3);
  shape.spares = static_cast<uint32_t>(sizes.Below(2));
  shape.slab_bytes = kMiB << sizes.Below(2);
  shape.keepers = random.Split("keepers").Chance(1, 2);
  Random scrub = random.Split("scrub");
  shape.scrub_pass = scrub.Chance(1, 2) ? kScrubPass : 0s;
  if (Random patience = random.Split("disk patience"); options.knobs && patience.Chance(1, 2)) {
    shape.disk_patience = std::chrono::milliseconds(Between(&patience, 50, 1000));
  }
  shape.control_protocol =
      random.Split("release").Chance(1, 3) ? kControlProtocolOldest : kControlProtocolVersion;
  Random jobs = random.Split("jobs");
  const auto count = 1 + static_cast<uint32_t>(Weighted(&jobs, {68, 22, 10}));
  for (uint32_t i = 0; i < std::max(1U, std::min(count, options.jobs_max)); ++i) {
    JobPlan job = DrawJob(i, shape.servers, jobs.Split(fmt::format("job {}", i)));
    job.ranks_max = std::max(1U, std::min(job.ranks_max, options.ranks_max));
    job.strategy = random.Split("strategies").Split(job.name).Chance(1, 5) ? StrategyChoice::kRing
                                                                           : StrategyChoice::kGroup;
    plan.jobs.push_back(std::move(job));
  }
  shape.memory_bytes = MemoryFor(plan.jobs, shape.slab_bytes);
  Random knobs = random.Split("knobs");
  if (knobs.Chance(1, 2) && options.knobs) {
    shape.placement = DrawPlacement(knobs);
  }
  DrawFaults(options, random.Split("faults"), &plan);
  if (shape.control_protocol < kControlProtocolNumbersJoins || plan.Has(Fault::kUpgrade)) {
    // A join that is executed once more, late: nothing tells that it is old. Hence version 2.
    for (const Fault fault : {Fault::kLateCalls, Fault::kDuplicates, Fault::kStragglers}) {
      plan.enabled.erase(fault);
    }
  }
  for (JobPlan& job : plan.jobs) {
    job.odd_permille = plan.Has(Fault::kOddRank) ? 1 + plan.StrengthOf(Fault::kOddRank) / 10 : 0;
  }
  plan.overkill = random.Split("overkill").Chance(1, 6) && options.overkill;
  return plan;
}

std::string Describe(const RunPlan& plan) {
  std::string text = fmt::format(
      "{} managers; {} servers and {} spares of {} MiB in {} racks{}{}", plan.shape.managers,
      plan.shape.servers, plan.shape.spares, plan.shape.memory_bytes / kMiB, plan.shape.racks,
      plan.shape.keepers ? ", with keepers" : "", plan.shape.scrub_pass > 0s ? ", scrubbed" : "");
  for (const JobPlan& job : plan.jobs) {
    text += fmt::format("; {}: {} ranks, {} copies by {}, keeps {}, every {} to {} disks", job.name,
                        job.ranks_max, job.copies, NameOf(job.strategy), job.keep_latest,
                        job.persist_every, job.persist_copies);
  }
  text += "; faults:";
  for (const Fault fault : plan.enabled) {
    text += fmt::format(" {}={}", NameOf(fault), plan.StrengthOf(fault));
  }
  return text + (plan.overkill ? "; overkill" : "");
}

}  // namespace gemel::sim

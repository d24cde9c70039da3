// SPDX-License-Identifier: Apache-2.0
//
// Backlog: what repair has to do, as one look at the whole cluster finds it: committed shards that
// lack copies in memory or on disk, most at risk first. What is on a draining server is a source
// and counts for nothing.
//
// Thread safety: values, on the manager's loop. Ownership: Job pointers are the manager's, for
// ever. Invariant: a backlog is used within the turn of the loop that made it.
#pragma once

#include <compare>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "common/ids.h"
#include "placement/model/retention.h"

namespace gemel {

struct Job;

inline constexpr size_t kBacklogLinesMax = 16;  // sentences for people; more are left out

// A committed shard that lacks copies in memory.
struct RepairTask {
  uint32_t living = 0;  // copies in memory
  uint32_t wanted = 0;  // copies its writer asked for
  uint32_t age = 0;     // 0: its job's newest snapshot in memory
  Job* job = nullptr;
  model::SnapshotOrder order;
  uint32_t rank = 0;
  uint64_t bytes = 0;
  uint32_t missing = 0;

  // One more loss and the shard is gone, or it is on disk only.
  bool urgent() const { return living <= 1 && living < wanted; }
};

// The last copy first; of these the newest snapshot; then by name and rank.
bool IsMoreAtRisk(const RepairTask& a, const RepairTask& b);

// A shard of a persisted snapshot that lacks copies on disk.
struct RewriteTask {
  Job* job = nullptr;
  model::SnapshotOrder order;
  uint32_t rank = 0;
  uint64_t bytes = 0;
  uint32_t missing = 0;
};

// Of one draining server: what others do not hold often enough.
struct DrainLeft {
  uint64_t shards = 0;
  uint64_t bytes = 0;
  uint64_t persisted_shards = 0;
  uint32_t open_saves = 0;
  uint32_t records = 0;  // snapshots whose commit record is on too few other disks
};

struct Backlog {
  std::vector<RepairTask> tasks;
  std::vector<RewriteTask> rewrites;
  uint64_t bytes = 0;
  uint64_t last_copy_shards = 0;
  uint64_t lost_shards = 0;
  uint64_t unknown_snapshots = 0;
  std::map<ServerId, DrainLeft> draining;
  std::set<std::string> blocked;
  std::set<std::string> waiting;

  bool empty() const {
    return tasks.empty() && rewrites.empty() && lost_shards == 0 && unknown_snapshots == 0 &&
           blocked.empty();
  }
};

// At the bound nothing is added: the first sentences are enough to act on.
void AddLine(std::set<std::string>* lines, std::string line);

// What one planning pass hands out.
using Room = std::map<ServerId, uint64_t>;  // bytes that still fit
using KnownHeirs = std::map<std::pair<const Job*, ServerId>, std::optional<ServerId>>;

}  // namespace gemel

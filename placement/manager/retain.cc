// SPDX-License-Identifier: Apache-2.0
//
// Maintenance of a job: finish dispersal, retire what newer snapshots at full redundancy make
// unneeded (amendment 8), repair redundancy. Nothing is dropped from a server before it is gone
// from the MetaStore.
#include "common/check.h"
#include "common/errors.h"
#include "common/points.h"
#include "placement/manager/core.h"
#include "placement/manager/parts.h"

namespace gemel {
namespace {

constexpr Duration kRarePause = 50ms;  // where the simulator lets the manager pause

}  // namespace

bool PlacementCore::IsPinned(const Job& job, const model::SnapshotOrder& order) const {
  const auto found = job.snapshots.find(order);
  const bool written = found != job.snapshots.end() &&
                       (found->second.persist.has_value() || !found->second.rewrites.empty());
  return written || IsRead(job, order);
}

bool PlacementCore::IsRead(const Job& job, const model::SnapshotOrder& order) {
  if (job.reads.contains(order)) {
    return true;
  }
  if (!job.restore.has_value()) {
    return false;
  }
  // Ranks save when they were told that all have verified, which need not have come to the store.
  const RestoreRecord& record = job.restore->record;
  const bool reads = record.epoch == job.record.epoch && !job.record.epoch_opened;
  return reads && record.chosen_sequence != 0 && !RestoreDone(record) &&
         OrderOf(record.chosen_epoch, record.chosen_sequence) == order;
}

// Those in memory. One not yet told counts as not fully redundant: nothing older goes for its sake.
std::vector<model::RetentionEntry> PlacementCore::Entries(const Job& job) const {
  std::vector<model::RetentionEntry> entries;
  entries.reserve(job.snapshots.size());
  for (const auto& [order, snapshot] : job.snapshots) {
    if (!snapshot.in_memory) {
      continue;
    }
    entries.push_back({.order = order,
                       .name = snapshot.record.snapshot.name,
                       .attempt = snapshot.record.snapshot.attempt,
                       .fully_redundant = snapshot.told && snapshot.full,
                       .pinned = IsPinned(job, order)});
  }
  return entries;
}

// While it is set nobody begins to read or persist them.
void PlacementCore::SetLeaving(Job* job, const std::vector<model::SnapshotOrder>& orders,
                               bool leaving) {
  for (const model::SnapshotOrder& order : orders) {
    GEMEL_CHECK(job->snapshots.at(order).leaving != leaving) << job->name;
    job->snapshots.at(order).leaving = leaving;
  }
}

Task<absl::Status> PlacementCore::WriteLeaving(Job* job, JobRecord record, Txn more,
                                               std::vector<model::SnapshotOrder> leaving) {
  SetLeaving(job, leaving, true);
  std::vector<Finished> ended;
  ended.reserve(leaving.size());
  for (const model::SnapshotOrder& order : leaving) {
    ended.push_back(EndedOf(job->snapshots.at(order)));
  }
  if (!ended.empty()) {
    more.puts.push_back(EndedPut(*job, ended));
  }
  const absl::Status written = co_await WriteJob(job, record, std::move(more));
  SetLeaving(job, leaving, false);
  if (written.ok()) {
    for (Finished& one : ended) {
      Remember(job, std::move(one));
    }
  }
  co_return written;
}

// Its key is gone from the MetaStore; the caller sees to the copies.
void PlacementCore::LeaveMemory(Job* job, const model::SnapshotOrder& order) {
  const auto found = job->snapshots.find(order);
  GEMEL_CHECK(found != job->snapshots.end()) << job->name;
  GEMEL_CHECK(!IsPinned(*job, order)) << found->second.record.snapshot.ToString();
  if (found->second.persisted) {
    found->second.in_memory = false;
    found->second.leaving = false;
    found->second.replaced.clear();
  } else {
    job->snapshots.erase(found);
  }
}

void PlacementCore::ForgetSnapshot(Job* job, const model::SnapshotOrder& order) {
  const SnapshotId id = job->snapshots.at(order).record.snapshot;
  const std::vector<SnapshotId> replaced = job->snapshots.at(order).replaced;
  if (!job->snapshots.at(order).persisted) {
    DropPersistedEverywhere(id);
  }
  LeaveMemory(job, order);
  DropEverywhere(id);
  for (const SnapshotId& old : replaced) {
    DropEverywhere(old);
    if (!job->snapshots.contains(OrderOf(old.epoch, old.sequence))) {
      DropPersistedEverywhere(old);
    }
  }
}

// Policy: that of the newest snapshot's writer.
Task<absl::Status> PlacementCore::RetireOnce(Job* job) {
  const LockHold hold = co_await Lock(&job->lock);
  if (job->snapshots.empty()) {
    co_return absl::OkStatus();
  }
  const std::vector<model::RetentionEntry> entries = Entries(*job);
  const uint32_t keep = job->snapshots.rbegin()->second.record.keep_latest;
  std::vector<model::SnapshotOrder> retired;
  Txn txn;
  for (const size_t index : model::Retire(entries, keep)) {
    if (retired.size() == kLeavingMax) {
      job->maintain_again = true;
      break;
    }
    const model::SnapshotOrder& order = entries[index].order;
    const SnapshotId& id = job->snapshots.at(order).record.snapshot;
    txn.deletes.push_back(StoredSnapshotKey(id.job, id.epoch, id.sequence));
    retired.push_back(order);
  }
  if (retired.empty()) {
    co_return absl::OkStatus();
  }
  GEMEL_CHECK_LT(retired.size(), job->snapshots.size()) << job->name;
  GEMEL_CO_RETURN_IF_ERROR(co_await WriteLeaving(job, job->record, std::move(txn), retired));
  Reach(CrashPoint::kRetireDurable);
  for (const model::SnapshotOrder& order : retired) {
    ForgetSnapshot(job, order);
  }
  job->changed.NotifyAll();
  co_return absl::OkStatus();
}

Task<void> PlacementCore::Maintain(Job* job) {
  do {
    job->maintain_again = false;
    if (Buggify(BuggifySite::kMaintainLate)) {
      co_await loop_->Sleep(kRarePause);
    }
    for (auto& [order, snapshot] : job->snapshots) {
      if (snapshot.manifest_idle && (snapshot.full || !snapshot.in_memory)) {
        continue;
      }
      if (!LearnManifest(&snapshot)) {
        FetchManifest(&snapshot);
      }
      CountCopies(&snapshot);
      Disperse(job, &snapshot);
      LetManifestGo(*job, order, &snapshot);
    }
    absl::Status retired = co_await RetireOnce(job);
    if (retired.ok()) {
      retired = co_await RetirePersisted(job);
    }
    if (!retired.ok() && !stopping_) {
      Emit(Severity::kWarning, "retire_refused", ToText(retired));
    }
    MaintainDisks(job);
    RepairSoon();
  } while (job->maintain_again && !stopping_);
  job->maintaining = false;
}

// Persists go on, and what no persist needs any more goes.
void PlacementCore::MaintainDisks(Job* job) {
  std::vector<model::SnapshotOrder> running;
  for (const auto& [order, snapshot] : job->snapshots) {
    if (snapshot.persist.has_value()) {
      running.push_back(order);
    } else if (!snapshot.in_memory && !IsPinned(*job, order)) {
      DropEverywhere(snapshot.record.snapshot);  // what a reader brought into memory
    }
  }
  for (const model::SnapshotOrder& order : running) {
    PersistStep(job, order);
  }
  StartDue(job);
  SweepDisks(job);
}

void PlacementCore::MaintainSoon(Job* job) {
  job->maintain_again = true;
  if (!job->maintaining && !stopping_ && !job->snapshots.empty()) {
    job->maintaining = true;
    SpawnInside(Maintain(job));
  }
}

Task<void> PlacementCore::MaintainAt(Job* job, TimePoint when) {
  co_await loop_->SleepUntil(when);
  MaintainSoon(job);
}

void PlacementCore::MaintainAllSoon() {
  for (auto& [name, job] : jobs_) {
    MaintainSoon(job.get());
  }
}

}  // namespace gemel

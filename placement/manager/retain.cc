// SPDX-License-Identifier: Apache-2.0
//
// Maintenance of a job: finish dispersal, retire what newer snapshots at full redundancy make
// unneeded (amendment 8), repair redundancy. Nothing is dropped from a server before it is gone
// from the MetaStore.
#include "common/check.h"
#include "common/errors.h"
#include "placement/manager/core.h"

namespace gemel {

bool PlacementCore::IsPinned(const Job& job, const model::SnapshotOrder& order) const {
  if (!job.restore.has_value()) {
    return false;
  }
  const RestoreRecord& record = job.restore->record;
  return record.epoch == job.record.epoch && record.chosen_sequence != 0 && !RestoreDone(record) &&
         OrderOf(record.chosen_epoch, record.chosen_sequence) == order;
}

// One not yet told counts as not fully redundant: nothing older goes for its sake.
std::vector<model::RetentionEntry> PlacementCore::Entries(const Job& job) const {
  std::vector<model::RetentionEntry> entries;
  entries.reserve(job.snapshots.size());
  for (const auto& [order, snapshot] : job.snapshots) {
    entries.push_back({.order = order,
                       .name = snapshot.record.snapshot.name,
                       .attempt = snapshot.record.snapshot.attempt,
                       .fully_redundant = snapshot.told && snapshot.full,
                       .pinned = IsPinned(job, order)});
  }
  return entries;
}

void PlacementCore::ForgetSnapshot(Job* job, const model::SnapshotOrder& order) {
  const auto found = job->snapshots.find(order);
  GEMEL_CHECK(found != job->snapshots.end()) << job->name;
  GEMEL_CHECK(!IsPinned(*job, order)) << found->second.record.snapshot.ToString();
  const SnapshotId id = found->second.record.snapshot;
  std::vector<SnapshotId> replaced = found->second.replaced;
  job->snapshots.erase(found);
  DropEverywhere(id);
  for (const SnapshotId& old : replaced) {
    DropEverywhere(old);
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
    const model::SnapshotOrder& order = entries[index].order;
    const SnapshotId& id = job->snapshots.at(order).record.snapshot;
    txn.deletes.push_back(StoredSnapshotKey(id.job, id.epoch, id.sequence));
    retired.push_back(order);
  }
  if (retired.empty()) {
    co_return absl::OkStatus();
  }
  GEMEL_CHECK_LT(retired.size(), job->snapshots.size()) << job->name;
  const absl::Status written = co_await WriteJob(job, job->record, std::move(txn));
  GEMEL_CO_RETURN_IF_ERROR(written);
  for (const model::SnapshotOrder& order : retired) {
    ForgetSnapshot(job, order);
  }
  job->changed.NotifyAll();
  co_return absl::OkStatus();
}

Task<void> PlacementCore::Maintain(Job* job) {
  do {
    job->maintain_again = false;
    for (auto& [order, snapshot] : job->snapshots) {
      if (snapshot.manifest_idle && snapshot.full) {
        continue;
      }
      if (!LearnManifest(&snapshot)) {
        FetchManifest(&snapshot);
      }
      CountCopies(&snapshot);
      Disperse(job, &snapshot);
      LetManifestGo(*job, order, &snapshot);
    }
    const absl::Status retired = co_await RetireOnce(job);
    if (!retired.ok() && !stopping_) {
      Emit(Severity::kWarning, "retire_refused", ToText(retired));
    }
    for (auto it = job->snapshots.rbegin(); it != job->snapshots.rend(); ++it) {
      Repair(job, &it->second);
    }
  } while (job->maintain_again && !stopping_);
  job->maintaining = false;
}

void PlacementCore::MaintainSoon(Job* job) {
  job->maintain_again = true;
  if (!job->maintaining && !stopping_ && !job->snapshots.empty()) {
    job->maintaining = true;
    SpawnInside(Maintain(job));
  }
}

void PlacementCore::MaintainAllSoon() {
  for (auto& [name, job] : jobs_) {
    MaintainSoon(job.get());
  }
}

}  // namespace gemel

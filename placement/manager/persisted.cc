// SPDX-License-Identifier: Apache-2.0
//
// What is on disk: PERSISTED by compare-and-set once every shard has its persist receipts,
// retention there, and what servers report when they join. An older one is retired only after a
// newer is PERSISTED and whole (amendment 12); what is on disk without PERSISTED and without a
// persist under way is dropped as soon as nothing needs it.
#include <algorithm>

#include "common/check.h"
#include "common/errors.h"
#include "common/points.h"
#include "placement/manager/core.h"
#include "placement/manager/parts.h"

namespace gemel {

namespace {

constexpr Duration kRecordAgain = 200ms;  // after the MetaStore refused PERSISTED

}  // namespace

absl::StatusOr<PlacementCore::DiskInventory> PlacementCore::ReadDiskInventory(
    const pb::JoinRequest& request) const {
  DiskInventory inventory;
  for (const pb::PersistedShard& persisted : request.persisted()) {
    GEMEL_ASSIGN_OR_RETURN(auto entry, HeldFromProto(persisted.object()));
    const SnapshotKey key = KeyOf(entry.first.snapshot);
    inventory.shards[key][entry.first.rank] = std::move(entry.second);
    if (persisted.complete()) {
      inventory.marked.insert(key);
    }
  }
  return inventory;
}

Task<absl::Status> PlacementCore::LoadPersisted() {
  const absl::StatusOr<std::vector<KeyValue>> listed =
      co_await seams_.store->List(kPersistedPrefix);
  GEMEL_CO_RETURN_IF_ERROR(listed.status());
  for (const auto& [key, value] : *listed) {
    GEMEL_CO_ASSIGN_OR_RETURN(Job * job, JobOfKey(key, kPersistedPrefix));
    GEMEL_CO_ASSIGN_OR_RETURN(Committed on_disk, CommittedOf(key, value.value, &PersistedKey));
    on_disk.in_memory = false;
    on_disk.told = true;
    const SnapshotId id = on_disk.record.snapshot;
    const auto at = job->snapshots.emplace(OrderOf(id.epoch, id.sequence), std::move(on_disk));
    at.first->second.persisted = true;
  }
  co_return absl::OkStatus();
}

// The second commit. What is whole on the disks is not given up for a MetaStore that refuses it: it
// is tried again, and what else ends a persist ends this one.
Task<void> PlacementCore::RecordPersisted(Job* job, model::SnapshotOrder order, uint64_t run) {
  const LockHold hold = co_await Lock(&job->lock);
  const auto mine = [job, order, run]() -> Committed* {
    const auto found = job->snapshots.find(order);
    const bool ours = found != job->snapshots.end() && found->second.persist.has_value() &&
                      found->second.persist->number == run;
    return ours ? &found->second : nullptr;
  };
  Committed* snapshot = mine();
  if (snapshot == nullptr) {
    co_return;
  }
  if (!IsOnDisk(*snapshot, snapshot->persist->copies)) {
    snapshot->persist->recording = false;  // a server went meanwhile
    PersistStep(job, order);
    co_return;
  }
  const SnapshotId id = snapshot->record.snapshot;
  JobRecord record = job->record;
  GEMEL_CHECK(!snapshot->persisted && snapshot->told && !snapshot->leaving) << id.ToString();
  if (order > OrderOf(record.persisted_epoch, record.persisted_sequence)) {
    record.persisted_epoch = id.epoch;
    record.persisted_sequence = id.sequence;
  }
  Txn txn;
  txn.puts.emplace_back(PersistedKey(id.job, id.epoch, id.sequence), snapshot->encoded);
  const absl::Status written = co_await WriteJob(job, record, std::move(txn));
  snapshot = mine();
  GEMEL_CHECK(snapshot != nullptr) << id.ToString();  // `recording` kept it
  if (!written.ok()) {
    PersistRun& refused = *snapshot->persist;
    refused.recording = false;
    refused.record_refused = MessageOf(written);
    refused.record_from = Add(loop_->Now(), kRecordAgain);
    SpawnInside(MaintainAt(job, refused.record_from));
    co_return;
  }
  Reach(CrashPoint::kPersistedDurable);
  snapshot->persist.reset();
  snapshot->persisted = true;
  persists_.Add(1);
  Emit(Severity::kInfo, "snapshot_persisted",
       fmt::format("{}: {} ranks, {} bytes are on disk", id.ToString(), snapshot->record.world_size,
                   snapshot->record.bytes));
  for (auto& [server, member] : members_) {
    if (member->disk.contains(KeyOf(id))) {
      MarkPersistedAt(member.get(), id);
    }
  }
  job->changed.NotifyAll();
  MaintainSoon(job);
}

bool PlacementCore::IsOnDisk(const Committed& snapshot, uint32_t copies) {
  const HolderTable disks = DiskHoldersOf(snapshot);
  return std::all_of(disks.begin(), disks.end(),
                     [copies](const auto& servers) { return servers.size() >= copies; });
}

Task<absl::Status> PlacementCore::RetirePersisted(Job* job) {
  const LockHold hold = co_await Lock(&job->lock);
  std::vector<model::RetentionEntry> entries;
  for (const auto& [order, snapshot] : job->snapshots) {
    if (snapshot.persisted) {
      entries.push_back({.order = order,
                         .name = snapshot.record.snapshot.name,
                         .attempt = snapshot.record.snapshot.attempt,
                         .fully_redundant = IsOnDisk(snapshot, 1),
                         .pinned = IsPinned(*job, order)});
    }
  }
  if (entries.empty()) {
    co_return absl::OkStatus();
  }
  const uint32_t asked = job->record.persist_keep;
  const bool keeps_all = job->snapshots.rbegin()->second.record.keep_latest == 0;
  const uint32_t keep = asked == 0 ? kPersistKeepDefault : asked;
  std::vector<model::SnapshotOrder> retired;
  Txn txn;
  for (const size_t index : model::Retire(entries, keeps_all ? 0 : keep)) {
    if (retired.size() == kLeavingMax) {
      job->maintain_again = true;
      break;
    }
    const SnapshotId& id = job->snapshots.at(entries[index].order).record.snapshot;
    txn.deletes.push_back(PersistedKey(id.job, id.epoch, id.sequence));
    retired.push_back(entries[index].order);
  }
  if (retired.empty()) {
    co_return absl::OkStatus();
  }
  GEMEL_CHECK_LT(retired.size(), entries.size()) << job->name;
  GEMEL_CO_RETURN_IF_ERROR(co_await WriteLeaving(job, job->record, std::move(txn), retired));
  Reach(CrashPoint::kPersistRetireDurable);
  for (const model::SnapshotOrder& order : retired) {
    ForgetPersisted(job, order);
  }
  job->changed.NotifyAll();
  co_return absl::OkStatus();
}

// Its key is gone from the MetaStore; now it goes from the disks.
void PlacementCore::ForgetPersisted(Job* job, const model::SnapshotOrder& order) {
  const auto found = job->snapshots.find(order);
  GEMEL_CHECK(found != job->snapshots.end() && found->second.persisted) << job->name;
  const SnapshotId id = found->second.record.snapshot;
  found->second.persisted = false;
  DropPersistedEverywhere(id);
  if (!found->second.in_memory) {
    GEMEL_CHECK(!IsPinned(*job, order)) << id.ToString();
    job->snapshots.erase(found);
    DropEverywhere(id);  // what a reader brought into memory
  }
}

void PlacementCore::MarkPersistedAt(MemberEntry* member, const SnapshotId& id) {
  GEMEL_CHECK(member->disk.contains(KeyOf(id))) << id.ToString();
  QueuedDirective directive;
  ToProto(id, directive.body.mutable_mark_persisted()->mutable_snapshot());
  directive.done = [this, key = KeyOf(id),
                    server = member->record.id](const pb::DirectiveResult& result) {
    MemberEntry* marked = FindMember(server);
    if (marked != nullptr && result.code() == 0) {
      marked->marked.insert(key);
    }
  };
  Direct(member, std::move(directive));
}

void PlacementCore::DropPersistedAt(MemberEntry* member, const SnapshotId& id) {
  member->disk.erase(KeyOf(id));
  member->marked.erase(KeyOf(id));
  QueuedDirective directive;
  ToProto(id, directive.body.mutable_drop_persisted()->mutable_snapshot());
  Direct(member, std::move(directive));
}

void PlacementCore::DropPersistedEverywhere(const SnapshotId& id) {
  for (auto& [server, member] : members_) {
    if (member->disk.contains(KeyOf(id))) {
      DropPersistedAt(member.get(), id);
    }
  }
}

// What became PERSISTED while this server was away, or before it was told.
void PlacementCore::MarkDisk(MemberEntry* member) {
  for (const auto& [key, shards] : member->disk) {
    const Job* job = FindJob(key.job);
    if (shards.empty() || job == nullptr || member->marked.contains(key)) {
      continue;
    }
    const auto found = job->snapshots.find(OrderOf(key.epoch, key.sequence));
    if (found != job->snapshots.end() && found->second.persisted) {
      MarkPersistedAt(member, found->second.record.snapshot);
    }
  }
}

// A persist that did not come to its end, because placement or the power went. What is whole on
// disk is finished. The rest goes when memory has all copies of it, or when shards of it are lost
// and no server is dead that may come back with them.
void PlacementCore::SweepDisks(Job* job) {
  if (!AllReported(nullptr)) {
    return;
  }
  const bool all_alive = std::all_of(members_.begin(), members_.end(),
                                     [](const auto& entry) { return entry.second->alive(); });
  for (auto& [order, snapshot] : job->snapshots) {
    const SnapshotKey key = KeyOf(snapshot.record.snapshot);
    const bool any = std::any_of(members_.begin(), members_.end(), [&key](const auto& entry) {
      return entry.second->disk.contains(key);
    });
    if (!any || snapshot.persisted || snapshot.persist.has_value() || snapshot.leaving) {
      continue;
    }
    const bool lost = !LostShards(snapshot, SourcesOf(snapshot)).empty();
    const bool whole = IsOnDisk(snapshot, std::max(1U, job->record.persist_copies));
    if (whole && snapshot.told) {
      Sometimes(Situation::kPersistFinishedLater);
      BeginPersist(job, &snapshot);
    } else if (lost ? all_alive : snapshot.told && snapshot.full) {
      DropPersistedEverywhere(snapshot.record.snapshot);
    }
  }
}

}  // namespace gemel

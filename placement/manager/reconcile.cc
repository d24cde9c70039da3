// SPDX-License-Identifier: Apache-2.0
//
// What a joining server reports against what placement knows: its inventory becomes soft state, and
// directives bring the two together. Everything a lost directive queue held follows from here.
#include "common/check.h"
#include "common/errors.h"
#include "common/points.h"
#include "placement/manager/core.h"

namespace gemel {

absl::StatusOr<std::pair<ShardId, HeldCopy>> PlacementCore::HeldFromProto(
    const pb::HeldObject& object) const {
  ShardId shard;
  GEMEL_ASSIGN_OR_RETURN(shard.snapshot, FromProto(object.shard().snapshot()));
  shard.rank = object.shard().rank();
  if (shard.rank >= model::kWorldSizeMax) {
    return error::InvalidArgument("{}: ranks are below {}", shard.ToString(), model::kWorldSizeMax);
  }
  HeldCopy copy{
      .snapshot = shard.snapshot, .bytes = object.bytes(), .layout_bytes = object.layout_bytes()};
  GEMEL_ASSIGN_OR_RETURN(copy.root, DigestFromBytes(object.root(), "root of " + shard.ToString()));
  if (!object.token().empty()) {
    GEMEL_ASSIGN_OR_RETURN(copy.token, EpochToken::FromBytes(object.token()));
  }
  if (copy.layout_bytes > copy.bytes || copy.bytes > model::kShardBytesMax) {
    return error::InvalidArgument("{}: layout of {} bytes in an object of {}, of at most {}",
                                  shard.ToString(), copy.layout_bytes, copy.bytes,
                                  model::kShardBytesMax);
  }
  return std::make_pair(std::move(shard), std::move(copy));
}

void PlacementCore::HeldToProto(const ShardId& shard, const HeldCopy& copy,
                                pb::HeldObject* out) const {
  GEMEL_CHECK(shard.snapshot == copy.snapshot) << shard.ToString();
  ToProto(shard.snapshot, out->mutable_shard()->mutable_snapshot());
  out->mutable_shard()->set_rank(shard.rank);
  out->set_root(DigestToBytes(copy.root));
  out->set_bytes(copy.bytes);
  out->set_layout_bytes(copy.layout_bytes);
  out->set_token(copy.token.ToBytes());
}

// Of an incarnation that is gone, or that reports anew.
void PlacementCore::ForgetSoftState(MemberEntry* member) {
  member->held.clear();
  member->records.clear();
  member->disk.clear();
  member->marked.clear();
  member->persists = 0;
  member->tier_trouble.clear();
  member->disk_unknown = false;
  member->directives.clear();
  member->dropping_bytes = 0;
  member->pulls = 0;
  member->pulling_bytes = 0;
  member->last_sent = 0;
  member->map_version = 0;
  member->probe_answered = false;
  member->deaf = false;
  member->suspect_since.reset();
  member->reported = false;
  ForgetPullsOf(member->record.id);
  for (auto& [name, job] : jobs_) {
    for (auto& [order, snapshot] : job->snapshots) {
      snapshot.storing.erase(member->record.id);
      snapshot.without_manifest.erase(member->record.id);
      if (snapshot.fetching_from == member->record.id) {
        snapshot.fetching_from.reset();
      }
      const auto of_member = [member](const auto& to) { return to.second == member->record.id; };
      const auto to_member = [&of_member](const auto& entry) { return of_member(entry.first); };
      std::erase_if(snapshot.pulls, to_member);
      std::erase_if(snapshot.rewrites, to_member);
      if (snapshot.persist.has_value()) {
        std::erase_if(snapshot.persist->writing, of_member);
      }
    }
  }
  member->wake.NotifyAll();
}

absl::Status PlacementCore::TakeInventory(MemberEntry* member, const pb::JoinRequest& request) {
  std::map<SnapshotKey, std::map<uint32_t, HeldCopy>> held;
  for (const pb::HeldObject& object : request.objects()) {
    GEMEL_ASSIGN_OR_RETURN(auto entry, HeldFromProto(object));
    held[KeyOf(entry.first.snapshot)][entry.first.rank] = std::move(entry.second);
  }
  std::set<SnapshotKey> records;
  for (const std::string& bytes : request.commit_records()) {
    const absl::StatusOr<model::CommitRecord> record = model::DecodeCommitRecord(bytes);
    if (!record.ok() || record->cluster != cluster_.cluster) {
      Emit(Severity::kWarning, "record_refused",
           fmt::format("server {} reports a commit record that is not ours: {}",
                       member->record.name, ToText(record.status())));
      continue;
    }
    records.insert(KeyOf(record->snapshot));
  }
  GEMEL_ASSIGN_OR_RETURN(DiskInventory disk, ReadDiskInventory(request));
  ForgetSoftState(member);
  for (const auto& [key, shards] : held) {
    Job* job = FindJob(key.job);
    const auto order = OrderOf(key.epoch, key.sequence);
    if (job != nullptr && job->snapshots.contains(order)) {
      job->snapshots.at(order).manifest_idle = false;  // these roots have to be compared
    }
  }
  member->held = std::move(held);
  member->records = std::move(records);
  member->disk = std::move(disk.shards);
  member->marked = std::move(disk.marked);
  member->disk_unknown = request.tier().unread();
  TakeTierState(member, request.tier());
  return absl::OkStatus();
}

// A copy that was sealed for an open save and is not in the inventory is gone, damaged as it was
// found: it counts no more, and is made anew from another. So is that of the server which sent what
// others have sealed, though its receipt never came.
void PlacementCore::TakeBackReceipts(MemberEntry* member) {
  for (auto& [name, job] : jobs_) {
    for (auto& [sequence, attempt] : job->attempts) {
      if (attempt->state == AttemptState::kOpen) {
        TakeBackReceiptsOf(attempt, *member);
      }
    }
  }
}

void PlacementCore::TakeBackReceiptsOf(const std::shared_ptr<Attempt>& attempt,
                                       const MemberEntry& member) {
  const auto held = member.held.find(KeyOf(attempt->id()));
  const auto is_its = [&member](const SlotReceipt& receipt) {
    return receipt.server == member.record.id && receipt.incarnation == member.record.incarnation;
  };
  for (uint32_t rank = 0; attempt->state == AttemptState::kOpen && rank < attempt->slots.size();
       ++rank) {
    RankSlot& slot = attempt->slots[rank];
    const bool here = held != member.held.end() && held->second.contains(rank);
    const bool counted = !here && std::erase_if(slot.receipts, is_its) > 0;
    const bool sent = slot.root.has_value() && slot.owner == member.record.id &&
                      slot.owner_incarnation == member.record.incarnation;
    if (here || (!counted && !sent)) {
      continue;
    }
    slot.unsent = slot.unsent || slot.owner == member.record.id;
    Evaluate(attempt.get(), &slot);
    if (slot.root.has_value() && !LiveReceipts(slot).empty()) {
      PullSealed(attempt, rank);
    } else if (counted && slot.owner == member.record.id) {
      // What is left of it is what was found damaged: no copy can be made of that.
      Abort(attempt, error::DataLoss("{}: {} found its copy damaged before another was made; save "
                                     "again",
                                     ShardId{attempt->id(), rank}.ToString(), member.record.name));
    }
  }
}

void PlacementCore::Reconcile(MemberEntry* member, const pb::JoinRequest& request) {
  std::map<std::string, EpochId> seen;
  for (const pb::EpochSeen& epoch : request.epochs()) {
    seen[epoch.job()] = FromProto(epoch.epoch());
  }
  for (auto& [name, job] : jobs_) {
    if (job->version != 0 && seen[name] < job->record.epoch) {
      QueuedDirective directive;
      directive.body.mutable_see_epoch()->set_job(name);
      ToProto(job->record.epoch, directive.body.mutable_see_epoch()->mutable_epoch());
      Direct(member, std::move(directive));
    }
    ReconcileJob(member, job.get());
  }
  DropUnknownAt(member);
  MarkDisk(member);
  for (const std::string& bytes : request.commit_records()) {
    const absl::StatusOr<model::CommitRecord> record = model::DecodeCommitRecord(bytes);
    if (!record.ok() || record->cluster != cluster_.cluster) {
      continue;
    }
    const Job* job = FindJob(record->snapshot.job);
    const auto order = OrderOf(record->snapshot.epoch, record->snapshot.sequence);
    if (job == nullptr || !job->snapshots.contains(order)) {
      member->records.erase(KeyOf(record->snapshot));
      DropSnapshotAt(member, record->snapshot);
    }
  }
}

bool PlacementCore::IsUnknown(const SnapshotKey& key) const {
  const auto job = jobs_.find(key.job);
  return job == jobs_.end() || (!job->second->attempts.contains(key.sequence) &&
                                !job->second->snapshots.contains(OrderOf(key.epoch, key.sequence)));
}

// What is unknown and of a generation before a recovery may be what a server that has yet to report
// will name. DropUnknown() decides once all have.
bool PlacementCore::KeepForLater(const SnapshotKey& unknown) {
  if (unknown.epoch.generation >= cluster_.generation || AllReported(nullptr)) {
    return false;
  }
  Sometimes(Situation::kUnknownKept);
  unknown_kept_ = true;
  return true;
}

// What belongs to no open attempt and no committed snapshot is aborted, superseded or retired.
void PlacementCore::DropUnknownAt(MemberEntry* member) {
  GEMEL_CHECK(member->alive()) << member->record.name;
  const auto collect = [&](const auto& copies) {
    std::vector<SnapshotId> unknown;
    for (const auto& [key, shards] : copies) {
      if (shards.empty() || !IsUnknown(key) || KeepForLater(key)) {
        continue;
      }
      unknown.push_back(shards.begin()->second.snapshot);
    }
    return unknown;
  };
  for (const SnapshotId& id : collect(member->held)) {
    DropStagingAt(member, id, "neither open nor committed");
    member->held.erase(KeyOf(id));
  }
  for (const SnapshotId& id : collect(member->disk)) {
    DropPersistedAt(member, id);
  }
}

void PlacementCore::DropUnknown() {
  if (!unknown_kept_ || !AllReported(nullptr)) {
    return;
  }
  unknown_kept_ = false;
  for (auto& [id, member] : members_) {
    if (member->alive()) {
      DropUnknownAt(member.get());
    }
  }
}

void PlacementCore::ReconcileJob(MemberEntry* member, Job* job) {
  for (auto& [sequence, attempt] : job->attempts) {
    const auto held = member->held.find(KeyOf(attempt->id()));
    if (held == member->held.end()) {
      continue;
    }
    for (const auto& [rank, copy] : held->second) {
      const ShardId shard{attempt->id(), rank};
      const absl::Status counted = CountReceipt(attempt, member, shard, copy);
      if (!counted.ok()) {
        Emit(Severity::kWarning, "receipt_refused", ToText(counted));
      }
    }
  }
  for (auto& [order, snapshot] : job->snapshots) {
    const SnapshotKey key = KeyOf(snapshot.record.snapshot);
    if (member->held.contains(key) && !member->records.contains(key) &&
        (snapshot.manifest != nullptr || LearnManifest(&snapshot))) {
      StoreCommitAt(member, &snapshot);
    }
  }
}

}  // namespace gemel

// SPDX-License-Identifier: Apache-2.0
//
// Commit: one transaction under the current epoch puts the record (at most 512 bytes), moves
// `latest` and takes replaced attempts away; then the record goes to the disks of the holders.
// COMMITTED is told when both are durable (amendment 7).
#include <algorithm>

#include "common/check.h"
#include "common/errors.h"
#include "common/points.h"
#include "placement/manager/core.h"
#include "placement/manager/parts.h"

namespace gemel {
namespace {

constexpr Duration kRarePause = 50ms;  // where the simulator lets the manager pause

}  // namespace

model::CommitRecord PlacementCore::BuildRecord(const Attempt& attempt,
                                               const model::Manifest& manifest,
                                               const std::string& encoded) const {
  model::CommitRecord record;
  record.cluster = cluster_.cluster;
  record.snapshot = attempt.id();
  record.manifest_root = model::ManifestRoot(encoded);
  record.layout_hash = attempt.record.layout_hash;
  record.map_version = attempt.record.map_version;
  for (const model::ManifestShard& shard : manifest.shards) {
    record.bytes += shard.bytes;
  }
  record.world_size = attempt.record.world_size;
  record.copies = attempt.record.copies;
  record.min_copies = attempt.record.min_copies;
  record.keep_latest = attempt.record.keep_latest;
  record.committed_unix_s = loop_->WallSeconds();
  record.strategy = attempt.record.strategy;
  return record;
}

Task<void> PlacementCore::Commit(std::shared_ptr<Attempt> attempt) {
  Job* job = FindJob(attempt->id().job);
  GEMEL_CHECK(job != nullptr) << attempt->id().ToString();
  if (Buggify(BuggifySite::kCommitLate)) {
    co_await loop_->Sleep(kRarePause);
  }
  const LockHold hold = co_await Lock(&job->lock);
  if (attempt->state != AttemptState::kCommitting) {
    Sometimes(Situation::kCommitAfterEpoch);
    co_return;  // a newer epoch ended it
  }
  GEMEL_CHECK(attempt->id().epoch == job->record.epoch) << attempt->id().ToString();
  if (job->record.removed) {
    attempt->state = AttemptState::kOpen;
    Abort(attempt, error::Aborted("{}: the job was removed", attempt->id().ToString()));
    co_return;
  }
  EvaluateAll(attempt.get());
  if (attempt->enough_count < attempt->record.world_size) {
    Sometimes(Situation::kCommitTooFew);
    attempt->state = AttemptState::kOpen;  // a holder went meanwhile
    co_return;
  }
  const absl::Status committed = co_await CommitLocked(job, attempt.get());
  if (committed.ok()) {
    co_return;
  }
  attempt->state = AttemptState::kOpen;  // tried again until the deadline
  if (attempt->store_error.ok()) {
    Emit(Severity::kError, "commit_refused", ToText(committed));
  }
  attempt->store_error = committed;
}

Task<absl::Status> PlacementCore::CommitLocked(Job* job, Attempt* attempt) {
  const SnapshotId id = attempt->id();
  model::Manifest manifest{.snapshot = id};
  GEMEL_CHECK_EQ(attempt->slots.size(), attempt->record.world_size) << id.ToString();
  for (const RankSlot& slot : attempt->slots) {
    GEMEL_CHECK(slot.enough && slot.root.has_value()) << id.ToString();
    manifest.shards.push_back(
        {.root = *slot.root, .bytes = slot.bytes, .layout_bytes = slot.layout_bytes});
  }
  Committed snapshot;
  snapshot.manifest = std::make_shared<const std::string>(model::EncodeManifest(manifest));
  snapshot.record = BuildRecord(*attempt, manifest, *snapshot.manifest);
  snapshot.parsed = std::make_shared<const model::Manifest>(std::move(manifest));
  snapshot.encoded = model::EncodeCommitRecord(snapshot.record);
  snapshot.persist_policy = {.every = attempt->record.persist_every,
                             .interval = std::chrono::seconds(attempt->record.persist_interval_s)};
  const model::SnapshotOrder order = OrderOf(id.epoch, id.sequence);

  // Counted by the domains that it was opened for; since there are others, maintenance judges it.
  const bool same_domains = PlanOf(snapshot.record).assignment.level == attempt->record.level;
  const bool full = attempt->full_count == attempt->record.world_size && same_domains;
  std::vector<model::RetentionEntry> entries = Entries(*job);
  entries.push_back(
      {.order = order, .name = id.name, .attempt = id.attempt, .fully_redundant = full});
  Txn txn;
  txn.compares.push_back({.key = OpenKey(id.job, id.sequence), .version = attempt->version});
  txn.deletes.push_back(OpenKey(id.job, id.sequence));
  txn.puts.emplace_back(StoredSnapshotKey(id.job, id.epoch, id.sequence), snapshot.encoded);
  std::vector<model::SnapshotOrder> replaced;
  for (const size_t index : model::Retire(entries, 0)) {
    if (replaced.size() == kLeavingMax) {
      break;  // maintenance retires the rest
    }
    const SnapshotId& old = job->snapshots.at(entries[index].order).record.snapshot;
    GEMEL_CHECK(old.name != id.name || old < id) << old.ToString();
    txn.deletes.push_back(StoredSnapshotKey(old.job, old.epoch, old.sequence));
    replaced.push_back(entries[index].order);
    snapshot.replaced.push_back(old);
    Sometimes(Situation::kCommitReplaces);
  }
  JobRecord record = job->record;
  if (order > OrderOf(record.latest_epoch, record.latest_sequence)) {
    record.latest_epoch = id.epoch;
    record.latest_sequence = id.sequence;
  }
  record.persist_copies = attempt->record.persist_copies;
  record.persist_keep = attempt->record.persist_keep;
  Reach(CrashPoint::kReceiptsEnough);
  GEMEL_CO_RETURN_IF_ERROR(co_await WriteLeaving(job, record, std::move(txn), replaced));
  Reach(CrashPoint::kCommitDurable);
  GEMEL_CHECK(attempt->state == AttemptState::kCommitting) << id.ToString();
  attempt->state = AttemptState::kCommitted;
  job->attempts.erase(id.sequence);
  RememberHomes(job, *attempt);
  for (const model::SnapshotOrder& old : replaced) {
    LeaveMemory(job, old);
  }
  const auto [kept_at, fresh] = job->snapshots.emplace(order, std::move(snapshot));
  GEMEL_CHECK(fresh) << id.ToString();
  Committed* kept = &kept_at->second;
  CountCopies(kept);
  Disperse(job, kept);
  attempt->changed.NotifyAll();
  job->changed.NotifyAll();
  co_return absl::OkStatus();
}

void PlacementCore::StoreCommitAt(MemberEntry* member, Committed* snapshot) {
  const SnapshotKey key = KeyOf(snapshot->record.snapshot);
  GEMEL_CHECK(snapshot->manifest != nullptr) << snapshot->record.snapshot.ToString();
  if (member->records.contains(key) || !snapshot->storing.insert(member->record.id).second) {
    return;
  }
  QueuedDirective directive;
  directive.body.mutable_store_commit()->set_record(snapshot->encoded);
  directive.manifest = snapshot->manifest;
  if (member->map_version != cluster_.map_version) {
    for (const auto& [other, entry] : members_) {
      if (entry->alive()) {
        directive.body.mutable_store_commit()->add_members(other.ToBytes());
      }
    }
  }
  directive.done = [this, key, id = member->record.id](const pb::DirectiveResult& result) {
    Job* job = FindJob(key.job);
    const auto found = job->snapshots.find(OrderOf(key.epoch, key.sequence));
    MemberEntry* holder = FindMember(id);
    if (found == job->snapshots.end() || holder == nullptr) {
      return;
    }
    found->second.storing.erase(id);
    if (result.code() != 0) {
      Emit(Severity::kWarning, "commit_not_stored",
           fmt::format("{}: {} could not keep the commit record: {}",
                       found->second.record.snapshot.ToString(), holder->record.name,
                       result.message()));
      return;
    }
    holder->records.insert(key);
    CountRecords(job, &found->second);
  };
  Direct(member, std::move(directive));
}

// To every holder of a shard that does not have the record yet.
void PlacementCore::Disperse(Job* job, Committed* snapshot) {
  const SnapshotKey key = KeyOf(snapshot->record.snapshot);
  for (auto& [id, member] : members_) {
    if (snapshot->manifest != nullptr && member->alive() && member->reported &&
        member->held.contains(key)) {
      StoreCommitAt(member.get(), snapshot);
    }
  }
  CountRecords(job, snapshot);
}

void PlacementCore::CountRecords(Job* job, Committed* snapshot) {
  const SnapshotKey key = KeyOf(snapshot->record.snapshot);
  uint32_t disks = 0;
  for (const auto& [id, member] : members_) {
    disks += member->alive() && member->records.contains(key) ? 1 : 0;
  }
  if (!snapshot->told && disks >= snapshot->record.min_copies) {
    Tell(job, snapshot);
  }
}

void PlacementCore::Tell(Job* job, Committed* snapshot) {
  GEMEL_CHECK(!snapshot->told);
  snapshot->told = true;
  Reach(CrashPoint::kCommitTold);
  commits_.Add(1);
  if (!snapshot->full) {
    Sometimes(Situation::kCommitLow);
  }
  const SnapshotId& id = snapshot->record.snapshot;
  for (const SnapshotId& old : snapshot->replaced) {
    DropEverywhere(old);
    if (!job->snapshots.contains(OrderOf(old.epoch, old.sequence))) {
      DropPersistedEverywhere(old);  // shards of a persist that came to no end
    }
  }
  snapshot->replaced.clear();
  Remember(job, EndedOf(*snapshot));
  Emit(snapshot->full ? Severity::kInfo : Severity::kWarning,
       snapshot->full ? "snapshot_committed" : "snapshot_committed_redundancy_low",
       fmt::format("{}: {} ranks, {} bytes, {} copies of {}", id.ToString(),
                   snapshot->record.world_size, snapshot->record.bytes, snapshot->fewest,
                   snapshot->record.copies));
  job->changed.NotifyAll();
  ConsiderPersist(job, snapshot);
  MaintainSoon(job);
}

void PlacementCore::FillOpen(Attempt* attempt, uint32_t rank, pb::AwaitCommitReply* reply) {
  RankSlot& slot = attempt->slots.at(rank);
  reply->set_state(pb::SNAPSHOT_OPEN);
  reply->set_why(Missing(*attempt));
  FillHolders(slot, reply->mutable_holders());
  slot.plan_told = slot.plan;
}

PlacementCore::Answer<pb::AwaitCommitReply> PlacementCore::AwaitCommit(
    CallPtr call, pb::AwaitCommitRequest request) {
  GEMEL_CO_RETURN_IF_ERROR(CheckServing());
  GEMEL_CO_ASSIGN_OR_RETURN(const SnapshotId id, FromProto(request.snapshot()));
  GEMEL_CO_ASSIGN_OR_RETURN(Job * job, KnownJob(id.job));
  Present(request.caller()).IgnoreError();  // heard once: a call that is held is no sign of life
  const TimePoint deadline = HoldUntil(request.wait_ms());
  pb::AwaitCommitReply reply;
  while (true) {
    const auto found = job->attempts.find(id.sequence);
    const bool over = stopping_ || call->cancelled() || loop_->Now() >= deadline;
    if (found == job->attempts.end() || found->second->id() != id) {
      GEMEL_CO_ASSIGN_OR_RETURN(const bool ended, FillEnded(*job, id, &reply));
      if (ended || over) {
        co_return reply;
      }
      co_await job->changed.WaitUntil(deadline);
      continue;
    }
    const std::shared_ptr<Attempt> attempt = found->second;
    if (request.rank() >= attempt->slots.size()) {
      co_return error::InvalidArgument("{} has no rank {}", id.ToString(), request.rank());
    }
    RankSlot& slot = attempt->slots[request.rank()];
    const absl::StatusOr<MemberEntry*> caller = FindPresent(request.caller());
    if (attempt->recovered && !slot.owner.has_value() && caller.ok()) {
      LearnOwner(attempt, request.rank(), **caller);
    }
    if (request.unsent() && caller.ok()) {
      LearnUnsent(attempt, request.rank());
    }
    if (attempt->state == AttemptState::kAborting && !attempt->store_error.ok()) {
      co_return Annotate(
          attempt->store_error,
          fmt::format("{} is being given up, which is not durable yet", id.ToString()));
    }
    if (over || slot.plan != slot.plan_told) {
      FillOpen(attempt.get(), request.rank(), &reply);
      co_return reply;
    }
    co_await attempt->changed.WaitUntil(deadline);
  }
}

}  // namespace gemel

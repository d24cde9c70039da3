// SPDX-License-Identifier: Apache-2.0
//
// What people ask: status, jobs, snapshots, removal.
#include <algorithm>

#include "common/check.h"
#include "common/errors.h"
#include "placement/manager/core.h"
#include "placement/manager/parts.h"

namespace gemel {

PlacementCore::Answer<pb::GetStatusReply> PlacementCore::GetStatus(CallPtr, pb::GetStatusRequest) {
  pb::GetStatusReply reply;
  reply.set_cluster_id(recovering_ ? recovered_cluster_.ToBytes() : cluster_.cluster.ToBytes());
  reply.set_generation(cluster_.generation);
  reply.set_leader(options_.name);
  reply.set_term(leadership_->term());
  MapToProto(reply.mutable_map());
  if (const absl::Status serving = CheckServing(); !serving.ok()) {
    reply.add_warnings(std::string(MessageOf(serving)));
  }
  std::string waiting_for;
  if (!AllReported(&waiting_for)) {
    reply.add_warnings(waiting_for);
  }
  uint32_t jobs = 0;
  uint32_t open = 0;
  for (const auto& [name, job] : jobs_) {
    jobs += job->version != 0 && !job->record.removed ? 1 : 0;
    open += static_cast<uint32_t>(job->attempts.size());
    for (const auto& [sequence, attempt] : job->attempts) {
      if (!attempt->store_error.ok()) {
        reply.add_warnings(ToText(attempt->store_error));
      }
    }
    if (!job->snapshots.empty() && job->snapshots.rbegin()->second.in_memory &&
        !job->snapshots.rbegin()->second.full) {
      const Committed& newest = job->snapshots.rbegin()->second;
      reply.add_warnings(fmt::format("{} has {} of {} copies", newest.record.snapshot.ToString(),
                                     newest.fewest, newest.record.copies));
    }
  }
  reply.set_jobs(jobs);
  reply.set_open_snapshots(open);
  for (const auto& [id, member] : members_) {
    if (!member->alive() || member->suspect_since.has_value()) {
      reply.add_warnings(fmt::format("server {} is {}", member->record.name,
                                     member->alive() ? "suspected" : "dead"));
    }
    if (draining_.contains(id)) {
      reply.add_warnings(fmt::format("server {} takes no work: `gemel drain {}` says how far it is",
                                     member->record.name, member->record.name));
    }
    if (member->alive() && !member->tier_trouble.empty()) {
      reply.add_warnings(fmt::format("server {}: {}", member->record.name, member->tier_trouble));
    }
  }
  co_return reply;
}

PlacementCore::Answer<pb::ListJobsReply> PlacementCore::ListJobs(CallPtr, pb::ListJobsRequest) {
  GEMEL_CO_RETURN_IF_ERROR(CheckServing());
  pb::ListJobsReply reply;
  for (const auto& [name, job] : jobs_) {
    if (job->version == 0 || job->record.removed) {
      continue;
    }
    pb::JobInfo* info = reply.add_jobs();
    info->set_job(name);
    ToProto(job->record.epoch, info->mutable_epoch());
    info->set_snapshots(static_cast<uint32_t>(job->snapshots.size()));
    if (!job->snapshots.empty()) {
      const model::CommitRecord& newest = job->snapshots.rbegin()->second.record;
      info->set_latest_name(newest.snapshot.name);
      info->set_latest_sequence(newest.snapshot.sequence);
      info->set_latest_bytes(newest.bytes);
      info->set_world_size(newest.world_size);
    }
    for (const auto& [order, snapshot] : job->snapshots) {
      if (snapshot.persisted) {
        info->set_persisted_name(snapshot.record.snapshot.name);
      }
    }
  }
  co_return reply;
}

void PlacementCore::FillSnapshotInfo(const Job& job, const Committed& snapshot,
                                     pb::SnapshotInfo* out) const {
  const model::CommitRecord& record = snapshot.record;
  const model::SnapshotOrder order = OrderOf(record.snapshot.epoch, record.snapshot.sequence);
  GEMEL_CHECK(job.snapshots.contains(order)) << record.snapshot.ToString();
  ToProto(record.snapshot, out->mutable_snapshot());
  out->set_state(snapshot.told ? pb::SNAPSHOT_COMMITTED : pb::SNAPSHOT_OPEN);
  out->set_world_size(record.world_size);
  out->set_bytes(record.bytes);
  out->set_copies_now(snapshot.fewest);
  out->set_copies_wanted(record.copies);
  out->set_root(DigestToBytes(record.manifest_root));
  out->set_latest(job.snapshots.rbegin()->first == order);
  out->set_pinned(IsPinned(job, order));
  out->set_committed_unix_s(record.committed_unix_s);
  out->set_persisted(PersistStateOf(snapshot));
  out->set_in_memory(snapshot.in_memory);
  out->set_detail(snapshot.told ? "" : "committed; its record is on the way to the holders' disks");
}

PlacementCore::Answer<pb::ListSnapshotsReply> PlacementCore::ListSnapshots(
    CallPtr, pb::ListSnapshotsRequest request) {
  GEMEL_CO_RETURN_IF_ERROR(CheckServing());
  GEMEL_CO_ASSIGN_OR_RETURN(Job * job, KnownJob(request.job()));
  pb::ListSnapshotsReply reply;
  for (const auto& [order, snapshot] : job->snapshots) {
    FillSnapshotInfo(*job, snapshot, reply.add_snapshots());
  }
  for (const auto& [sequence, attempt] : job->attempts) {
    pb::SnapshotInfo* info = reply.add_snapshots();
    ToProto(attempt->id(), info->mutable_snapshot());
    info->set_state(pb::SNAPSHOT_OPEN);
    info->set_world_size(attempt->record.world_size);
    info->set_copies_wanted(attempt->record.copies);
    info->set_detail(Missing(*attempt));
    for (const RankSlot& slot : attempt->slots) {
      info->set_bytes(info->bytes() + slot.bytes);
    }
  }
  co_return reply;
}

// The newest of that name; of all, when the name is empty.
absl::StatusOr<Committed*> PlacementCore::FindSnapshot(Job* job, const std::string& name) {
  std::string names;
  for (auto it = job->snapshots.rbegin(); it != job->snapshots.rend(); ++it) {
    const std::string& own = it->second.record.snapshot.name;
    if (name.empty() || own == name) {
      return &it->second;
    }
    names += (names.empty() ? "" : ", ") + own;
  }
  return error::NotFound("job {} has no snapshot '{}'; it has: {}", job->name, name.substr(0, 128),
                         names.empty() ? "none" : names);
}

// A restore and readers are waited for, and a persist whose record is just being written.
absl::Status PlacementCore::CheckRemovable(const Job& job, const model::SnapshotOrder& order) {
  const Committed& snapshot = job.snapshots.at(order);
  if (IsRead(job, order)) {
    return error::FailedPrecondition(
        "{} is being restored in epoch {} or read by {} readers; wait until they are done",
        snapshot.record.snapshot.ToString(), job.record.epoch.ToString(),
        job.reads.contains(order) ? job.reads.at(order) : 0);
  }
  if (snapshot.persist.has_value() && snapshot.persist->recording) {
    return error::FailedPrecondition("{} is just becoming PERSISTED; try again",
                                     snapshot.record.snapshot.ToString());
  }
  return absl::OkStatus();
}

// A person's word ends it, once it is sure that nothing refuses that word.
void PlacementCore::EndPersist(Job* job, const model::SnapshotOrder& order) {
  Committed& snapshot = job->snapshots.at(order);
  snapshot.rewrites.clear();
  if (snapshot.persist.has_value()) {
    GiveUpPersist(job, &snapshot, error::Aborted("it is removed by a person"));
  }
}

// Some of them, by one transaction that makes `record` the job's.
Task<absl::Status> PlacementCore::RemovePart(Job* job, JobRecord record,
                                             std::vector<model::SnapshotOrder> part) {
  GEMEL_CHECK_LE(part.size(), kLeavingMax) << job->name;
  Txn txn;
  for (const model::SnapshotOrder& order : part) {
    GEMEL_CO_RETURN_IF_ERROR(CheckRemovable(*job, order));
  }
  for (const model::SnapshotOrder& order : part) {
    EndPersist(job, order);
    const SnapshotId& id = job->snapshots.at(order).record.snapshot;
    txn.deletes.push_back(StoredSnapshotKey(id.job, id.epoch, id.sequence));
    txn.deletes.push_back(PersistedKey(id.job, id.epoch, id.sequence));
  }
  GEMEL_CO_RETURN_IF_ERROR(co_await WriteLeaving(job, record, std::move(txn), part));
  for (const model::SnapshotOrder& order : part) {
    job->snapshots.at(order).persisted = false;
    ForgetSnapshot(job, order);
  }
  co_return absl::OkStatus();
}

Task<absl::StatusOr<uint32_t>> PlacementCore::Remove(Job* job, std::string name) {
  const LockHold hold = co_await Lock(&job->lock);
  if (!name.empty()) {
    GEMEL_CO_RETURN_IF_ERROR(FindSnapshot(job, name).status());
  }
  JobRecord record = job->record;
  record.removed = name.empty();
  std::vector<model::SnapshotOrder> removed;
  record.latest_epoch = {};
  record.latest_sequence = 0;
  for (auto& [order, snapshot] : job->snapshots) {
    const SnapshotId& id = snapshot.record.snapshot;
    if (!name.empty() && id.name != name) {
      record.latest_epoch = id.epoch;
      record.latest_sequence = id.sequence;
      continue;
    }
    removed.push_back(order);
    record.removed_generation = std::max(record.removed_generation, id.epoch.generation);
  }
  for (const model::SnapshotOrder& order : removed) {
    GEMEL_CO_RETURN_IF_ERROR(CheckRemovable(*job, order));
  }
  GEMEL_CHECK_LE(removed.size(), job->snapshots.size()) << job->name;
  // Oldest first: until the last part is gone `latest` and the job stay as they are.
  size_t at = 0;
  do {
    const size_t end = std::min(at + kLeavingMax, removed.size());
    std::vector<model::SnapshotOrder> part(removed.begin() + static_cast<ptrdiff_t>(at),
                                           removed.begin() + static_cast<ptrdiff_t>(end));
    JobRecord next = end == removed.size() ? record : job->record;
    GEMEL_CO_RETURN_IF_ERROR(co_await RemovePart(job, next, std::move(part)));
    at = end;
  } while (at < removed.size());
  for (const auto& [sequence, attempt] : std::map(job->attempts)) {
    if (name.empty()) {
      Abort(attempt, error::Aborted("{}: the job was removed", attempt->id().ToString()));
    }
  }
  job->changed.NotifyAll();
  Emit(Severity::kWarning, "snapshots_removed",
       fmt::format("{} snapshots of job {} were removed by a person", removed.size(), job->name));
  co_return static_cast<uint32_t>(removed.size());
}

PlacementCore::Answer<pb::RemoveSnapshotsReply> PlacementCore::RemoveSnapshots(
    CallPtr, pb::RemoveSnapshotsRequest request) {
  GEMEL_CO_RETURN_IF_ERROR(CheckServing());
  GEMEL_CO_ASSIGN_OR_RETURN(Job * job, KnownJob(request.job()));
  const absl::StatusOr<uint32_t> removed = co_await Remove(job, request.name());
  GEMEL_CO_RETURN_IF_ERROR(removed.status());
  pb::RemoveSnapshotsReply reply;
  reply.set_removed(*removed);
  co_return reply;
}

}  // namespace gemel

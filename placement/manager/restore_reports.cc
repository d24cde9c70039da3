// SPDX-License-Identifier: Apache-2.0
//
// ReportRestore and AwaitRestore: VERIFIED when all ranks are. A rank that cannot read a shard
// makes its holders check their copies; when none is good the record moves on for all ranks.
#include <algorithm>

#include "common/check.h"
#include "common/errors.h"
#include "common/points.h"
#include "placement/manager/core.h"

namespace gemel {
namespace {

constexpr Duration kRecheck = 500ms;

}  // namespace

// Group commit: whoever holds the lock writes for all that have reported by then.
Task<void> PlacementCore::RecordVerified(Job* job, EpochId epoch, uint32_t round, uint32_t rank) {
  GEMEL_CHECK_LT(rank, job->restore->record.verified.size()) << job->name;
  const bool fresh = job->restore->record.verified.at(rank) == '\0';
  job->restore->record.verified.at(rank) = '\1';
  const uint64_t writes = job->restore->record.writes;
  const LockHold hold = co_await Lock(&job->lock);
  if (!fresh || !job->restore.has_value() || job->restore->record.epoch != epoch ||
      job->restore->record.round != round || job->restore->record.writes > writes + 1) {
    co_return;
  }
  RestoreRecord record = job->restore->record;
  const absl::Status written = co_await WriteRestore(job, std::move(record));
  if (!written.ok()) {
    // What was verified stays so: only a restarted manager has to be told again, by a poll.
    Emit(Severity::kWarning, "store_refused", ToText(written));
    job->changed.NotifyAll();
  } else {
    Reach(CrashPoint::kVerifiedDurable);
  }
  if (job->restore.has_value() && RestoreDone(job->restore->record)) {
    MaintainSoon(job);
  }
}

// The holders hash their copies again; what is damaged stops being a source.
void PlacementCore::CheckUnreadable(Job* job, uint32_t rank) {
  const RestoreRecord& record = job->restore->record;
  const auto found = job->snapshots.find(OrderOf(record.chosen_epoch, record.chosen_sequence));
  if (found == job->snapshots.end() || rank >= found->second.record.world_size) {
    return;
  }
  const SnapshotId id = found->second.record.snapshot;
  const HolderTable sources = SourcesOf(found->second);
  for (const ServerId& server : sources[rank]) {
    MemberEntry* member = FindMember(server);
    GEMEL_CHECK(member != nullptr && member->alive()) << server.ToShort();
    QueuedDirective directive;
    HeldToProto({id, rank}, CopyAt(*member, {id, rank}),
                directive.body.mutable_verify_shard()->mutable_object());
    directive.done = [this, server, shard = ShardId{id, rank}](const pb::DirectiveResult& result) {
      TakeVerdict(server, shard, result);
    };
    Direct(member, std::move(directive));
  }
}

void PlacementCore::ReviewRestoreSoon(Job* job) {
  if (!stopping_ && job->restore.has_value() && !job->restore->unreadable.empty()) {
    SpawnInside(ReviewRestore(job));
  }
}

Task<void> PlacementCore::ReviewRestore(Job* job) {
  const LockHold hold = co_await Lock(&job->lock);
  if (!job->restore.has_value() || job->restore->record.epoch != job->record.epoch ||
      job->restore->record.failed || job->restore->record.chosen_sequence == 0 ||
      RestoreDone(job->restore->record)) {
    co_return;
  }
  RestoreRecord record = job->restore->record;
  const auto order = OrderOf(record.chosen_epoch, record.chosen_sequence);
  const auto found = job->snapshots.find(order);
  if (found == job->snapshots.end() || !AllReported(nullptr)) {
    co_return;
  }
  const std::vector<uint32_t> gone = LostShards(found->second, SourcesOf(found->second));
  const bool lost = std::any_of(gone.begin(), gone.end(), [job](uint32_t rank) {
    return job->restore->unreadable.contains(rank);
  });
  if (!lost) {
    co_return;
  }
  const std::string what = found->second.record.snapshot.ToString();
  std::string ranks;
  for (const uint32_t rank : gone) {
    ranks += (ranks.empty() ? "" : ", ") + std::to_string(rank);
  }
  Choice choice = Choose(job, order);
  if (choice.wait) {
    co_return;  // looked at again as members report
  }
  record.lost.push_back(fmt::format("{}: no good copy of the shards of ranks {} is left ({})", what,
                                    ranks, job->restore->why));
  record.lost.insert(record.lost.end(), choice.lost.begin(), choice.lost.end());
  record.round += 1;
  record.failed = !choice.order.has_value();
  record.chosen_epoch = {};
  record.chosen_sequence = 0;
  if (choice.order.has_value()) {
    record.chosen_epoch = {choice.order->epoch.generation, choice.order->epoch.counter};
    record.chosen_sequence = choice.order->sequence;
  }
  record.verified.assign(record.world_size, '\0');
  GEMEL_CHECK(record.failed || order > *choice.order) << what;
  Sometimes(Situation::kRestoreMoved);
  data_losses_.Add(1);
  Emit(Severity::kError, "restore_moved", record.lost.back());
  const absl::Status written = co_await WriteRestore(job, std::move(record));
  if (!written.ok()) {
    Emit(Severity::kWarning, "store_refused", ToText(written));
  }
}

PlacementCore::Answer<pb::ReportRestoreReply> PlacementCore::ReportRestore(
    CallPtr, pb::ReportRestoreRequest request) {
  GEMEL_CO_RETURN_IF_ERROR(CheckServing());
  GEMEL_CO_ASSIGN_OR_RETURN(Job * job, KnownJob(request.job()));
  const EpochId epoch = FromProto(request.epoch());
  if (!job->restore.has_value() || job->restore->record.epoch != epoch ||
      epoch != job->record.epoch) {
    co_return error::FailedPrecondition("job {} restores nothing in epoch {}; its epoch is {}",
                                        job->name, epoch.ToString(), job->record.epoch.ToString());
  }
  RestoreState& restore = *job->restore;
  if (request.rank() >= restore.record.world_size) {
    co_return error::InvalidArgument("restore of job {} has {} ranks, not rank {}", job->name,
                                     restore.record.world_size, request.rank());
  }
  if (request.round() != restore.record.round || restore.record.chosen_sequence == 0) {
    co_return pb::ReportRestoreReply();  // of a round that is over: AwaitRestore says so
  }
  if (request.verified()) {
    co_await RecordVerified(job, epoch, request.round(), request.rank());
    co_return pb::ReportRestoreReply();
  }
  restore.why = request.why();
  for (const uint32_t rank : request.unreadable_ranks()) {
    if (rank < model::kWorldSizeMax) {
      restore.unreadable.insert(rank);
      CheckUnreadable(job, rank);
    }
  }
  Emit(Severity::kWarning, "shards_unreadable",
       fmt::format("rank {} of job {} cannot read {} shards: {}", request.rank(), job->name,
                   request.unreadable_ranks_size(), request.why()));
  ReviewRestoreSoon(job);
  co_return pb::ReportRestoreReply();
}

PlacementCore::Answer<pb::AwaitRestoreReply> PlacementCore::AwaitRestore(
    CallPtr call, pb::AwaitRestoreRequest request) {
  GEMEL_CO_RETURN_IF_ERROR(CheckServing());
  GEMEL_CO_ASSIGN_OR_RETURN(Job * job, KnownJob(request.job()));
  const TimePoint deadline = HoldUntil(request.wait_ms());
  pb::AwaitRestoreReply reply;
  while (true) {
    const EpochId epoch = FromProto(request.epoch());
    if (!job->restore.has_value() || job->restore->record.epoch != epoch ||
        epoch != job->record.epoch) {
      co_return error::FailedPrecondition("job {} restores nothing in epoch {}; its epoch is {}",
                                          job->name, epoch.ToString(),
                                          job->record.epoch.ToString());
    }
    const RestoreRecord& record = job->restore->record;
    if (record.failed) {
      co_return LostError(*job, record);
    }
    if (request.verified() && request.round() == record.round && record.chosen_sequence != 0 &&
        request.rank() < record.verified.size() && record.verified.at(request.rank()) == '\0') {
      co_await RecordVerified(job, epoch, request.round(), request.rank());
      continue;
    }
    const bool moved = record.round > request.round();
    const bool done = RestoreDone(record);
    const bool over = stopping_ || call->cancelled() || loop_->Now() >= deadline;
    if (moved || done || over) {
      reply.set_outcome(moved  ? pb::AwaitRestoreReply::MOVED
                        : done ? pb::AwaitRestoreReply::VERIFIED
                               : pb::AwaitRestoreReply::PENDING);
      for (const std::string& lost : record.lost) {
        reply.add_lost(lost);
      }
      reply.set_progress(fmt::format("{} of {} ranks have verified their state",
                                     VerifiedCount(record), record.world_size));
      co_return reply;
    }
    ReviewRestoreSoon(job);
    const TimePoint recheck = Add(loop_->Now(), kRecheck);
    co_await job->changed.WaitUntil(std::min(deadline, recheck));
  }
}

}  // namespace gemel

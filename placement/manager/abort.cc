// SPDX-License-Identifier: Apache-2.0
//
// Abort: durable before it is told, so that a restarted manager never commits what a caller was
// told is gone.
#include "common/check.h"
#include "common/errors.h"
#include "common/points.h"
#include "placement/manager/core.h"

namespace gemel {
namespace {

constexpr Duration kStoreRetry = 200ms;

}  // namespace

// The first reason wins. A commit under way is not disturbed.
void PlacementCore::Abort(const std::shared_ptr<Attempt>& attempt, absl::Status why) {
  GEMEL_CHECK(!why.ok());
  if (attempt->state != AttemptState::kOpen) {
    return;
  }
  attempt->state = AttemptState::kAborting;
  attempt->why = std::move(why);
  SpawnInside(AbortDurably(attempt));
}

Task<void> PlacementCore::AbortDurably(std::shared_ptr<Attempt> attempt) {
  const SnapshotId id = attempt->id();
  while (!stopping_) {
    Job* job = FindJob(id.job);
    GEMEL_CHECK(job != nullptr) << id.ToString();
    {
      const LockHold hold = co_await Lock(&job->lock);
      if (attempt->state != AttemptState::kAborting) {
        co_return;  // a newer epoch ended it
      }
      Txn txn;
      txn.deletes.push_back(OpenKey(id.job, id.sequence));
      txn.puts.push_back(EndedPut(*job, {EndedOf(*attempt)}));
      const absl::Status written = co_await WriteJob(job, job->record, std::move(txn));
      if (written.ok()) {
        Reach(CrashPoint::kAbortDurable);
        GEMEL_CHECK(attempt->state == AttemptState::kAborting) << id.ToString();
        attempt->state = AttemptState::kAborted;
        TellAborted(job, *attempt);
        job->attempts.erase(id.sequence);
        DropStagingEverywhere(id, MessageOf(attempt->why));
        attempt->changed.NotifyAll();
        job->changed.NotifyAll();
        co_return;
      }
      attempt->store_error = written;
      attempt->changed.NotifyAll();
    }
    co_await loop_->Sleep(kStoreRetry);
  }
}

PlacementCore::Answer<pb::AbortSnapshotReply> PlacementCore::AbortSnapshot(
    CallPtr, pb::AbortSnapshotRequest request) {
  GEMEL_CO_RETURN_IF_ERROR(CheckServing());
  GEMEL_CO_ASSIGN_OR_RETURN(const SnapshotId id, FromProto(request.snapshot()));
  GEMEL_CO_ASSIGN_OR_RETURN(Job * job, KnownJob(id.job));
  const auto found = job->attempts.find(id.sequence);
  if (found == job->attempts.end() || found->second->id() != id) {
    co_return pb::AbortSnapshotReply();  // ended already: AwaitCommit says how
  }
  const std::shared_ptr<Attempt> attempt = found->second;
  GEMEL_CO_ASSIGN_OR_RETURN(const EpochToken token, EpochToken::FromBytes(request.token()));
  if (token != attempt->record.token) {
    co_return error::FailedPrecondition("{} was opened under another token than {}", id.ToString(),
                                        token.ToShort());
  }
  Abort(attempt, error::Aborted("{}", id.AbortedBecause(request.why())));
  co_return pb::AbortSnapshotReply();
}

}  // namespace gemel

// SPDX-License-Identifier: Apache-2.0
//
// ReportRestore, AwaitRestore: how a restore went, for this rank and for all.
#include <algorithm>
#include <utility>

#include "common/errors.h"
#include "common/points.h"
#include "common/status_macros.h"
#include "server/restore.h"

namespace gemel {

Task<absl::Status> Restores::Report(uint64_t client, ReportRestore request) {
  GEMEL_CO_ASSIGN_OR_RETURN(const std::shared_ptr<Restore> restore, Find(client, request.restore));
  GEMEL_CO_RETURN_IF_ERROR(CheckReported(*restore));
  pb::ReportRestoreRequest report;
  report.set_job(restore->manifest.snapshot.job);
  WriteEpochId(restore->epoch, report.mutable_epoch());
  report.set_round(restore->round);
  report.set_rank(restore->rank);
  report.set_verified(request.verified);
  for (const uint32_t rank : request.unreadable_shards) {
    if (rank >= restore->manifest.shards.size()) {
      co_return error::InvalidArgument("shard {} of {}: it has {} shards", rank,
                                       restore->manifest.snapshot.ToString(),
                                       restore->manifest.shards.size());
    }
    report.add_unreadable_ranks(rank);
  }
  report.set_why(TextField(request.why));
  const absl::StatusOr<pb::ReportRestoreReply> reply =
      co_await control_->CallPatiently<pb::ReportRestoreReply>("ReportRestore", std::move(report),
                                                               0s);
  Reach(CrashPoint::kRestoreReported);
  restore->verified = reply.ok() && request.verified;
  co_return reply.status();
}

Task<absl::StatusOr<AwaitRestoreDone>> Restores::Await(uint64_t client, AwaitRestore request) {
  GEMEL_CO_ASSIGN_OR_RETURN(const std::shared_ptr<Restore> restore, Find(client, request.restore));
  GEMEL_CO_RETURN_IF_ERROR(CheckReported(*restore));
  pb::AwaitRestoreRequest ask;
  ask.set_job(restore->manifest.snapshot.job);
  WriteEpochId(restore->epoch, ask.mutable_epoch());
  ask.set_round(restore->round);
  ask.set_rank(restore->rank);
  ask.set_verified(restore->verified);
  const uint32_t wait_ms = std::min(request.wait_ms, kWaitMsMax);
  ask.set_wait_ms(wait_ms);
  const absl::StatusOr<pb::AwaitRestoreReply> reply =
      co_await control_->CallPatiently<pb::AwaitRestoreReply>("AwaitRestore", std::move(ask),
                                                              std::chrono::milliseconds(wait_ms));
  GEMEL_CO_RETURN_IF_ERROR(reply.status());
  AwaitRestoreDone done;
  switch (reply->outcome()) {
    case pb::AwaitRestoreReply::PENDING:
      done.outcome = RestoreOutcome::kPending;
      break;
    case pb::AwaitRestoreReply::VERIFIED:
      done.outcome = RestoreOutcome::kVerified;
      break;
    case pb::AwaitRestoreReply::MOVED:
      done.outcome = RestoreOutcome::kMoved;
      break;
    default:
      co_return error::Internal("placement answered outcome {} to a restore of {}",
                                static_cast<int>(reply->outcome()), restore->manifest.snapshot.job);
  }
  done.lost.assign(reply->lost().begin(), reply->lost().end());
  done.progress = reply->progress();
  co_return done;
}

}  // namespace gemel

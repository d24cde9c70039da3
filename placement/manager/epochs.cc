// SPDX-License-Identifier: Apache-2.0
//
// AcquireEpoch: one token, one epoch, for ever (DESIGN 3.1, amendment 1). A new epoch ends the open
// saves of older ones in the same transaction.
#include <algorithm>

#include "common/check.h"
#include "common/errors.h"
#include "common/points.h"
#include "placement/manager/core.h"

namespace gemel {
namespace {

// Of a generation: above all that earlier ones gave, whoever still keeps something of them.
uint64_t FirstSequenceOf(uint64_t generation) {
  constexpr uint64_t kGenerationsMax = uint64_t{1} << 20;
  constexpr uint64_t kSequences = uint64_t{1} << 40;
  return std::min(generation - 1, kGenerationsMax) * kSequences + 1;
}

absl::Status SupersededBy(const EpochId& epoch, const SnapshotId& open) {
  return error::FailedPrecondition("{}: epoch {} superseded it", open.ToString(), epoch.ToString());
}

}  // namespace

absl::Status PlacementCore::CheckEpoch(const Job& job, const EpochId& epoch,
                                       const EpochToken& token) const {
  const auto found = job.tokens.find(token);
  if (found == job.tokens.end() || found->second != epoch) {
    return error::FailedPrecondition(
        "token {} of job {} is not that of epoch {}; acquire an epoch first", token.ToShort(),
        job.name, epoch.ToString());
  }
  if (epoch != job.record.epoch) {
    return error::FailedPrecondition(
        "epoch {} of job {} was superseded by epoch {}: another incarnation of the job runs; stop "
        "this one",
        epoch.ToString(), job.name, job.record.epoch.ToString());
  }
  return absl::OkStatus();
}

// REQUIRES: the job's lock is held.
Task<absl::StatusOr<EpochId>> PlacementCore::NewEpoch(Job* job, EpochToken token) {
  JobRecord record = job->record;
  record.epoch = {.generation = cluster_.generation, .counter = record.epoch.counter + 1};
  record.token = token;
  record.next_sequence = std::max(record.next_sequence, FirstSequenceOf(cluster_.generation));
  record.epoch_opened = false;
  record.removed = false;
  GEMEL_CHECK(record.epoch > job->record.epoch) << job->name;
  Txn txn;
  txn.puts.emplace_back(TokenKey(job->name, token), EncodeStored(TokenRecord{record.epoch}));
  std::vector<std::shared_ptr<Attempt>> ended;
  std::vector<Finished> finished;
  for (auto& [sequence, attempt] : job->attempts) {
    txn.deletes.push_back(OpenKey(job->name, sequence));
    ended.push_back(attempt);
    finished.push_back({.id = attempt->id(), .why = SupersededBy(record.epoch, attempt->id())});
  }
  if (!finished.empty()) {
    txn.puts.push_back(EndedPut(*job, finished));
  }
  const absl::Status written = co_await WriteJob(job, record, std::move(txn));
  GEMEL_CO_RETURN_IF_ERROR(written);
  Reach(CrashPoint::kEpochDurable);
  job->tokens[token] = record.epoch;
  job->skips.clear();
  job->attempt_of_name.clear();
  job->names_seen.clear();
  for (const std::shared_ptr<Attempt>& attempt : ended) {
    Sometimes(Situation::kEpochEndsSave);
    attempt->state = AttemptState::kAborted;
    attempt->why = SupersededBy(record.epoch, attempt->id());
    TellAborted(job, *attempt);
    job->attempts.erase(attempt->id().sequence);
    attempt->changed.NotifyAll();
    DropStagingEverywhere(attempt->id(), "a newer epoch");
  }
  for (auto& [id, member] : members_) {
    QueuedDirective directive;
    directive.body.mutable_see_epoch()->set_job(job->name);
    ToProto(record.epoch, directive.body.mutable_see_epoch()->mutable_epoch());
    Direct(member.get(), std::move(directive));
  }
  job->changed.NotifyAll();
  Emit(Severity::kInfo, "epoch_acquired",
       fmt::format("job {} is in epoch {}, {} open saves ended", job->name, record.epoch.ToString(),
                   ended.size()));
  MaintainSoon(job);
  co_return record.epoch;
}

PlacementCore::Answer<pb::AcquireEpochReply> PlacementCore::AcquireEpoch(
    CallPtr, pb::AcquireEpochRequest request) {
  GEMEL_CO_RETURN_IF_ERROR(CheckServing());
  GEMEL_CO_RETURN_IF_ERROR(model::CheckJobName(request.job()));
  GEMEL_CO_ASSIGN_OR_RETURN(const EpochToken token, EpochToken::FromBytes(request.token()));
  if (token.IsZero()) {
    co_return error::InvalidArgument("job {}: an epoch token of zero; draw 128 random bits",
                                     request.job());
  }
  if (!jobs_.contains(request.job())) {
    if (jobs_.size() >= kJobsMax) {
      co_return error::ResourceExhausted("placement knows {} jobs, the most it takes",
                                         jobs_.size());
    }
    jobs_.emplace(request.job(), std::make_unique<Job>(loop_, request.job()));
  }
  Job* job = FindJob(request.job());
  GEMEL_CO_RETURN_IF_ERROR(job->tokens.contains(token) ? absl::OkStatus() : CheckStore());
  const LockHold hold = co_await Lock(&job->lock);
  EpochId epoch = job->record.epoch;
  const auto found = job->tokens.find(token);
  if (found == job->tokens.end()) {
    const absl::StatusOr<EpochId> acquired = co_await NewEpoch(job, token);
    GEMEL_CO_RETURN_IF_ERROR(acquired.status());
    epoch = *acquired;
  } else if (found->second != job->record.epoch) {
    Sometimes(Situation::kTokenSuperseded);
    co_return error::FailedPrecondition(
        "token {} of job {} is that of epoch {}, superseded by epoch {}: another incarnation of "
        "the job runs; stop this one",
        token.ToShort(), job->name, found->second.ToString(), job->record.epoch.ToString());
  }
  pb::AcquireEpochReply reply;
  ToProto(epoch, reply.mutable_epoch());
  co_return reply;
}

}  // namespace gemel

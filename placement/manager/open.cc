// SPDX-License-Identifier: Apache-2.0
//
// Open: one answer for all ranks of (job, epoch, name, attempt): ACCEPT with a sequence number,
// WAIT, or SKIP (DESIGN 3.2, amendment 9). A rank that asks again gets the same answer.
#include <algorithm>

#include "common/check.h"
#include "common/errors.h"
#include "common/points.h"
#include "placement/manager/core.h"

namespace gemel {
namespace {

constexpr Duration kMemoryRecheck = 200ms;

}  // namespace

absl::Status PlacementCore::CheckOpen(const pb::OpenRequest& request) const {
  GEMEL_RETURN_IF_ERROR(model::CheckJobName(request.job()));
  GEMEL_RETURN_IF_ERROR(model::CheckSnapshotName(request.name()));
  const std::string what = fmt::format("open of {}@{}", request.job(), request.name());
  if (request.world_size() == 0 || request.world_size() > model::kWorldSizeMax ||
      request.rank() >= request.world_size()) {
    return error::InvalidArgument("{}: rank {} of {} ranks; a world has 1 to {}", what,
                                  request.rank(), request.world_size(), model::kWorldSizeMax);
  }
  if (request.copies() == 0 || request.copies() > model::kCopiesMax ||
      request.min_copies() > request.copies()) {
    return error::InvalidArgument("{}: copies {} and min_copies {}; copies are 1 to {}", what,
                                  request.copies(), request.min_copies(), model::kCopiesMax);
  }
  if (!pb::Strategy_IsValid(request.strategy())) {
    return error::InvalidArgument("{}: strategy {}; 0 is group, 1 is ring", what,
                                  static_cast<int>(request.strategy()));
  }
  if (request.persist().copies() > model::kCopiesMax) {
    return error::InvalidArgument("{}: persist copies {}; at most {}", what,
                                  request.persist().copies(), model::kCopiesMax);
  }
  if (request.layout_bytes() > request.shard_bytes() ||
      request.shard_bytes() > model::kShardBytesMax) {
    return error::InvalidArgument("{}: a layout of {} bytes in a shard of {}, of at most {}", what,
                                  request.layout_bytes(), request.shard_bytes(),
                                  model::kShardBytesMax);
  }
  return DigestFromBytes(request.layout_hash(), "layout hash of " + what).status();
}

// The whole of what all ranks must agree on.
absl::Status PlacementCore::CheckSame(const Attempt& attempt,
                                      const pb::OpenRequest& request) const {
  const OpenRecord& record = attempt.record;
  const std::string what = fmt::format("rank {} opens {}", request.rank(), attempt.id().ToString());
  if (record.world_size != request.world_size()) {
    return error::InvalidArgument("{} with world size {}, it was opened with {}", what,
                                  request.world_size(), record.world_size);
  }
  const absl::StatusOr<Digest128> hash = DigestFromBytes(request.layout_hash(), "layout hash");
  GEMEL_CHECK(hash.ok()) << what;
  if (record.layout_hash != *hash) {
    return error::InvalidArgument("{} with layout {}, it was opened with {}: the ranks differ",
                                  what, ToHex(*hash), ToHex(record.layout_hash));
  }
  const uint32_t min_copies = request.min_copies() == 0 ? request.copies() : request.min_copies();
  if (record.copies != request.copies() || record.min_copies != min_copies) {
    return error::InvalidArgument(
        "{} with copies {} and min_copies {}, it was opened with {} and {}", what, request.copies(),
        min_copies, record.copies, record.min_copies);
  }
  if (record.strategy != StrategyOf(request.strategy())) {
    return error::InvalidArgument("{} with strategy {}, it was opened with {}", what,
                                  NameOf(StrategyOf(request.strategy())), NameOf(record.strategy));
  }
  if (record.keep_latest != request.keep_latest()) {
    return error::InvalidArgument("{} with keep {}, it was opened with {}", what,
                                  request.keep_latest(), record.keep_latest);
  }
  return absl::OkStatus();
}

std::shared_ptr<Attempt> PlacementCore::FindOpen(const Job& job, const std::string& name) const {
  for (const auto& [sequence, attempt] : job.attempts) {
    if (attempt->id().name == name) {
      return attempt;
    }
  }
  return nullptr;
}

absl::Status PlacementCore::CheckNameFree(const Job& job, const pb::OpenRequest& request) const {
  for (const Finished& finished : job.finished) {
    if (!finished.committed && finished.id.name == request.name() &&
        finished.id.attempt == request.attempt() && finished.id.epoch == job.record.epoch) {
      return finished.why;
    }
  }
  for (const auto& [order, snapshot] : job.snapshots) {
    const SnapshotId& id = snapshot.record.snapshot;
    if (id.epoch == job.record.epoch && id.name == request.name() &&
        request.attempt() <= id.attempt) {
      return error::AlreadyExists(
          "{} is committed; attempt {} does not replace it: count attempts up", id.ToString(),
          request.attempt());
    }
  }
  const auto known = job.attempt_of_name.find(request.name());
  if (known != job.attempt_of_name.end() && request.attempt() <= known->second) {
    return error::FailedPrecondition(
        "attempt {} of {}@{} comes after attempt {}; count attempts up", request.attempt(),
        job.name, request.name(), known->second);
  }
  return absl::OkStatus();
}

std::string PlacementCore::BusyReason(const Job& job) const {
  if (job.attempts.size() < options_.in_flight_max) {
    return {};
  }
  const Attempt& oldest = *job.attempts.begin()->second;
  return fmt::format("{} saves of job {} are open, at most {}; the oldest, {}: {}",
                     job.attempts.size(), job.name, options_.in_flight_max, oldest.id().ToString(),
                     Missing(oldest));
}

void PlacementCore::RememberName(Job* job, const std::string& name, uint32_t attempt) {
  if (!job->attempt_of_name.contains(name)) {
    job->names_seen.push_back(name);
  }
  job->attempt_of_name[name] = attempt;
  if (job->names_seen.size() > kNamesMax) {
    job->attempt_of_name.erase(job->names_seen.front());
    job->names_seen.pop_front();
  }
  GEMEL_CHECK_LE(job->names_seen.size(), kNamesMax) << job->name;
}

// Gives the sequence number, durably. Aborted when the job changed meanwhile: look again.
PlacementCore::Answer<std::shared_ptr<Attempt>> PlacementCore::Accept(
    Job* job, const pb::OpenRequest* request) {
  const LockHold hold = co_await Lock(&job->lock);
  GEMEL_CO_ASSIGN_OR_RETURN(const EpochToken token, EpochToken::FromBytes(request->token()));
  GEMEL_CO_RETURN_IF_ERROR(CheckEpoch(*job, FromProto(request->epoch()), token));
  std::shared_ptr<Attempt> open = FindOpen(*job, request->name());
  if (open != nullptr || !BusyReason(*job).empty()) {
    co_return open;
  }
  GEMEL_CO_RETURN_IF_ERROR(CheckNameFree(*job, *request));
  JobRecord record = job->record;
  OpenRecord opened;
  opened.snapshot = {.job = job->name,
                     .epoch = record.epoch,
                     .sequence = record.next_sequence,
                     .name = request->name(),
                     .attempt = request->attempt()};
  opened.token = token;
  opened.world_size = request->world_size();
  GEMEL_CO_ASSIGN_OR_RETURN(opened.layout_hash,
                            DigestFromBytes(request->layout_hash(), "layout hash"));
  opened.copies = request->copies();
  opened.min_copies = request->min_copies() == 0 ? request->copies() : request->min_copies();
  opened.strategy = StrategyOf(request->strategy());
  opened.keep_latest = request->keep_latest();
  opened.persist_every = request->persist().every();
  opened.persist_interval_s = request->persist().interval_s();
  opened.persist_copies = request->persist().copies();
  opened.persist_keep = request->persist().keep();
  const Duration asked = std::chrono::milliseconds(request->deadline_ms());
  const Duration deadline = request->deadline_ms() == 0
                                ? options_.save_deadline
                                : std::min(asked, options_.save_deadline_max);
  opened.deadline_ms = static_cast<uint64_t>(Milliseconds(deadline));
  opened.map_version = cluster_.map_version;
  opened.level = PlanFor(opened.copies, opened.strategy).assignment.level;
  record.next_sequence += 1;
  record.epoch_opened = true;
  Txn txn;
  const std::string key = OpenKey(job->name, opened.snapshot.sequence);
  txn.compares.push_back({.key = key, .version = std::nullopt});
  txn.puts.emplace_back(key, EncodeStored(opened));
  const absl::Status written = co_await WriteJob(job, record, std::move(txn));
  GEMEL_CO_RETURN_IF_ERROR(written);
  Reach(CrashPoint::kOpenDurable);
  std::shared_ptr<Attempt> attempt = MakeAttempt(std::move(opened), job->version);
  RememberName(job, request->name(), request->attempt());
  GEMEL_CHECK(!job->attempts.contains(attempt->id().sequence)) << attempt->id().ToString();
  job->attempts[attempt->id().sequence] = attempt;
  job->changed.NotifyAll();
  co_return attempt;
}

// One rank takes its place: true, or false with the reason to wait for.
absl::StatusOr<bool> PlacementCore::TakeRank(Attempt* attempt, MemberEntry* owner,
                                             const pb::OpenRequest& request, std::string* reason) {
  RankSlot& slot = attempt->slots.at(request.rank());
  const std::string what = fmt::format("rank {} of {}", request.rank(), attempt->id().ToString());
  if ((slot.opened || slot.root.has_value()) &&
      (slot.bytes != request.shard_bytes() || slot.layout_bytes != request.layout_bytes())) {
    return error::InvalidArgument("{} opens with {} bytes ({} of layout), before with {} ({})",
                                  what, request.shard_bytes(), request.layout_bytes(), slot.bytes,
                                  slot.layout_bytes);
  }
  if (slot.opened && *slot.owner != owner->record.id) {
    return error::FailedPrecondition("{} was opened at server {}, now at {}: two processes run it",
                                     what, slot.owner->ToShort(), owner->record.id.ToShort());
  }
  if (slot.opened && slot.owner_incarnation == owner->record.incarnation) {
    return true;
  }
  std::vector<ServerId> admitted;
  if (!slot.opened) {
    GEMEL_ASSIGN_OR_RETURN(admitted, Admit(attempt, *owner, request, reason));
    if (admitted.empty()) {
      return false;
    }
    attempt->opened_count += 1;
  }
  slot.opened = true;
  slot.bytes = request.shard_bytes();
  slot.layout_bytes = request.layout_bytes();
  slot.owner = owner->record.id;
  slot.owner_incarnation = owner->record.incarnation;
  GEMEL_CHECK_LE(attempt->opened_count, attempt->slots.size()) << what;
  PlanRank(attempt, request.rank(), admitted);
  return true;
}

void PlacementCore::FillHolders(const RankSlot& slot,
                                google::protobuf::RepeatedPtrField<pb::Member>* holders) const {
  for (const SlotReceipt& holder : slot.holders) {
    if (members_.contains(holder.server)) {
      MemberToProto(holder.server, holders->Add());
    }
  }
}

void PlacementCore::FillAccept(const Attempt& attempt, const RankSlot& slot,
                               pb::OpenReply* reply) const {
  reply->set_decision(pb::OpenReply::ACCEPT);
  ToProto(attempt.id(), reply->mutable_snapshot());
  reply->set_map_version(attempt.record.map_version);
  FillHolders(slot, reply->mutable_holders());
  GEMEL_CHECK_GT(reply->holders_size(), 0) << attempt.id().ToString();
}

// True when `reply` is the answer; false: wait for a change of the job, reply->reason() says why.
PlacementCore::Answer<bool> PlacementCore::OpenOnce(Job* job, const pb::OpenRequest* request,
                                                    pb::OpenReply* reply) {
  std::shared_ptr<Attempt> attempt = FindOpen(*job, request->name());
  if (attempt == nullptr) {
    GEMEL_CO_RETURN_IF_ERROR(CheckNameFree(*job, *request));
    const std::string busy = BusyReason(*job);
    if (!busy.empty()) {
      reply->set_reason(busy);
      if (request->on_busy() != pb::ON_BUSY_SKIP) {
        co_return false;
      }
      if (job->skips.size() >= kNamesMax) {
        job->skips.erase(job->skips.begin());
      }
      job->skips[{request->name(), request->attempt()}] = busy;
      reply->set_decision(pb::OpenReply::SKIP);
      co_return true;
    }
    GEMEL_CO_RETURN_IF_ERROR(CheckStore());
    GEMEL_CO_ASSIGN_OR_RETURN(attempt, co_await Accept(job, request));
    if (attempt == nullptr) {
      reply->set_reason("another save was opened first");
      co_return false;
    }
  }
  if (attempt->id().attempt > request->attempt()) {
    co_return error::FailedPrecondition("attempt {} of {} comes after attempt {}; count up",
                                        request->attempt(), request->name(), attempt->id().attempt);
  }
  if (attempt->id().attempt < request->attempt()) {
    Abort(attempt, error::Aborted("{}: attempt {} takes its place", attempt->id().ToString(),
                                  request->attempt()));
    reply->set_reason("the lower attempt is being aborted");
    co_return false;
  }
  if (!attempt->open()) {
    co_return attempt->why;
  }
  GEMEL_CO_RETURN_IF_ERROR(CheckSame(*attempt, *request));
  GEMEL_CO_ASSIGN_OR_RETURN(MemberEntry * owner,
                            AskingFor(request->caller(), request->job(), request->name()));
  std::string reason;
  const absl::StatusOr<bool> taken = TakeRank(attempt.get(), owner, *request, &reason);
  if (taken.status().code() == absl::StatusCode::kResourceExhausted) {
    Abort(attempt, taken.status());
  }
  GEMEL_CO_RETURN_IF_ERROR(taken.status());
  reply->set_reason(reason);
  if (*taken) {
    FillAccept(*attempt, attempt->slots.at(request->rank()), reply);
    Consider(attempt);
  }
  co_return *taken;
}

PlacementCore::Answer<pb::OpenReply> PlacementCore::Open(CallPtr call, pb::OpenRequest request) {
  GEMEL_CO_RETURN_IF_ERROR(CheckServing());
  GEMEL_CO_RETURN_IF_ERROR(CheckOpen(request));
  GEMEL_CO_ASSIGN_OR_RETURN(MemberEntry * asking,
                            AskingFor(request.caller(), request.job(), request.name()));
  Heard(asking);
  GEMEL_CO_ASSIGN_OR_RETURN(const EpochToken token, EpochToken::FromBytes(request.token()));
  GEMEL_CO_ASSIGN_OR_RETURN(Job * job, KnownJob(request.job()));
  const TimePoint deadline = HoldUntil(request.wait_ms());
  pb::OpenReply reply;
  while (true) {
    GEMEL_CO_RETURN_IF_ERROR(CheckEpoch(*job, FromProto(request.epoch()), token));
    const auto skipped = job->skips.find({request.name(), request.attempt()});
    if (skipped != job->skips.end()) {
      reply.set_decision(pb::OpenReply::SKIP);
      reply.set_reason(skipped->second);
      co_return reply;
    }
    const absl::StatusOr<bool> answered = co_await OpenOnce(job, &request, &reply);
    GEMEL_CO_RETURN_IF_ERROR(answered.status());
    if (*answered) {
      co_return reply;
    }
    if (stopping_ || call->cancelled() || loop_->Now() >= deadline) {
      reply.set_decision(pb::OpenReply::WAIT);
      co_return reply;
    }
    const TimePoint recheck = Add(loop_->Now(), kMemoryRecheck);
    co_await job->changed.WaitUntil(std::min(deadline, recheck));
  }
}

}  // namespace gemel

// SPDX-License-Identifier: Apache-2.0
//
// BeginRestore: a restore is a record. One snapshot is chosen for (job, epoch) by compare-and-set
// and pinned; all ranks get that one. Only what is lost, not what is unknown, moves it to an older
// snapshot, for all ranks (DESIGN section 4, amendment 2).
#include <algorithm>

#include "absl/strings/str_join.h"

#include "common/check.h"
#include "common/errors.h"
#include "common/points.h"
#include "placement/manager/core.h"

namespace gemel {
namespace {

constexpr Duration kRecheck = 200ms;
constexpr size_t kLostRanksListed = 16;

constexpr size_t kLostListed = 256;  // snapshots

std::string RankList(const std::vector<uint32_t>& ranks) {
  std::string text;
  for (size_t i = 0; i < ranks.size() && i < kLostRanksListed; ++i) {
    text += (i == 0 ? "" : ", ") + std::to_string(ranks[i]);
  }
  return ranks.size() > kLostRanksListed ? text + ", ..." : text;
}

// What a person reads, and what fits in a transaction.
void CapLost(std::vector<std::string>* lost) {
  if (lost->size() > kLostListed) {
    const size_t more = lost->size() - kLostListed + 1;
    lost->resize(kLostListed - 1);
    lost->push_back(fmt::format("and {} more", more));
  }
}

}  // namespace

uint32_t PlacementCore::VerifiedCount(const RestoreRecord& record) {
  return static_cast<uint32_t>(std::count(record.verified.begin(), record.verified.end(), '\1'));
}

bool PlacementCore::RestoreDone(const RestoreRecord& record) {
  return record.chosen_sequence != 0 && VerifiedCount(record) == record.world_size;
}

absl::Status PlacementCore::CheckRestore(const Job& job,
                                         const pb::BeginRestoreRequest& request) const {
  if (request.world_size() == 0 || request.world_size() > model::kWorldSizeMax ||
      request.rank() >= request.world_size()) {
    return error::InvalidArgument("restore of job {}: rank {} of {} ranks; a world has 1 to {}",
                                  job.name, request.rank(), request.world_size(),
                                  model::kWorldSizeMax);
  }
  if (job.restore.has_value() && job.restore->record.epoch == job.record.epoch) {
    const RestoreRecord& record = job.restore->record;
    if (record.world_size != request.world_size()) {
      return error::InvalidArgument(
          "restore of job {} in epoch {}: rank {} names world size {}, another rank {}", job.name,
          record.epoch.ToString(), request.rank(), request.world_size(), record.world_size);
    }
    return absl::OkStatus();
  }
  if (job.record.epoch_opened) {
    return error::FailedPrecondition(
        "job {} has saved in epoch {}; restoring takes a new epoch, from a new token", job.name,
        job.record.epoch.ToString());
  }
  return absl::OkStatus();
}

// One committed snapshot: to be waited for, readable (`order`), or with shards that are lost.
// REQUIRES: AllReported().
PlacementCore::Choice PlacementCore::Examine(Job* job, model::SnapshotOrder order) {
  Choice choice;
  Committed& snapshot = job->snapshots.at(order);
  GEMEL_CHECK(AllReported(nullptr)) << job->name;
  const SnapshotId& id = snapshot.record.snapshot;
  const HolderTable sources = SourcesOf(snapshot);
  const std::vector<uint32_t> lost = LostShards(snapshot, sources);
  if (!lost.empty()) {
    choice.lost.push_back(
        fmt::format("{}: no live server holds the shards of ranks {} of {}, in memory or on disk",
                    id.ToString(), RankList(lost), snapshot.record.world_size));
    return choice;
  }
  if (std::any_of(sources.begin(), sources.end(), [](const auto& of) { return of.empty(); })) {
    choice.wait = true;
    const std::string disks = UnknownDisks();
    choice.progress = disks.empty() ? id.ToString() + " is being copied"
                                    : fmt::format("{} may be on a disk that cannot be read: {}",
                                                  id.ToString(), disks);
    return choice;
  }
  if (!LearnManifest(&snapshot)) {
    FetchManifest(&snapshot);
    choice.wait = true;
    choice.progress = "fetching the manifest of " + id.ToString();
    return choice;
  }
  Disperse(job, &snapshot);
  const bool everywhere = std::all_of(members_.begin(), members_.end(), [&](const auto& entry) {
    return !entry.second->alive() || !entry.second->held.contains(KeyOf(id)) ||
           entry.second->records.contains(KeyOf(id));
  });
  choice.wait = !snapshot.told && !everywhere;
  choice.progress = "finishing the commit of " + id.ToString();
  choice.order = order;
  return choice;
}

// The newest committed snapshot, older than `below`, whose every shard has a source.
PlacementCore::Choice PlacementCore::Choose(Job* job, std::optional<model::SnapshotOrder> below) {
  Choice choice;
  if (!AllReported(&choice.progress)) {
    choice.wait = true;
    return choice;
  }
  std::vector<std::string> lost;
  for (auto it = job->snapshots.rbegin(); it != job->snapshots.rend(); ++it) {
    if (below.has_value() && it->first >= *below) {
      continue;
    }
    choice = Examine(job, it->first);
    lost.insert(lost.end(), choice.lost.begin(), choice.lost.end());
    if (choice.wait || choice.order.has_value()) {
      choice.lost = std::move(lost);
      return choice;
    }
  }
  choice.lost = std::move(lost);
  choice.none = job->snapshots.empty();
  choice.failed = !choice.none;
  return choice;
}

Task<absl::Status> PlacementCore::WriteRestore(Job* job, RestoreRecord record) {
  const bool present = job->restore.has_value() && job->restore->version != 0;
  record.writes = job->restore.has_value() ? job->restore->record.writes + 1 : 1;
  CapLost(&record.lost);
  Txn txn;
  txn.compares.push_back({.key = RestoreKey(job->name), .version = std::nullopt});
  if (present) {
    txn.compares.back().version = job->restore->version;
  }
  txn.puts.emplace_back(RestoreKey(job->name), EncodeStored(record));
  const absl::Status written = co_await WriteJob(job, job->record, std::move(txn));
  GEMEL_CO_RETURN_IF_ERROR(written);
  const bool same_round = present && job->restore->record.epoch == record.epoch &&
                          job->restore->record.round == record.round;
  if (same_round) {
    // Only its reports were written; what ranks have reported since stays for the next write.
    job->restore->record.writes = record.writes;
  } else {
    job->restore = RestoreState{.record = std::move(record)};
  }
  job->restore->version = job->version;
  job->changed.NotifyAll();
  co_return absl::OkStatus();
}

// True once the record of this epoch is there.
PlacementCore::Answer<bool> PlacementCore::BeginRecord(Job* job,
                                                       const pb::BeginRestoreRequest* request,
                                                       std::string* progress) {
  GEMEL_CO_RETURN_IF_ERROR(CheckStore());
  const LockHold hold = co_await Lock(&job->lock);
  GEMEL_CO_ASSIGN_OR_RETURN(const EpochToken token, EpochToken::FromBytes(request->token()));
  GEMEL_CO_RETURN_IF_ERROR(CheckEpoch(*job, FromProto(request->epoch()), token));
  GEMEL_CO_RETURN_IF_ERROR(CheckRestore(*job, *request));
  if (job->restore.has_value() && job->restore->record.epoch == job->record.epoch) {
    co_return true;
  }
  Choice choice = Choose(job, std::nullopt);
  if (choice.wait || Buggify(BuggifySite::kRestoreWaits)) {
    Sometimes(Situation::kRestoreWaits);
    *progress = choice.progress;
    co_return false;
  }
  RestoreRecord record;
  record.epoch = job->record.epoch;
  record.world_size = request->world_size();
  record.verified.assign(record.world_size, '\0');
  record.failed = choice.failed;
  record.lost = choice.lost;
  record.round = choice.order.has_value() && !choice.lost.empty() ? 1 : 0;
  if (choice.order.has_value()) {
    record.chosen_epoch = {choice.order->epoch.generation, choice.order->epoch.counter};
    record.chosen_sequence = choice.order->sequence;
  }
  for (const std::string& lost : choice.lost) {
    Sometimes(Situation::kSnapshotLost);
    data_losses_.Add(1);
    Emit(Severity::kError, "snapshot_lost", lost);
  }
  const absl::Status written = co_await WriteRestore(job, std::move(record));
  GEMEL_CO_RETURN_IF_ERROR(written);
  Reach(CrashPoint::kRestoreDurable);
  co_return true;
}

absl::Status PlacementCore::LostError(const Job& job, const RestoreRecord& record) const {
  GEMEL_CHECK(record.failed) << job.name;
  return error::DataLoss(
      "job {}: nothing that was committed can be restored: {}. Bring the servers that kept it "
      "back, "
      "or start over with `gemel rm {}`",
      job.name, absl::StrJoin(record.lost, "; "), job.name);
}

void PlacementCore::FillSources(const Committed& snapshot,
                                google::protobuf::RepeatedPtrField<pb::ShardSources>* out) {
  const HolderTable table = SourcesOf(snapshot);
  GEMEL_CHECK_EQ(table.size(), snapshot.record.world_size);
  for (uint32_t rank = 0; rank < table.size(); ++rank) {
    pb::ShardSources* sources = out->Add();
    sources->set_rank(rank);
    for (const ServerId& id : table[rank]) {
      MemberToProto(id, sources->add_holders());
    }
  }
}

// False while the manifest is not known.
absl::StatusOr<bool> PlacementCore::FillRestore(Job* job, uint32_t world_size,
                                                pb::BeginRestoreReply* reply) {
  const RestoreRecord& record = job->restore->record;
  GEMEL_CHECK_EQ(record.world_size, world_size);
  reply->set_round(record.round);
  if (record.failed) {
    return LostError(*job, record);
  }
  if (record.chosen_sequence == 0) {
    reply->set_decision(pb::BeginRestoreReply::NEVER_COMMITTED);
    return true;
  }
  const auto found = job->snapshots.find(OrderOf(record.chosen_epoch, record.chosen_sequence));
  if (found == job->snapshots.end()) {
    return error::FailedPrecondition(
        "job {} restored sequence {} in epoch {} and has retired it since; restoring again takes a "
        "new epoch",
        job->name, record.chosen_sequence, record.epoch.ToString());
  }
  if (!FillChosen(&found->second, reply)) {
    return false;
  }
  for (const std::string& lost : record.lost) {
    reply->add_lost(lost);
  }
  return true;
}

PlacementCore::Answer<pb::BeginRestoreReply> PlacementCore::BeginRestore(
    CallPtr call, pb::BeginRestoreRequest request) {
  GEMEL_CO_RETURN_IF_ERROR(CheckServing());
  GEMEL_CO_ASSIGN_OR_RETURN(const EpochToken token, EpochToken::FromBytes(request.token()));
  GEMEL_CO_ASSIGN_OR_RETURN(Job * job, KnownJob(request.job()));
  const TimePoint deadline = HoldUntil(request.wait_ms());
  pb::BeginRestoreReply reply;
  while (true) {
    GEMEL_CO_RETURN_IF_ERROR(CheckEpoch(*job, FromProto(request.epoch()), token));
    GEMEL_CO_RETURN_IF_ERROR(CheckRestore(*job, request));
    bool begun = job->restore.has_value() && job->restore->record.epoch == job->record.epoch;
    if (!begun) {
      std::string progress;
      const absl::StatusOr<bool> written = co_await BeginRecord(job, &request, &progress);
      GEMEL_CO_RETURN_IF_ERROR(written.status());
      begun = *written;
      reply.set_progress(progress);
    }
    if (begun) {
      GEMEL_CO_ASSIGN_OR_RETURN(const bool filled, FillRestore(job, request.world_size(), &reply));
      if (filled) {
        co_return reply;
      }
    }
    if (stopping_ || call->cancelled() || loop_->Now() >= deadline) {
      reply.set_decision(pb::BeginRestoreReply::WAIT);
      co_return reply;
    }
    const TimePoint recheck = Add(loop_->Now(), kRecheck);
    co_await job->changed.WaitUntil(std::min(deadline, recheck));
  }
}

}  // namespace gemel

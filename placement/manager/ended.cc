// SPDX-License-Identifier: Apache-2.0
//
// How saves ended, for ranks that ask later and for those that come late to an open of one that was
// aborted: in memory, and the newest of those that have no other key in the MetaStore, so that the
// next leader says the same.
#include <algorithm>

#include "common/check.h"
#include "common/errors.h"
#include "placement/manager/core.h"

namespace gemel {
namespace {

constexpr size_t kWhyBytesMax = 512;  // in the store: the beginning says what it was

EndedSave ToStored(const Finished& finished) {
  return {.epoch = finished.id.epoch,
          .sequence = finished.id.sequence,
          .name = finished.id.name,
          .attempt = finished.id.attempt,
          .committed = finished.committed,
          .code = static_cast<uint32_t>(finished.why.code()),
          .why = std::string(MessageOf(finished.why).substr(0, kWhyBytesMax)),
          .copies = finished.copies,
          .full = finished.full,
          .root = finished.root};
}

}  // namespace

Finished PlacementCore::EndedOf(const Attempt& attempt) {
  GEMEL_CHECK(!attempt.why.ok()) << attempt.id().ToString();
  return {.id = attempt.id(), .why = attempt.why};
}

Finished PlacementCore::EndedOf(const Committed& snapshot) {
  return {.id = snapshot.record.snapshot,
          .committed = true,
          .copies = snapshot.fewest,
          .full = snapshot.full,
          .root = snapshot.record.manifest_root};
}

Finished PlacementCore::EndedOf(const Job& job, const EndedSave& save) {
  return {.id = {.job = job.name,
                 .epoch = save.epoch,
                 .sequence = save.sequence,
                 .name = save.name,
                 .attempt = save.attempt},
          .committed = save.committed,
          .why = absl::Status(static_cast<absl::StatusCode>(save.code), save.why),
          .copies = save.copies,
          .full = save.full,
          .root = save.root};
}

// For the transaction that takes the keys of those that end `now` away.
std::pair<std::string, std::string> PlacementCore::EndedPut(const Job& job,
                                                            const std::vector<Finished>& now) {
  GEMEL_CHECK(!now.empty()) << job.name;
  EndedRecord record;
  const auto ends_now = [&now](const Finished& finished) {
    return std::any_of(now.begin(), now.end(),
                       [&finished](const Finished& one) { return one.id == finished.id; });
  };
  for (const Finished& finished : job.finished) {
    const bool kept = job.snapshots.contains(OrderOf(finished.id.epoch, finished.id.sequence));
    if (!kept && !ends_now(finished)) {
      record.saves.push_back(ToStored(finished));
    }
  }
  for (const Finished& finished : now) {
    record.saves.push_back(ToStored(finished));
  }
  if (record.saves.size() > kEndedStored) {
    const size_t spare = record.saves.size() - kEndedStored;
    record.saves.erase(record.saves.begin(),
                       record.saves.begin() + static_cast<std::ptrdiff_t>(spare));
  }
  GEMEL_CHECK(!record.saves.empty() && record.saves.size() <= kEndedStored) << job.name;
  return {EndedKey(job.name), EncodeStored(record)};
}

void PlacementCore::Remember(Job* job, Finished finished) {
  std::erase_if(job->finished, [&finished](const Finished& one) { return one.id == finished.id; });
  job->finished.push_back(std::move(finished));
  if (job->finished.size() > kFinishedMax) {
    job->finished.pop_front();
  }
  GEMEL_CHECK_LE(job->finished.size(), kFinishedMax) << job->name;
}

void PlacementCore::TellAborted(Job* job, const Attempt& attempt) {
  Remember(job, EndedOf(attempt));
  aborts_.Add(1);
  Emit(Severity::kWarning, "save_aborted", ToText(attempt.why));
}

// What a newer epoch's restore went by, for it could not be read then, is no part of that history:
// whoever saved it is superseded, and is told so though it may be whole again.
absl::Status PlacementCore::CheckNotPassedOver(const Job& job, const SnapshotId& id) const {
  if (!job.restore.has_value() || job.restore->record.failed) {
    return absl::OkStatus();
  }
  const RestoreRecord& record = job.restore->record;
  if (id.epoch >= record.epoch ||
      OrderOf(id.epoch, id.sequence) <= OrderOf(record.chosen_epoch, record.chosen_sequence)) {
    return absl::OkStatus();
  }
  return error::FailedPrecondition(
      "{} was passed over: epoch {} of job {} restored from sequence {}; stop this incarnation",
      id.ToString(), record.epoch.ToString(), job.name, record.chosen_sequence);
}

// True when the answer is final.
absl::StatusOr<bool> PlacementCore::FillEnded(const Job& job, const SnapshotId& id,
                                              pb::AwaitCommitReply* reply) {
  const auto found = job.snapshots.find(OrderOf(id.epoch, id.sequence));
  if (found != job.snapshots.end() && found->second.record.snapshot == id) {
    GEMEL_RETURN_IF_ERROR(CheckNotPassedOver(job, id));
    const Committed& snapshot = found->second;
    // All ranks of a save look at this at once: the holders are looked up for none that has them.
    if (!snapshot.told && snapshot.fewest == 0 && AllReported(nullptr) &&
        !LostShards(snapshot, SourcesOf(snapshot)).empty()) {
      return error::DataLoss(
          "{}: all copies of a shard went before its commit was told; save again", id.ToString());
    }
    reply->set_state(snapshot.told ? pb::SNAPSHOT_COMMITTED : pb::SNAPSHOT_OPEN);
    reply->set_redundancy_full(snapshot.full);
    reply->set_copies(snapshot.fewest);
    reply->set_root(DigestToBytes(snapshot.record.manifest_root));
    reply->set_why(snapshot.told ? "" : "the commit record is on its way to the holders' disks");
    return snapshot.told;
  }
  for (const Finished& finished : job.finished) {
    if (finished.id != id) {
      continue;
    }
    if (finished.committed) {
      GEMEL_RETURN_IF_ERROR(CheckNotPassedOver(job, id));
    }
    reply->set_state(finished.committed ? pb::SNAPSHOT_COMMITTED : pb::SNAPSHOT_ABORTED);
    reply->set_redundancy_full(finished.full);
    reply->set_copies(finished.copies);
    reply->set_root(finished.committed ? DigestToBytes(finished.root) : std::string());
    reply->set_why(std::string(MessageOf(finished.why)));
    reply->set_code(static_cast<uint32_t>(finished.why.code()));
    reply->set_closed(true);
    return true;
  }
  if (id.epoch < job.record.epoch) {
    return error::FailedPrecondition(
        "{} was superseded by epoch {}, and how it ended is not remembered; stop this incarnation",
        id.ToString(), job.record.epoch.ToString());
  }
  return error::NotFound("{} is neither open nor kept: it was retired or aborted; read `latest`",
                         id.ToString());
}

}  // namespace gemel

// SPDX-License-Identifier: Apache-2.0
//
// ReportReceipts: a holder's word that it has sealed a shard. Counted for present incarnations with
// the right token; all holders of a shard must name one root.
#include <algorithm>

#include "common/check.h"
#include "common/errors.h"
#include "placement/manager/core.h"

namespace gemel {

absl::Status PlacementCore::CountReceipt(const std::shared_ptr<Attempt>& attempt,
                                         MemberEntry* holder, const ShardId& shard,
                                         const HeldCopy& copy) {
  if (shard.snapshot != attempt->id() || shard.rank >= attempt->slots.size()) {
    return error::InvalidArgument("a receipt names {}, open is {} with {} ranks", shard.ToString(),
                                  attempt->id().ToString(), attempt->slots.size());
  }
  if (copy.token != attempt->record.token) {
    return error::FailedPrecondition("{}: receipt of {} under token {}, it was opened under {}",
                                     shard.ToString(), holder->record.name, copy.token.ToShort(),
                                     attempt->record.token.ToShort());
  }
  GEMEL_CHECK(holder->alive()) << holder->record.name;
  RankSlot& slot = attempt->slots[shard.rank];
  if (slot.opened && (slot.bytes != copy.bytes || slot.layout_bytes != copy.layout_bytes)) {
    return error::InvalidArgument("{}: {} sealed {} bytes ({} of layout), opened were {} ({})",
                                  shard.ToString(), holder->record.name, copy.bytes,
                                  copy.layout_bytes, slot.bytes, slot.layout_bytes);
  }
  if (slot.root.has_value() && *slot.root != copy.root) {
    data_losses_.Add(1);
    const absl::Status why =
        error::DataLoss("{}: {} sealed root {}, another holder {}; save again", shard.ToString(),
                        holder->record.name, ToHex(copy.root), ToHex(*slot.root));
    Emit(Severity::kError, "roots_differ", ToText(why));
    Abort(attempt, why);
    return absl::OkStatus();
  }
  slot.root = copy.root;
  slot.bytes = copy.bytes;
  slot.layout_bytes = copy.layout_bytes;
  const SlotReceipt receipt{holder->record.id, holder->record.incarnation};
  std::erase_if(slot.receipts,
                [&](const SlotReceipt& old) { return old.server == receipt.server; });
  slot.receipts.push_back(receipt);
  holder->held[KeyOf(shard.snapshot)][shard.rank] = copy;
  Evaluate(attempt.get(), &slot);
  Consider(attempt);
  return absl::OkStatus();
}

absl::Status PlacementCore::TakeReceipt(MemberEntry* holder, const pb::HeldObject& object) {
  GEMEL_ASSIGN_OR_RETURN(auto entry, HeldFromProto(object));
  const auto& [shard, copy] = entry;
  Job* job = FindJob(shard.snapshot.job);
  if (job == nullptr) {
    return error::NotFound("{}: the job is not known here", shard.ToString());
  }
  const auto open = job->attempts.find(shard.snapshot.sequence);
  if (open != job->attempts.end() && open->second->id() == shard.snapshot) {
    const std::shared_ptr<Attempt> attempt = open->second;
    return CountReceipt(attempt, holder, shard, copy);
  }
  const auto order = OrderOf(shard.snapshot.epoch, shard.snapshot.sequence);
  const auto found = job->snapshots.find(order);
  if (found == job->snapshots.end()) {
    if (KeepForLater(KeyOf(shard.snapshot))) {
      holder->held[KeyOf(shard.snapshot)][shard.rank] = copy;
    } else {
      DropStagingAt(holder, shard.snapshot, "neither open nor committed");
    }
    return absl::OkStatus();
  }
  Committed& snapshot = found->second;
  if (snapshot.manifest_idle && !LearnManifest(&snapshot)) {
    snapshot.manifest_idle = false;  // to be fetched
  }
  if (shard.rank >= snapshot.record.world_size ||
      (snapshot.parsed != nullptr && snapshot.parsed->shards[shard.rank].root != copy.root)) {
    data_losses_.Add(1);
    return error::DataLoss("{}: {} holds root {}, which is not the committed one", shard.ToString(),
                           holder->record.name, ToHex(copy.root));
  }
  holder->held[KeyOf(shard.snapshot)][shard.rank] = copy;
  MaintainSoon(job);
  return absl::OkStatus();
}

// Shards of which the caller is the first holder and whose plan changed since it was told.
void PlacementCore::FillRetargets(const MemberEntry& owner, pb::ReportReceiptsReply* reply) {
  for (auto& [name, job] : jobs_) {
    for (auto& [sequence, attempt] : job->attempts) {
      FillRetargetsOf(attempt.get(), owner.record.id, reply);
    }
  }
}

void PlacementCore::FillRetargetsOf(Attempt* attempt, const ServerId& owner,
                                    pb::ReportReceiptsReply* reply) {
  for (uint32_t rank = 0; attempt->open() && rank < attempt->slots.size(); ++rank) {
    RankSlot& slot = attempt->slots[rank];
    if (!slot.opened || *slot.owner != owner || slot.plan == slot.plan_told) {
      continue;
    }
    slot.plan_told = slot.plan;
    pb::ReportReceiptsReply::Retarget* retarget = reply->add_retargets();
    ToProto(attempt->id(), retarget->mutable_shard()->mutable_snapshot());
    retarget->mutable_shard()->set_rank(rank);
    FillHolders(slot, retarget->mutable_holders());
  }
}

PlacementCore::Answer<pb::ReportReceiptsReply> PlacementCore::ReportReceipts(
    CallPtr, pb::ReportReceiptsRequest request) {
  GEMEL_CO_RETURN_IF_ERROR(CheckServing());
  GEMEL_CO_ASSIGN_OR_RETURN(MemberEntry * holder, Present(request.caller()));
  // One that is refused must not hold up the others: holders repeat what fails.
  for (const pb::Receipt& receipt : request.receipts()) {
    const absl::Status taken = TakeReceipt(holder, receipt.object());
    if (!taken.ok()) {
      receipts_refused_.Add(1);
      Emit(Severity::kWarning, "receipt_refused", ToText(taken));
    }
  }
  pb::ReportReceiptsReply reply;
  FillRetargets(*holder, &reply);
  co_return reply;
}

}  // namespace gemel

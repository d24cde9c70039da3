// SPDX-License-Identifier: Apache-2.0
//
// Open attempts: planned holders, counted receipts, and what a change of the members moves.
#include <algorithm>

#include "common/check.h"
#include "common/errors.h"
#include "common/points.h"
#include "placement/manager/core.h"
#include "placement/model/retarget.h"

namespace gemel {
namespace {

constexpr Duration kPullAgain = 500ms;  // after a pull that failed

// A save that no receipt can complete says so at once, not only when its time is over.
std::string TooFewServers(uint32_t min_copies, int64_t alive) {
  if (alive >= min_copies) {
    return "";
  }
  return fmt::format(
      "; {} copies need {} servers and {} is alive: start more (`gemel up --servers`), "
      "or save with copies={}",
      min_copies, min_copies, alive, std::max<int64_t>(1, alive));
}

}  // namespace

std::shared_ptr<Attempt> PlacementCore::MakeAttempt(OpenRecord record, uint64_t version) {
  auto attempt = std::make_shared<Attempt>(loop_);
  attempt->slots.resize(record.world_size);
  attempt->deadline = Add(loop_->Now(), std::chrono::milliseconds(record.deadline_ms));
  attempt->record = std::move(record);
  attempt->version = version;
  return attempt;
}

// Receipts of present incarnations only (amendment 4).
std::vector<ServerId> PlacementCore::LiveReceipts(const RankSlot& slot) {
  std::vector<ServerId> live;
  for (const SlotReceipt& receipt : slot.receipts) {
    const MemberEntry* member = FindMember(receipt.server);
    if (member != nullptr && member->alive() && !member->registering &&
        member->record.incarnation == receipt.incarnation) {
      live.push_back(receipt.server);
    }
  }
  return live;
}

// Those that count as full: without the draining servers', where the others were given all copies.
// The commit waits for these then, and nothing has to move afterwards.
std::vector<ServerId> PlacementCore::CountedReceipts(const Attempt& attempt, const RankSlot& slot) {
  std::vector<ServerId> live = LiveReceipts(slot);
  const auto staying = std::count_if(
      slot.holders.begin(), slot.holders.end(),
      [this](const SlotReceipt& holder) { return !draining_.contains(holder.server); });
  if (!draining_.empty() && staying >= attempt.record.copies) {
    std::erase_if(live, [this](const ServerId& id) { return draining_.contains(id); });
  }
  return live;
}

void PlacementCore::Evaluate(Attempt* attempt, RankSlot* slot) {
  Plan& plan = PlanFor(attempt->record.copies, attempt->record.strategy);
  const std::vector<uint32_t> receipts = Indices(plan, LiveReceipts(*slot));
  const model::CopyPolicy policy{.copies = attempt->record.copies,
                                 .min_copies = attempt->record.min_copies};
  model::ReceiptCount count =
      model::CountReceipts(plan.members, receipts, policy, plan.RuleAt(attempt->record.level));
  count.full = count.full && CountedReceipts(*attempt, *slot).size() >= attempt->record.copies;
  const bool enough = count.enough && slot->root.has_value();
  attempt->enough_count += static_cast<uint32_t>(enough) - static_cast<uint32_t>(slot->enough);
  attempt->full_count += static_cast<uint32_t>(count.full) - static_cast<uint32_t>(slot->full);
  slot->copies = count.copies;
  slot->enough = enough;
  slot->full = count.full;
  GEMEL_CHECK_LE(attempt->enough_count, attempt->slots.size());
  GEMEL_CHECK_LE(attempt->full_count, attempt->enough_count) << attempt->id().ToString();
}

void PlacementCore::EvaluateAll(Attempt* attempt) {
  for (RankSlot& slot : attempt->slots) {
    Evaluate(attempt, &slot);
  }
}

void PlacementCore::Reserve(Attempt* attempt) {
  attempt->reserved.clear();
  for (const RankSlot& slot : attempt->slots) {
    for (const SlotReceipt& holder : slot.holders) {
      attempt->reserved[holder.server] += slot.bytes;
    }
  }
}

// Where the strategy puts the shards of a rank that saves at `owner`, whatever room there is.
std::vector<ServerId> PlacementCore::UsualHolders(const Attempt& attempt, const ServerId& owner) {
  const Plan& plan = PlanFor(attempt.record.copies, attempt.record.strategy);
  std::vector<ServerId> holders;
  for (const uint32_t index : plan.slots.holders[plan.index.at(owner)]) {
    holders.push_back(plan.ids[index]);
  }
  return holders;
}

// First plan of a rank, or its plan at a new incarnation of its server.
void PlacementCore::PlanRank(Attempt* attempt, uint32_t rank,
                             const std::vector<ServerId>& admitted) {
  RankSlot& slot = attempt->slots.at(rank);
  if (!slot.holders.empty() || !slot.receipts.empty()) {
    RetargetRank(attempt, rank);
    Reserve(attempt);
    return;
  }
  GEMEL_CHECK(!admitted.empty() && admitted.front() == slot.owner) << attempt->id().ToString();
  for (const ServerId& id : admitted) {
    slot.holders.push_back({id, members_.at(id)->record.incarnation});
    attempt->reserved[id] += slot.bytes;
  }
  // The attempt was opened on another map: what it takes to commit it may be another spread.
  const Plan& plan = PlanFor(attempt->record.copies, attempt->record.strategy);
  if (plan.assignment.level != attempt->record.level && RetargetRank(attempt, rank)) {
    Reserve(attempt);
  }
}

// Those of `members` that have no room for so many bytes more of this attempt.
std::vector<uint32_t> PlacementCore::WithoutRoom(const Attempt& attempt, const Plan& plan,
                                                 uint64_t bytes,
                                                 const std::vector<uint32_t>& members) const {
  std::vector<uint32_t> full;
  for (const uint32_t index : members) {
    const ServerId& id = plan.ids[index];
    const auto reserved = attempt.reserved.find(id);
    const std::vector<model::ServerMemory> server = {MemoryOf(*members_.at(id), &attempt)};
    const std::vector<uint64_t> staging = {
        bytes + (reserved == attempt.reserved.end() ? 0 : reserved->second)};
    if (model::AdmitSnapshot(server, staging).verdict == model::Verdict::kRefuse) {
      full.push_back(index);
    }
  }
  return full;
}

// True when the plan of the rank changed. Only missing receipts move.
bool PlacementCore::RetargetRank(Attempt* attempt, uint32_t rank) {
  RankSlot& slot = attempt->slots.at(rank);
  Plan& plan = PlanFor(attempt->record.copies, attempt->record.strategy);
  if (plan.ids.empty()) {
    return false;
  }
  model::ShardState shard;
  if (slot.owner.has_value() && plan.index.contains(*slot.owner)) {
    shard.owner = plan.index.at(*slot.owner);
  }
  std::vector<ServerId> old;
  old.reserve(slot.holders.size());
  for (const SlotReceipt& holder : slot.holders) {
    old.push_back(holder.server);
  }
  shard.old_holders = Indices(plan, old);
  shard.receipts = Indices(plan, LiveReceipts(slot));
  model::Retargeted target =
      model::Retarget(plan.members, plan.slots, shard, attempt->record.level);
  // Whoever is new in the plan and has no room goes last; the plan ends when none is, or all are.
  for (size_t known = 0; !target.added.empty(); known = shard.full.size()) {
    for (const uint32_t index : WithoutRoom(*attempt, plan, slot.bytes, target.added)) {
      if (std::find(shard.full.begin(), shard.full.end(), index) == shard.full.end()) {
        shard.full.push_back(index);
      }
    }
    if (shard.full.size() == known) {
      break;
    }
    target = model::Retarget(plan.members, plan.slots, shard, attempt->record.level);
  }
  if (target.holders.empty()) {
    return false;  // nobody takes work: the old plan stands until somebody does
  }
  std::vector<SlotReceipt> holders;
  if (shard.owner.has_value()) {
    const ServerId& id = plan.ids[*shard.owner];
    if (std::find(target.holders.begin(), target.holders.end(), *shard.owner) !=
        target.holders.end()) {
      holders.push_back({id, members_.at(id)->record.incarnation});
    }
  }
  for (const uint32_t index : target.holders) {
    const ServerId& id = plan.ids[index];
    if (shard.owner != index) {
      holders.push_back({id, members_.at(id)->record.incarnation});
    }
  }
  if (holders == slot.holders) {
    return false;
  }
  slot.holders = std::move(holders);
  slot.plan += 1;
  return true;
}

bool PlacementCore::OwnerIsGone(const RankSlot& slot) const {
  GEMEL_CHECK(slot.owner.has_value());
  const auto found = members_.find(*slot.owner);
  return found == members_.end() || !found->second->alive() ||
         found->second->record.incarnation != slot.owner_incarnation;
}

// Nobody sends copies of the rank's shard: what sent them went with the owner's process.
bool PlacementCore::SourceGone(const RankSlot& slot) const {
  return slot.owner.has_value() && (slot.unsent || OwnerIsGone(slot));
}

// A restarted manager learns from a rank's polls where it lives.
void PlacementCore::LearnOwner(const std::shared_ptr<Attempt>& attempt, uint32_t rank,
                               const MemberEntry& owner) {
  RankSlot& slot = attempt->slots.at(rank);
  GEMEL_CHECK(attempt->recovered && !slot.owner.has_value()) << attempt->id().ToString();
  slot.owner = owner.record.id;
  slot.owner_incarnation = owner.record.incarnation;
  PlanRank(attempt.get(), rank, UsualHolders(*attempt, *slot.owner));
  slot.plan += 1;
}

// The server at which the rank waits has no upload of its shard: it was opened under a former
// manager, and its server was restarted since.
void PlacementCore::LearnUnsent(const std::shared_ptr<Attempt>& attempt, uint32_t rank) {
  RankSlot& slot = attempt->slots.at(rank);
  if (attempt->state != AttemptState::kOpen || slot.opened || !slot.owner.has_value() ||
      slot.unsent) {
    return;
  }
  slot.unsent = !LiveReceipts(slot).empty() || AllReported(nullptr);
  if (!AbortIfNowhere(attempt, rank) && slot.unsent) {
    PullSealed(attempt, rank);
  }
}

// The bytes of a rank whose source is gone, and that nobody has sealed, are nowhere. A manager that
// did not open it waits for what all members have.
bool PlacementCore::AbortIfNowhere(const std::shared_ptr<Attempt>& attempt, uint32_t rank) {
  const RankSlot& slot = attempt->slots.at(rank);
  if (!SourceGone(slot) || !LiveReceipts(slot).empty() || (!slot.opened && !AllReported(nullptr))) {
    return false;
  }
  Abort(attempt,
        error::Unavailable("{}: the server of rank {} went before a copy was sealed; save again",
                           attempt->id().ToString(), rank));
  return true;
}

// A shard whose owner died is copied from a holder that has sealed it.
void PlacementCore::PullSealed(const std::shared_ptr<Attempt>& attempt, uint32_t rank) {
  Sometimes(Situation::kSealedPulled);
  attempt->slots.at(rank).pulled = true;
  attempt->pulls_sealed = true;
  PullMissing(attempt, rank);
}

// What holders lack is told to those that are not at it, and again to those that failed.
void PlacementCore::PullMissing(const std::shared_ptr<Attempt>& attempt, uint32_t rank) {
  RankSlot& slot = attempt->slots.at(rank);
  const std::vector<ServerId> sources = LiveReceipts(slot);
  GEMEL_CHECK(slot.pulled && (sources.empty() || slot.root.has_value()))
      << attempt->id().ToString();
  for (const SlotReceipt& holder : slot.holders) {
    MemberEntry* member = FindMember(holder.server);
    const bool has_it = std::find(sources.begin(), sources.end(), holder.server) != sources.end();
    const auto tried = slot.pulls.find(holder.server);
    const bool due = tried == slot.pulls.end() || loop_->Now() >= tried->second;
    if (!sources.empty() && member != nullptr && member->alive() && !has_it && due) {
      PullSealedTo(attempt, rank, member, sources);
    }
  }
}

void PlacementCore::PullSealedTo(const std::shared_ptr<Attempt>& attempt, uint32_t rank,
                                 MemberEntry* member, const std::vector<ServerId>& sources) {
  RankSlot& slot = attempt->slots.at(rank);
  GEMEL_CHECK(slot.root.has_value() && !sources.empty()) << attempt->id().ToString();
  const HeldCopy copy{.snapshot = attempt->id(),
                      .root = *slot.root,
                      .bytes = slot.bytes,
                      .layout_bytes = slot.layout_bytes,
                      .token = attempt->record.token};
  QueuedDirective directive;
  pb::PullShard* pull = directive.body.mutable_pull_shard();
  HeldToProto({attempt->id(), rank}, copy, pull->mutable_object());
  pull->set_writer_gone(true);
  for (const ServerId& source : sources) {
    MemberToProto(source, pull->add_sources());
  }
  slot.pulls[member->record.id] = kTimeNever;
  directive.done = [this, id = member->record.id, weak = std::weak_ptr<Attempt>(attempt), rank,
                    copy](const pb::DirectiveResult& result) {
    const std::shared_ptr<Attempt> open = weak.lock();
    MemberEntry* puller = FindMember(id);
    if (open == nullptr || !open->open() || puller == nullptr) {
      return;
    }
    open->slots.at(rank).pulls[id] = Add(loop_->Now(), kPullAgain);
    if (result.code() == 0) {
      const absl::Status counted = CountReceipt(open, puller, {open->id(), rank}, copy);
      GEMEL_CHECK(counted.ok()) << ToText(counted);
    }
  };
  Direct(member, std::move(directive));
}

// Those under way at this member are over: it is gone, or has joined again.
void PlacementCore::ForgetPullsOf(const ServerId& server) {
  for (auto& [name, job] : jobs_) {
    for (auto& [sequence, attempt] : job->attempts) {
      for (size_t rank = 0; attempt->pulls_sealed && rank < attempt->slots.size(); ++rank) {
        attempt->slots[rank].pulls.erase(server);
      }
    }
  }
}

void PlacementCore::RetargetAttempt(const std::shared_ptr<Attempt>& attempt) {
  bool changed = false;
  for (uint32_t rank = 0; rank < attempt->slots.size(); ++rank) {
    RankSlot& slot = attempt->slots[rank];
    Evaluate(attempt.get(), &slot);
    if (slot.full || (slot.holders.empty() && slot.receipts.empty())) {
      continue;
    }
    if (AbortIfNowhere(attempt, rank)) {
      return;
    }
    if (RetargetRank(attempt.get(), rank)) {
      changed = true;
      Sometimes(Situation::kRetargeted);
      if (SourceGone(slot) && !LiveReceipts(slot).empty()) {
        PullSealed(attempt, rank);
      }
    }
  }
  if (changed) {
    Reserve(attempt.get());
    attempt->changed.NotifyAll();
  }
  Consider(attempt);
}

void PlacementCore::RetargetAll() {
  for (auto& [name, job] : jobs_) {
    for (auto& [sequence, attempt] : job->attempts) {
      attempt->members_changed = attempt->state == AttemptState::kCommitting;
      if (attempt->state == AttemptState::kOpen) {
        RetargetAttempt(attempt);
      }
    }
  }
}

bool PlacementCore::AllHoldersAnswered(const Attempt& attempt) {
  for (const RankSlot& slot : attempt.slots) {
    if (slot.full) {
      continue;
    }
    const std::vector<ServerId> live = LiveReceipts(slot);
    for (const SlotReceipt& holder : slot.holders) {
      const MemberEntry* member = FindMember(holder.server);
      if (member != nullptr && member->alive() &&
          std::find(live.begin(), live.end(), holder.server) == live.end()) {
        return false;
      }
    }
  }
  return true;
}

std::string PlacementCore::Missing(const Attempt& attempt) const {
  constexpr uint32_t kListed = 4;
  if (!attempt.store_error.ok()) {
    return ToText(attempt.store_error);
  }
  if (attempt.state == AttemptState::kCommitting) {
    const absl::Status store = CheckStore();
    return store.ok() ? "all shards are kept; its record is being written to placement's store"
                      : std::string(MessageOf(store));
  }
  std::string ranks;
  uint32_t listed = 0;
  for (uint32_t rank = 0; rank < attempt.slots.size() && listed < kListed; ++rank) {
    const RankSlot& slot = attempt.slots[rank];
    if (!slot.enough) {
      listed += 1;
      ranks += slot.opened || slot.root.has_value()
                   ? fmt::format("; rank {} has {} of {} receipts", rank, slot.copies,
                                 attempt.record.min_copies)
                   : fmt::format("; rank {} did not open", rank);
    }
  }
  const auto alive = std::count_if(members_.begin(), members_.end(),
                                   [](const auto& member) { return member.second->in_service(); });
  return fmt::format("{} of {} ranks opened, {} have enough receipts{}{}", attempt.opened_count,
                     attempt.record.world_size, attempt.enough_count, ranks,
                     TooFewServers(attempt.record.min_copies, alive));
}

// Commits when nothing better can be had: all full, or nobody left to wait for, or late.
void PlacementCore::Consider(const std::shared_ptr<Attempt>& attempt) {
  if (attempt->state != AttemptState::kOpen || attempt->enough_count < attempt->record.world_size) {
    return;
  }
  const bool late = loop_->Now() >= attempt->deadline;
  const bool full = attempt->full_count == attempt->record.world_size;
  if (!full && !late && (attempt->recovered && !AllReported(nullptr))) {
    return;
  }
  if (full || late || AllHoldersAnswered(*attempt)) {
    attempt->state = AttemptState::kCommitting;
    SpawnInside(Commit(attempt));
  }
}

}  // namespace gemel

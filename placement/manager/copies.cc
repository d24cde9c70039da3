// SPDX-License-Identifier: Apache-2.0
//
// Which members hold the shards of a committed snapshot. Lost is not unknown (amendment 2): a shard
// is lost only when every member has reported or is dead and none of them has it.
#include <algorithm>

#include "common/check.h"
#include "common/errors.h"
#include "common/points.h"
#include "placement/manager/core.h"

namespace gemel {

PlacementCore::HolderTable PlacementCore::TableOf(
    const Committed& snapshot,
    std::map<SnapshotKey, std::map<uint32_t, HeldCopy>> MemberEntry::* copies) {
  HolderTable table(snapshot.record.world_size);
  const SnapshotKey key = KeyOf(snapshot.record.snapshot);
  for (const auto& [id, member] : members_) {
    const auto held = (*member.*copies).find(key);
    if (!member->alive() || !member->reported || held == (*member.*copies).end()) {
      continue;
    }
    for (const auto& [rank, copy] : held->second) {
      const bool committed = snapshot.parsed == nullptr || rank >= table.size() ||
                             snapshot.parsed->shards[rank].root == copy.root;
      if (rank < table.size() && committed) {
        table[rank].push_back(id);
      }
    }
  }
  return table;
}

std::vector<ServerId> PlacementCore::RankCopies(
    const Committed& snapshot, uint32_t rank,
    std::map<SnapshotKey, std::map<uint32_t, HeldCopy>> MemberEntry::* copies) const {
  GEMEL_CHECK_LT(rank, snapshot.record.world_size) << snapshot.record.snapshot.ToString();
  std::vector<ServerId> servers;
  const SnapshotKey key = KeyOf(snapshot.record.snapshot);
  for (const auto& [id, member] : members_) {
    const auto held = (*member.*copies).find(key);
    if (!member->alive() || !member->reported || held == (*member.*copies).end()) {
      continue;
    }
    const auto copy = held->second.find(rank);
    if (copy != held->second.end() &&
        (snapshot.parsed == nullptr || snapshot.parsed->shards[rank].root == copy->second.root)) {
      servers.push_back(id);
    }
  }
  return servers;
}

std::vector<ServerId> PlacementCore::RankHolders(const Committed& snapshot, uint32_t rank) const {
  return RankCopies(snapshot, rank, &MemberEntry::held);
}

std::vector<ServerId> PlacementCore::RankSources(const Committed& snapshot, uint32_t rank) const {
  std::vector<ServerId> sources = RankHolders(snapshot, rank);
  return sources.empty() ? RankCopies(snapshot, rank, &MemberEntry::disk) : sources;
}

PlacementCore::HolderTable PlacementCore::HoldersOf(const Committed& snapshot) {
  return TableOf(snapshot, &MemberEntry::held);
}

PlacementCore::HolderTable PlacementCore::DiskHoldersOf(const Committed& snapshot) {
  return TableOf(snapshot, &MemberEntry::disk);
}

PlacementCore::HolderTable PlacementCore::SourcesOf(const Committed& snapshot) {
  HolderTable sources = HoldersOf(snapshot);
  const HolderTable disks = DiskHoldersOf(snapshot);
  for (size_t rank = 0; rank < sources.size(); ++rank) {
    if (sources[rank].empty() && !disks[rank].empty()) {
      Sometimes(Situation::kSourceOnDisk);
      sources[rank] = disks[rank];
    }
  }
  return sources;
}

// REQUIRES: the member holds the shard, in memory or on disk.
const HeldCopy& PlacementCore::CopyAt(const MemberEntry& member, const ShardId& shard) {
  const SnapshotKey key = KeyOf(shard.snapshot);
  const auto held = member.held.find(key);
  const bool in_memory = held != member.held.end() && held->second.contains(shard.rank);
  return in_memory ? held->second.at(shard.rank) : member.disk.at(key).at(shard.rank);
}

void PlacementCore::CountCopies(Committed* snapshot) {
  const model::CommitRecord& record = snapshot->record;
  Plan& plan = PlanOf(record);
  const model::CopyPolicy policy{.copies = plan.assignment.copies,
                                 .min_copies = std::min(record.min_copies, plan.assignment.copies)};
  const model::DomainRule rule = plan.RuleAt(plan.assignment.level);
  snapshot->full = true;
  snapshot->fewest = policy.copies;
  for (const std::vector<ServerId>& holders : HoldersOf(*snapshot)) {
    const model::ReceiptCount count =
        model::CountReceipts(plan.members, Indices(plan, holders), policy, rule);
    snapshot->full = snapshot->full && count.full;
    snapshot->fewest = std::min(snapshot->fewest, count.copies);
  }
}

bool PlacementCore::AllReported(std::string* waiting_for) const {
  std::string names;
  size_t unknown = 0;
  for (const auto& [id, member] : members_) {
    if (member->in_service() && !member->reported) {
      names += (names.empty() ? "" : ", ") + member->record.name;
    }
    unknown += member->alive() && !member->known() ? 1 : 0;
  }
  if (unknown > 0) {
    names += (names.empty() ? "" : ", ") +
             fmt::format("{} servers of the map before the recovery", unknown);
  }
  if (waiting_for != nullptr && !names.empty()) {
    *waiting_for = "waiting for the inventory of " + names;
  }
  return names.empty();
}

// Of whose disks it is not known what they hold, and why; empty: of all.
std::string PlacementCore::UnknownDisks() const {
  std::string names;
  for (const auto& [id, member] : members_) {
    if (member->alive() && member->reported && member->disk_unknown) {
      names += fmt::format("{}{}: {}", names.empty() ? "" : "; ", member->record.name,
                           member->tier_trouble);
    }
  }
  return names;
}

// A server is about to have copied it, or has it half on disk: its source may have gone since.
bool PlacementCore::IsUnderWay(const Committed& snapshot, uint32_t rank) {
  const std::pair<uint32_t, ServerId> first{rank, ServerId()};
  const auto has = [&](const auto& tasks) {
    const auto task = tasks.lower_bound(first);
    return task != tasks.end() && task->first.first == rank;
  };
  if (snapshot.persist.has_value() && IsBeingWritten(*snapshot.persist, rank)) {
    return true;
  }
  return has(snapshot.pulls) || has(snapshot.rewrites);
}

// Neither in memory nor on disk anywhere. What an unknown disk might hold is not lost, nor what is
// under way.
std::vector<uint32_t> PlacementCore::LostShards(const Committed& snapshot,
                                                const HolderTable& sources) const {
  GEMEL_CHECK_EQ(sources.size(), snapshot.record.world_size);
  std::vector<uint32_t> lost;
  const bool known = AllReported(nullptr) && UnknownDisks().empty();
  for (uint32_t rank = 0; rank < sources.size(); ++rank) {
    if (known && sources[rank].empty() && !IsUnderWay(snapshot, rank)) {
      lost.push_back(rank);
    }
  }
  return lost;
}

// A holder found its copy damaged or gone, in memory or, when it has none there, on disk.
void PlacementCore::CopyGone(MemberEntry* member, const ShardId& shard, std::string_view why) {
  const auto held = member->held.find(KeyOf(shard.snapshot));
  const bool in_memory = held != member->held.end() && held->second.erase(shard.rank) != 0;
  const auto disk = member->disk.find(KeyOf(shard.snapshot));
  if (!in_memory && (disk == member->disk.end() || disk->second.erase(shard.rank) == 0)) {
    return;
  }
  Sometimes(Situation::kCopyGone);
  data_losses_.Add(1);
  Emit(Severity::kError, "copy_gone",
       fmt::format("{}: the copy at {} is gone: {}", shard.ToString(), member->record.name, why));
  Job* job = FindJob(shard.snapshot.job);
  const auto found = job->snapshots.find(OrderOf(shard.snapshot.epoch, shard.snapshot.sequence));
  if (found != job->snapshots.end()) {
    CountCopies(&found->second);
    found->second.disk_settled = false;
  }
  job->changed.NotifyAll();
  ReviewRestoreSoon(job);
  MaintainSoon(job);
}

// The result of a VerifyShard.
void PlacementCore::TakeVerdict(const ServerId& server, const ShardId& shard,
                                const pb::DirectiveResult& verified) {
  const auto code = static_cast<absl::StatusCode>(verified.code());
  MemberEntry* holder = FindMember(server);
  if (holder != nullptr &&
      (code == absl::StatusCode::kDataLoss || code == absl::StatusCode::kNotFound)) {
    CopyGone(holder, shard, verified.message());
  }
}

}  // namespace gemel

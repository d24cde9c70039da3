// SPDX-License-Identifier: Apache-2.0
//
// What the oracle checks of the copies of a shard: how many there are, and in how many failure
// domains, against the rule of placement/model/receipts.h. Where copies lie is looked up in the
// servers' memories; which members there were follows from what placement said of them.
#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "common/check.h"
#include "placement/model/assignment.h"
#include "placement/model/cluster_map.h"
#include "tests/sim/oracle.h"

namespace gemel::sim {
namespace {

std::vector<model::Member> MembersOf(const Cluster& cluster, const std::vector<bool>& set,
                                     const std::set<std::string>& drained) {
  std::vector<model::Member> members;
  for (uint32_t i = 0; i < set.size(); ++i) {
    if (set[i]) {
      members.push_back(
          {.domain = cluster.DomainOf(i), .placeable = !drained.contains(Cluster::NameOf(i))});
    }
  }
  return members;
}

}  // namespace

// Of servers that lost theirs a moment ago it is not known what they had: they count for both.
Oracle::Standing Oracle::StandingOf(const ShardId& shard, TimePoint opened) const {
  Standing standing;
  for (uint32_t i = 0; i < cluster_->shape().slots(); ++i) {
    const Server* server = cluster_->ServerAt(i);
    const auto object = server == nullptr ? nullptr : server->objects().Find(shard);
    if (object != nullptr && object->state() == ObjectState::kSealed && IsWhole(*object)) {
      standing.holders.push_back(i);
    } else if (IsExcused(memories_lost_, i, opened) || IsStarting(i) ||
               damaged_.contains(shard)) {  // a join does not look at it, and a reader drops it
      standing.excused.push_back(i);
    } else {
      standing.without.push_back(i);
    }
  }
  return standing;
}

// Its present life is in the store: what a former one sealed counts no more, whoever asks.
bool Oracle::HasJoined(uint32_t server) const {
  const Server* present = cluster_->ServerAt(server);
  const auto life = stored_life_.find(Cluster::NameOf(server));
  return !late_store_ && present != nullptr && life != stored_life_.end() &&
         life->second == present->incarnation();
}

// The sets of members that a transaction which is applied now may have been decided by.
std::vector<std::vector<model::Member>> Oracle::MembersLately() const {
  std::set<std::string> drained;
  for (const auto& [id, until] : drained_) {
    if (until >= DecidedSince()) {
      drained.insert(stored_names_.at(id));
    }
  }
  std::vector<std::vector<model::Member>> lately;
  for (const std::vector<bool>& set : cluster_->MemberSetsSince(DecidedSince())) {
    lately.push_back(MembersOf(*cluster_, set, {}));
    if (!drained.empty()) {
      lately.push_back(MembersOf(*cluster_, set, drained));
    }
  }
  return lately;
}

void Oracle::CheckCopies(const Job& job, const model::CommitRecord& record, uint32_t level) {
  size_t domains = record.min_copies;
  for (const std::vector<model::Member>& members : MembersLately()) {
    domains = std::min<size_t>(domains, model::CountDomains(members, level));
  }
  for (uint32_t rank = 0; rank < record.world_size; ++rank) {
    const ShardId shard{record.snapshot, rank};
    const TimePoint opened = job.opened_at.at(record.snapshot.sequence);
    Standing standing = StandingOf(shard, opened);
    // With another disk it joined as another server: the one that went may count until it is dead.
    std::erase_if(standing.excused, [&](uint32_t server) {
      return HasJoined(server) && !IsStarting(server) && !damaged_.contains(shard) &&
             !IsExcused(disks_lost_, server, opened);
    });
    const size_t copies = standing.holders.size();
    if (copies + standing.excused.size() < record.min_copies) {
      Violation(
          fmt::format("copies: {} is committed with {} copies of {}, {} are excused; {} "
                      "servers have none",
                      shard.ToString(), copies, record.min_copies, standing.excused.size(),
                      standing.without.size()));
    }
    if (const size_t apart = truth_->DomainsOf(standing.All(), level); apart < domains) {
      Violation(fmt::format("copies: {} is committed in {} of {} domains at level {}",
                            shard.ToString(), apart, domains, level));
    }
  }
}

// Full redundancy, as CountReceipts() has it, by any set of members that there was lately. With
// `excuse` copies count that were lost a moment ago.
bool Oracle::IsFull(const Job& job, const model::CommitRecord& record, bool excuse) const {
  const TimePoint opened = job.opened_at.at(record.snapshot.sequence);
  const std::vector<std::vector<model::Member>> lately = MembersLately();
  for (uint32_t rank = 0; rank < record.world_size; ++rank) {
    const Standing standing = StandingOf({record.snapshot, rank}, opened);
    const std::vector<uint32_t> copies = excuse ? standing.All() : standing.holders;
    const auto suffices = [&](const std::vector<model::Member>& members) {
      const uint32_t level = model::BuildGroups(members, record.copies, record.strategy).level;
      const size_t domains = model::CountDomains(members, level);
      return truth_->DomainsOf(copies, level) >= std::min<size_t>(record.copies, domains);
    };
    if (copies.size() < record.copies || std::none_of(lately.begin(), lately.end(), suffices)) {
      return false;
    }
  }
  return true;
}

// Whatever a newer one is for, one of them has all its copies, each where it belongs. What has lost
// some of its own may also go for a newer one of its name, as Retire() has it.
void Oracle::CheckRetired(const Job& job, const std::string& key, uint64_t sequence) {
  const auto& values = cluster_->store()->values;
  const model::CommitRecord own = model::DecodeCommitRecord(job.records.at(sequence)).value();
  const bool full = IsFull(job, own, /*excuse=*/false);
  for (auto newer = job.stored.upper_bound(sequence); newer != job.stored.end(); ++newer) {
    const auto id = job.by_sequence.find(*newer);
    GEMEL_CHECK(id != job.by_sequence.end()) << key;
    const auto found =
        values.find(StoredSnapshotKey(job.plan.name, id->second.epoch, id->second.sequence));
    if (found == values.end()) {
      continue;  // it leaves in the same transaction
    }
    const absl::StatusOr<model::CommitRecord> record =
        model::DecodeCommitRecord(found->second.value);
    GEMEL_CHECK(record.ok()) << found->first;
    const bool replaces = record->snapshot.name == own.snapshot.name;
    if (IsFull(job, *record, /*excuse=*/true) || (replaces && !full)) {
      return;
    }
  }
  Violation(fmt::format("freed: {} is retired, and no newer one has all its copies apart", key));
}

}  // namespace gemel::sim

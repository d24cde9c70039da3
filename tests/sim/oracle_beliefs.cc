// SPDX-License-Identifier: Apache-2.0
//
// What the oracle checks of what the manager that leads takes for true, and of what lands where
// nobody may write any more.
#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "common/check.h"
#include "placement/model/receipts.h"
#include "tests/sim/oracle.h"

namespace gemel::sim {
namespace {

constexpr Duration kPlannedWithin = 1s;
constexpr Duration kGoneToldWithin = 3s;  // by a server that is heard, should a join be lost
constexpr Duration kWrittenWithin = 3s;   // a receipt of before, by a server that is heard

bool Overlap(ByteSpan a, ByteSpan b) {
  return a.data() < b.data() + b.size() && b.data() < a.data() + a.size();
}

std::optional<uint32_t> ChunkUnder(const Object& object, ByteSpan bytes) {
  for (uint32_t chunk = 0; chunk < object.chunks(); ++chunk) {
    if (Overlap(object.Chunk(chunk), bytes)) {
      return chunk;
    }
  }
  return std::nullopt;
}

// Null when that incarnation is not a member.
const PlacementBeliefs::Disk* DiskOf(const PlacementBeliefs& beliefs,
                                     const Incarnation& incarnation) {
  const auto at =
      std::find_if(beliefs.disks.begin(), beliefs.disks.end(),
                   [&incarnation](const auto& disk) { return disk.incarnation == incarnation; });
  return at == beliefs.disks.end() ? nullptr : &*at;
}

}  // namespace

// Open in the present epoch, or committed: of others servers let go before placement hears.
bool Oracle::IsCounted(const SnapshotId& id) const {
  const Job& job = jobs_.at(id.job);
  const auto open = job.open.find(id.sequence);
  return (open != job.open.end() && open->second.snapshot == id && id.epoch == job.record.epoch) ||
         cluster_->store()->values.contains(StoredSnapshotKey(id.job, id.epoch, id.sequence));
}

void Oracle::CheckBeliefs() {
  const PlacementBeliefs beliefs = cluster_->Beliefs();
  std::map<Incarnation, uint32_t> lives;
  for (uint32_t i = 0; i < cluster_->shape().slots(); ++i) {
    if (const Server* server = cluster_->ServerAt(i); server != nullptr) {
      lives[server->incarnation()] = i;
    }
  }
  const std::map<std::pair<Incarnation, ShardId>, TimePoint> before = std::exchange(gone_, {});
  for (const auto& [incarnation, shard] : beliefs.copies) {
    const auto life = lives.find(incarnation);
    if (life == lives.end() || !IsCounted(shard.snapshot)) {
      continue;
    }
    const std::shared_ptr<Object> object = cluster_->ServerAt(life->second)->objects().Find(shard);
    const bool gone = object == nullptr || object->state() != ObjectState::kSealed;
    if (gone && damaged_.contains(shard) && cluster_->IsHeard(life->second)) {
      const auto known = before.find({incarnation, shard});
      // A join waits for commits that are being written.
      const bool counts = known != before.end() && cluster_->IsWritable();
      gone_[{incarnation, shard}] = counts ? known->second : cluster_->now();
    }
    const auto since = gone_.find({incarnation, shard});
    const bool is_told =
        !damaged_.contains(shard) ||
        (since != gone_.end() && Add(since->second, kGoneToldWithin) < cluster_->now());
    if (gone && is_told) {
      Violation(fmt::format("believed: {} counts as sealed at {}, which has not", shard.ToString(),
                            Cluster::HostOf(life->second)));
    }
  }
  CheckPlanned(beliefs.planned);
  CheckFinished(beliefs, lives);
  CheckWritten(beliefs, lives);
  believed_ = beliefs;
  believed_at_ = cluster_->now();
}

void Oracle::DamagedOnDisk(uint32_t server, const ShardId& shard) {
  rotten_on_disk_[{server, shard}] = cluster_->now();
}

// What comes to be counted at a disk in the life of its server has just been written there, unless
// an inventory names it once more.
void Oracle::CheckWritten(const PlacementBeliefs& beliefs,
                          const std::map<Incarnation, uint32_t>& lives) {
  for (auto& [at, since] : rotten_on_disk_) {
    if (!cluster_->IsHeard(at.first) || !cluster_->IsWritable()) {
      since = cluster_->now();  // what it wrote while all was well is not told yet
    }
  }
  for (const PlacementBeliefs::Disk& disk : beliefs.disks) {
    const PlacementBeliefs::Disk* before = DiskOf(believed_, disk.incarnation);
    const auto life = lives.find(disk.incarnation);
    if (beliefs.term != believed_.term || before == nullptr || life == lives.end() ||
        cluster_->MemberSince(life->second) >= believed_at_) {
      continue;
    }
    for (const ShardId& shard : disk.shards) {
      const auto rotten = rotten_on_disk_.find({life->second, shard});
      if (!before->shards.contains(shard) && rotten != rotten_on_disk_.end() &&
          Add(rotten->second, kWrittenWithin) < cluster_->now() &&
          !cluster_->tier(life->second)->IsSound(shard)) {
        Violation(fmt::format("written: {} counts as written at {}, where it is damaged",
                              shard.ToString(), Cluster::HostOf(life->second)));
      }
    }
  }
}

// The newest.
Oracle::Finished Oracle::FinishedOf(const Job& job, const PlacementBeliefs& beliefs) const {
  const std::optional<model::CommitRecord> record = LatestRecord(job);
  Finished finished{.enough = true};
  for (uint32_t rank = 0; record.has_value() && rank < record->world_size; ++rank) {
    const ShardId shard{record->snapshot, rank};
    uint32_t copies = 0;
    for (const PlacementBeliefs::Disk& disk : beliefs.disks) {
      if (disk.shards.contains(shard)) {
        finished.disks.push_back({beliefs.term, disk.incarnation, shard});
        copies += 1;
      }
    }
    if (copies == 0) {
      return {};
    }
    finished.enough = finished.enough && copies >= std::max(1U, job.record.persist_copies);
    finished.alone = finished.alone || !IsInAMemory(shard);
  }
  return finished;
}

// What is whole on enough disks is finished, or stays until something newer is; what is whole on
// disks stays until memory has it. No copy of it is let go of while all of them are there; that one
// had decayed may be heard when it is written again.
void Oracle::CheckFinished(const PlacementBeliefs& beliefs,
                           const std::map<Incarnation, uint32_t>& lives) {
  const auto is_there = [this, &beliefs, &lives](const OnDisk& at) {
    const auto life = lives.find(at.incarnation);
    return at.term == beliefs.term && life != lives.end() &&
           DiskOf(beliefs, at.incarnation) != nullptr &&
           cluster_->tier(life->second)->IsSound(at.shard);
  };
  for (auto& [name, job] : jobs_) {
    const Finished before = std::exchange(job.finished, FinishedOf(job, beliefs));
    const std::vector<OnDisk>& disks = before.disks;
    const std::optional<model::CommitRecord> latest = LatestRecord(job);
    if (job.removing || !(before.enough || before.alone) || !latest.has_value() ||
        !std::all_of(disks.begin(), disks.end(), is_there)) {
      continue;
    }
    for (const OnDisk& at : disks) {
      const bool is_held = before.enough || !IsInAMemory(at.shard);
      const bool decayed = rotten_on_disk_.contains({lives.at(at.incarnation), at.shard});
      if (is_held && !decayed && latest->snapshot == at.shard.snapshot &&
          !DiskOf(beliefs, at.incarnation)->shards.contains(at.shard)) {
        Violation(fmt::format("kept: {} is whole on {} disks, and is let go of at {}",
                              at.shard.ToString(), before.enough ? "enough" : "its only",
                              Cluster::HostOf(lives.at(at.incarnation))));
      }
    }
  }
}

// A plan may lag behind the members for a while: a commit that is being made holds it up.
void Oracle::CheckPlanned(const std::vector<PlacementBeliefs::Planned>& plans) {
  const std::map<ShardId, TimePoint> before = std::exchange(misplanned_, {});
  for (const PlacementBeliefs::Planned& planned : plans) {
    const bool all_placeable =
        std::all_of(planned.members.begin(), planned.members.end(),
                    [](const model::Member& member) { return member.placeable; });
    const uint32_t apart = model::CountDomains(planned.holders, planned.level);
    const uint32_t there = model::CountDomains(planned.members, planned.level);
    if (!all_placeable || apart >= std::min(planned.copies, there)) {
      continue;
    }
    const auto known = before.find(planned.shard);
    const TimePoint since = known == before.end() ? cluster_->now() : known->second;
    misplanned_[planned.shard] = since;
    if (Add(since, kPlannedWithin) < cluster_->now()) {
      Violation(fmt::format("planned: {} is to be in {} domains of {} at level {}, for {} copies",
                            planned.shard.ToString(), apart, there, planned.level, planned.copies));
    }
  }
}

void Oracle::CheckLanded(const std::string& node, ByteSpan landed) {
  for (uint32_t i = 0; i < cluster_->shape().slots(); ++i) {
    const Server* server = Cluster::HostOf(i) == node ? cluster_->ServerAt(i) : nullptr;
    const auto sealed =
        server == nullptr ? std::vector<std::shared_ptr<Object>>() : server->objects().Sealed();
    for (const std::shared_ptr<Object>& object : sealed) {
      if (const std::optional<uint32_t> chunk = ChunkUnder(*object, landed)) {
        Violation(fmt::format("fence: {} bytes land in chunk {} of {}, which is sealed at {}",
                              landed.size(), *chunk, object->shard().ToString(), node));
      }
    }
  }
}

// Those that have reported are in the store as they are; of the others it has the ids alone.
void Oracle::CheckMajority() {
  size_t members = 0;
  size_t heard = 0;
  const auto& values = cluster_->store()->values;
  for (auto at = values.lower_bound(kMemberPrefix);
       at != values.end() && at->first.starts_with(kMemberPrefix); ++at) {
    const absl::StatusOr<MemberRecord> record =
        DecodeStored<MemberRecord>(at->first, at->second.value);
    GEMEL_CHECK(record.ok()) << at->first;
    members += 1;
    heard += record->data_address.empty() ? 0 : 1;
  }
  if (heard < members / 2 + 1) {
    Violation(
        fmt::format("recovered: {} of {} last members have reported, and nobody accepted "
                    "the loss",
                    heard, members));
  }
}

}  // namespace gemel::sim

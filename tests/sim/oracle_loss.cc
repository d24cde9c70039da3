// SPDX-License-Identifier: Apache-2.0
//
// What the oracle checks of losses that are told: nothing is called lost that a server still has
// which placement counts, or has yet to hear. Lost is not unknown (amendment 2).
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>

#include "common/check.h"
#include "common/errors.h"
#include "placement/model/records.h"
#include "tests/sim/oracle.h"

namespace gemel::sim {
namespace {

constexpr Duration kDrainHeard = 1s;

}  // namespace

void Oracle::RestoreWritten(const std::string& key, const std::string& value) {
  const absl::StatusOr<RestoreRecord> decoded = DecodeStored<RestoreRecord>(key, value);
  GEMEL_CHECK(decoded.ok()) << key << ": " << ToText(decoded.status());
  const RestoreRecord& record = *decoded;
  Job& job = jobs_.at(key.substr(std::string_view(kRestorePrefix).size()));
  if (const auto epoch = job.epochs.find(record.epoch); epoch != job.epochs.end()) {
    epoch->second.exposed = epoch->second.exposed || MayLose(job);
  }
  for (uint32_t rank = 0; rank < record.verified.size(); ++rank) {
    const std::set<uint64_t>& read = job.epochs[record.epoch].reporting[rank];
    if (record.verified[rank] != '\0' && !read.contains(record.chosen_sequence)) {
      Violation(fmt::format(
          "verified: rank {} of epoch {} of {} counts as verified in round {}, "
          "and has not read sequence {}",
          rank, record.epoch.ToString(), job.plan.name, record.round, record.chosen_sequence));
    }
  }
  for (const std::string& sentence : record.lost) {
    const std::string once = record.epoch.ToString() + sentence;
    if (job.losses.insert(once).second) {
      CheckLoss(&job, sentence);
    }
  }
}

// A member that is alive in the store is waited for until it has joined or is declared dead.
void Oracle::MemberWritten(const std::string& key, const std::string& value) {
  const absl::StatusOr<MemberRecord> record = DecodeStored<MemberRecord>(key, value);
  GEMEL_CHECK(record.ok()) << key << ": " << ToText(record.status());
  stored_life_[record->name] = record->incarnation;
  stored_names_[record->id.ToHex()] = record->name;
  if (record->dead) {
    alive_since_[record->name].erase(key);
  } else {
    alive_since_[record->name].try_emplace(key, cluster_->now());
  }
}

void Oracle::LookAtDisks() {
  for (uint32_t i = 0; i < cluster_->shape().slots(); ++i) {
    std::map<ShardId, TimePoint> before = std::exchange(on_disk_since_[i], {});
    for (const auto& [shard, record] : cluster_->tier(i)->Durable()) {
      const auto known = before.find(shard);
      on_disk_since_[i][shard] = known == before.end() ? cluster_->now() : known->second;
    }
  }
  for (auto& [name, job] : jobs_) {
    CheckKept(&job);
  }
  looked_at_disks_ = cluster_->now();
}

bool Oracle::IsInAMemory(const ShardId& shard) const {
  for (uint32_t i = 0; i < cluster_->shape().slots(); ++i) {
    const Server* server = cluster_->ServerAt(i);
    if (IsStarting(i) || (server != nullptr && server->objects().Find(shard) != nullptr)) {
      return true;
    }
  }
  return false;
}

bool Oracle::IsOnADisk(const ShardId& shard) const {
  for (uint32_t i = 0; i < cluster_->shape().slots(); ++i) {
    if (cluster_->tier(i)->IsSound(shard)) {
      return true;
    }
  }
  return false;
}

// Of the newest that is committed, as long as no disk goes. While memory has it, disks need not; so
// nothing is said of what went in the moment of a loss, nor of what left the disks before anybody
// knew that it decays in memory.
void Oracle::CheckKept(Job* job) {
  const uint64_t before =
      std::exchange(job->whole_on_disks, truth_->NewestWholeOnDisks(job->plan.name));
  const bool disks_alone = std::exchange(job->disks_alone, false);
  const std::optional<model::CommitRecord> record = LatestRecord(*job);
  if (!record.has_value() || job->removing) {
    return;
  }
  const auto is_new = [this](const auto& loss) { return loss.first >= looked_at_disks_; };
  const bool excused =
      std::any_of(disks_lost_.begin(), disks_lost_.end(), is_new) ||
      (!disks_alone && std::any_of(memories_lost_.begin(), memories_lost_.end(), is_new));
  const bool gone = record->snapshot.sequence == before && job->whole_on_disks < before && !excused;
  for (uint32_t rank = 0; rank < record->world_size; ++rank) {
    const ShardId shard{record->snapshot, rank};
    const bool in_memory = IsInAMemory(shard);
    job->disks_alone = job->disks_alone || !in_memory;
    const bool decays = !disks_alone && damaged_.contains(shard);
    if (gone && !in_memory && !decays && !IsOnADisk(shard)) {
      Violation(fmt::format("kept: {} was whole on the disks together, and is nowhere",
                            shard.ToString()));
    }
  }
}

// The leading manager has no word of it since it was elected, and does not take it for dead.
bool Oracle::IsToBeHeard(uint32_t server) const {
  const auto alive = alive_since_.find(Cluster::NameOf(server));
  if (cluster_->IsListed(server) || cluster_->IsDeclaredDead(server) ||
      alive == alive_since_.end()) {
    return false;
  }
  const TimePoint decided = DecidedSince();
  return std::any_of(alive->second.begin(), alive->second.end(),
                     [decided](const auto& record) { return record.second <= decided; });
}

std::vector<uint32_t> Oracle::KeptCopiesOf(const ShardId& shard) const {
  return truth_->IsKeptInMemory(shard.snapshot) ? truth_->CopiesOf(shard) : std::vector<uint32_t>();
}

// A server that is heard may have sealed it since it joined, which nobody knows for a while; what
// was on its disk when it joined is in its inventory, or said to be unread.
bool Oracle::IsThere(const ShardId& shard) const {
  const std::vector<uint32_t> copies = KeptCopiesOf(shard);
  const std::vector<uint32_t> disks = truth_->DisksWith(shard);
  const auto is_heard = [this](uint32_t server) { return cluster_->IsHeard(server); };
  if (std::any_of(copies.begin(), copies.end(), is_heard) ||
      std::any_of(disks.begin(), disks.end(), is_heard)) {
    return true;
  }
  const TimePoint decided = DecidedSince();
  const bool joined_with_it = std::any_of(disks.begin(), disks.end(), [&](uint32_t server) {
    const TimePoint joined = cluster_->MemberSince(server);
    const auto& seen = on_disk_since_.find(server);
    const bool known = seen != on_disk_since_.end() && seen->second.contains(shard);
    return joined <= decided && known && seen->second.at(shard) < joined;
  });
  if (joined_with_it) {
    return true;
  }
  for (uint32_t i = 0; i < cluster_->shape().slots(); ++i) {
    const Server* server = cluster_->ServerAt(i);
    const auto object = server == nullptr ? nullptr : server->objects().Find(shard);
    const bool in_memory = object != nullptr && object->state() == ObjectState::kSealed &&
                           !object->token().IsZero() && IsWhole(*object) &&
                           truth_->IsKeptInMemory(shard.snapshot);
    if (IsToBeHeard(i) && (in_memory || cluster_->tier(i)->IsSound(shard))) {
      return true;
    }
  }
  return false;
}

// Some shard of it is with nobody, in memory or on disk.
bool Oracle::IsLost(const SnapshotId& id) const {
  const auto& values = cluster_->store()->values;
  auto stored = values.find(StoredSnapshotKey(id.job, id.epoch, id.sequence));
  stored =
      stored != values.end() ? stored : values.find(PersistedKey(id.job, id.epoch, id.sequence));
  if (stored == values.end()) {
    return true;
  }
  const absl::StatusOr<model::CommitRecord> record =
      model::DecodeCommitRecord(stored->second.value);
  GEMEL_CHECK(record.ok()) << stored->first;
  const uint32_t world = record->world_size;
  for (uint32_t rank = 0; rank < world; ++rank) {
    if (!IsThere({id, rank})) {
      return true;
    }
  }
  return false;
}

// "<snapshot>: no … of ranks 0, 2 …": a shard is lost when nobody has it in memory, a snapshot when
// a shard is nowhere. What is left of a lost one on disks is dropped.
void Oracle::CheckLoss(Job* job, const std::string& sentence) {
  constexpr std::string_view kRanks = " of ranks ";
  const auto id = job->by_text.find(sentence.substr(0, sentence.find(": ")));
  const size_t ranks = sentence.find(kRanks);
  if (id == job->by_text.end() || ranks == std::string::npos) {
    Violation(fmt::format("honest loss: no snapshot or no ranks are named by '{}'", sentence));
    return;
  }
  if (!IsLost(id->second)) {
    Violation(fmt::format("honest loss: {} is told lost, and every shard of it is there",
                          id->second.ToString()));
  }
  const char* at = sentence.c_str() + ranks + kRanks.size();
  while (*at >= '0' && *at <= '9') {
    char* end = nullptr;
    const ShardId shard{id->second, static_cast<uint32_t>(std::strtoul(at, &end, 10))};
    for (const uint32_t server : KeptCopiesOf(shard)) {
      if (cluster_->IsHeard(server)) {
        Violation(fmt::format("honest loss: {} is told lost, and {} has it", shard.ToString(),
                              Cluster::HostOf(server)));
      }
    }
    at = end + (std::string_view(end).starts_with(", ") ? 2 : 0);
  }
}

// Of what was opened a moment ago the manager had not heard when it said so.
void Oracle::Drained(uint32_t server, const ServerId& id) {
  const Server* drained = cluster_->ServerAt(server);
  if (drained == nullptr || drained->id() != id) {
    return;
  }
  const TimePoint lately = cluster_->now() - kDrainHeard;
  for (const auto& [name, job] : jobs_) {
    for (const auto& [sequence, snapshot] : job.by_sequence) {
      const auto opened = job.opened_at.find(sequence);
      if (!job.removing && opened != job.opened_at.end() && opened->second < lately) {
        CheckDrained(server, snapshot, lately);
      }
    }
  }
}

// Whose copies went a moment ago may have been counted.
void Oracle::CheckDrained(uint32_t server, const SnapshotId& id, TimePoint lately) {
  const auto& values = cluster_->store()->values;
  const auto stored = values.find(StoredSnapshotKey(id.job, id.epoch, id.sequence));
  const auto persisted = values.find(PersistedKey(id.job, id.epoch, id.sequence));
  const auto& any = stored != values.end() ? stored : persisted;
  if (any == values.end()) {
    return;
  }
  const absl::StatusOr<model::CommitRecord> record = model::DecodeCommitRecord(any->second.value);
  GEMEL_CHECK(record.ok()) << any->first;
  const bool disk_lost = std::any_of(disks_lost_.begin(), disks_lost_.end(),
                                     [lately](const auto& lost) { return lost.first >= lately; });
  for (uint32_t rank = 0; rank < record->world_size; ++rank) {
    const ShardId shard{id, rank};
    bool on_other_disk = disk_lost;
    for (uint32_t i = 0; i < cluster_->shape().slots(); ++i) {
      on_other_disk = on_other_disk || (i != server && (cluster_->tier(i)->IsSound(shard) ||
                                                        rotten_on_disk_.contains({i, shard})));
    }
    const Standing standing = StandingOf(shard, lately);
    const bool here = std::find(standing.holders.begin(), standing.holders.end(), server) !=
                      standing.holders.end();
    const bool only_memory = stored != values.end() && here && standing.All().size() == 1;
    const bool only_disk = persisted != values.end() && cluster_->tier(server)->IsSound(shard);
    if (!on_other_disk && (only_memory || only_disk)) {
      Violation(fmt::format("drained: {} may be stopped, and only its {} has {}",
                            Cluster::HostOf(server), only_disk ? "disk" : "memory",
                            shard.ToString()));
    }
  }
}

}  // namespace gemel::sim

// SPDX-License-Identifier: Apache-2.0
//
// What the oracle checks of memories and disks themselves: that placement believes what is there,
// and that servers keep what it believes.
#include <fmt/format.h>

#include <algorithm>

#include "common/check.h"
#include "common/errors.h"
#include "placement/manager/state.h"
#include "tests/sim/oracle.h"

namespace gemel::sim {
namespace {

// What placement was told before it heard of a loss may still be written so long after a server
// has joined anew; longer where transactions are applied late.
constexpr Duration kUnheard = 400ms;
constexpr Duration kUnheardLate = 4s;
constexpr uint64_t kTicksPerFullLook = 25;
constexpr uint64_t kTicksPerLookAtDisks = 5;

}  // namespace

bool Oracle::IsWhole(const Object& object) {
  for (uint32_t chunk = 0; chunk < object.chunks(); ++chunk) {
    if (!object.CheckChunk(chunk).ok()) {
      return false;
    }
  }
  return true;
}

// It lost memory (or a disk) since then, and placement need not know that yet.
bool Oracle::IsExcused(const Losses& lost, uint32_t server, TimePoint since) const {
  const TimePoint joined = cluster_->MemberSince(server);
  const Duration unheard = late_store_ ? kUnheardLate : kUnheard;
  const bool known = cluster_->IsMember(server) && Add(joined, unheard) <= cluster_->now();
  return std::any_of(lost.begin(), lost.end(), [&](const auto& loss) {
    return loss.second == server && loss.first >= since && (!known || loss.first >= joined);
  });
}

// Peers may write to it already, and nobody can look.
bool Oracle::IsStarting(uint32_t server) const {
  return cluster_->server_up(server) && cluster_->ServerAt(server) == nullptr;
}

// Each shard on so many of them.
bool Oracle::IsWholeOnDisks(const Job& job, const model::CommitRecord& record,
                            size_t copies) const {
  std::map<uint32_t, size_t> disks;  // by rank
  const TimePoint opened = job.opened_at.at(record.snapshot.sequence);
  for (uint32_t i = 0; i < cluster_->shape().slots(); ++i) {
    if (IsExcused(disks_lost_, i, opened)) {
      return true;  // it may have had any of them
    }
    for (const auto& [shard, bytes] : cluster_->tier(i)->Durable()) {
      if (shard.snapshot == record.snapshot) {
        disks[shard.rank] += 1;
      }
    }
  }
  GEMEL_CHECK_LE(disks.size(), record.world_size) << record.snapshot.ToString();
  return disks.size() == record.world_size &&
         std::all_of(disks.begin(), disks.end(),
                     [copies](const auto& rank) { return rank.second >= copies; });
}

// One whose name is used again goes for the sake of any newer one; others only beside as many as
// are kept.
void Oracle::CheckRetiredOnDisk(const Job& job, const std::string& key, uint64_t sequence) {
  if (job.removing || !job.persisted.contains(sequence)) {
    return;
  }
  size_t whole = 0;
  std::set<std::string> names;
  size_t newer = 0;
  const auto& values = cluster_->store()->values;
  const std::string prefix = kPersistedPrefix + job.plan.name + "/";
  for (auto at = values.lower_bound(prefix); at != values.end() && at->first.starts_with(prefix);
       ++at) {
    const absl::StatusOr<model::CommitRecord> record = model::DecodeCommitRecord(at->second.value);
    GEMEL_CHECK(record.ok()) << at->first;
    if (record->snapshot.sequence > sequence) {
      newer += 1;
      names.insert(record->snapshot.name);
      whole += IsWholeOnDisks(job, *record, 1) ? 1 : 0;
    }
  }
  const uint32_t asked = job.record.persist_keep;
  const size_t keep = asked == 0 ? kPersistKeepDefault : asked;
  const bool renamed = names.size() < newer || names.contains(job.persisted_names.at(sequence));
  if (whole < (renamed ? 1 : keep)) {
    Violation(fmt::format("on disk: {} is retired, and {} newer ones of {} are whole on disk", key,
                          whole, keep));
  }
}

void Oracle::CheckPinned(const Job& job, const std::string& key, uint64_t sequence) {
  const auto& values = cluster_->store()->values;
  const std::string restore_key = RestoreKey(job.plan.name);
  const auto found = values.find(restore_key);
  if (!job.stored.contains(sequence) || found == values.end()) {
    return;
  }
  const absl::StatusOr<RestoreRecord> record =
      DecodeStored<RestoreRecord>(restore_key, found->second.value);
  GEMEL_CHECK(record.ok()) << ToText(record.status());
  const auto epoch = job.epochs.find(record->epoch);
  const bool of_present = record->epoch == job.record.epoch && epoch != job.epochs.end();
  if (of_present && record->chosen_sequence == sequence &&
      epoch->second.reporting.size() < record->world_size) {
    Violation(fmt::format("pinned: {} is gone, and {} of {} ranks of epoch {} read it", key,
                          record->world_size - epoch->second.reporting.size(), record->world_size,
                          record->epoch.ToString()));
  }
}

void Oracle::CheckSealed(uint32_t server, const Sealed& sealed, bool all) {
  const Held& held = held_[server];
  for (const std::shared_ptr<Object>& object : sealed) {
    const auto known = held.sealed.find(object->shard());
    const bool is_new = known == held.sealed.end() || known->second.lock() != object;
    if ((all || is_new) && !damaged_.contains(object->shard()) && !IsWhole(*object)) {
      Violation(fmt::format("whole: {} is sealed at {} and differs from its digests",
                            object->shard().ToString(), Cluster::HostOf(server)));
    }
  }
}

void Oracle::CheckDropped(uint32_t server, const Sealed& sealed) {
  const Held& held = held_[server];
  for (const auto& [shard, object] : held.sealed) {
    const SnapshotId& id = shard.snapshot;
    const auto stored =
        cluster_->store()->values.find(StoredSnapshotKey(id.job, id.epoch, id.sequence));
    const auto is_it = [&shard = shard](const auto& one) { return one->shard() == shard; };
    // A recovery may bring back what had been retired, and is being dropped.
    if (stored == cluster_->store()->values.end() || damaged_.contains(shard) ||
        jobs_.at(id.job).retired.contains(id.sequence) ||
        std::any_of(sealed.begin(), sealed.end(), is_it)) {
      continue;
    }
    const absl::StatusOr<model::CommitRecord> record =
        model::DecodeCommitRecord(stored->second.value);
    GEMEL_CHECK(record.ok()) << stored->first;
    size_t left = 0;
    for (uint32_t i = 0; i < cluster_->shape().slots(); ++i) {
      const Server* other = cluster_->ServerAt(i);
      left +=
          IsStarting(i) || (other != nullptr && other->objects().Find(shard) != nullptr) ? 1 : 0;
    }
    if (left < record->min_copies) {
      Violation(fmt::format("dropped: {} has let go of {}, {} copies are left, and {} is stored",
                            Cluster::HostOf(server), shard.ToString(), left, stored->first));
    }
  }
}

void Oracle::CheckHolders() {
  ticks_ += 1;
  late_store_ = late_store_ || cluster_->store()->unknown_permille > 0 ||
                cluster_->store()->unavailable || cluster_->store()->full;
  if (ticks_ % kTicksPerLookAtDisks == 0) {
    LookAtDisks();
  }
  CheckLeaders();
  if (const std::string& noise = cluster_->timeline().noise(); !noise.empty()) {
    Violation("noise: " + noise);
  }
  CheckBeliefs();
  for (uint32_t i = 0; i < cluster_->shape().slots(); ++i) {
    const Server* server = cluster_->ServerAt(i);
    if (server == nullptr) {
      held_.erase(i);
      continue;
    }
    const uint64_t pid = cluster_->PidOfServer(i);
    if (held_[i].pid != pid) {
      held_[i] = Held{.pid = pid};
    }
    const Sealed sealed = server->objects().Sealed();
    CheckSealed(i, sealed, ticks_ % kTicksPerFullLook == 0);
    CheckDropped(i, sealed);
    held_[i].sealed.clear();
    for (const std::shared_ptr<Object>& object : sealed) {
      held_[i].sealed[object->shard()] = object;
    }
  }
}

std::optional<model::CommitRecord> Oracle::LatestRecord(const Job& job) const {
  const JobRecord& record = job.record;
  if (record.latest_sequence == 0) {
    return std::nullopt;
  }
  const auto& values = cluster_->store()->values;
  const auto found =
      values.find(StoredSnapshotKey(job.plan.name, record.latest_epoch, record.latest_sequence));
  if (found == values.end()) {
    return std::nullopt;
  }
  absl::StatusOr<model::CommitRecord> latest = model::DecodeCommitRecord(found->second.value);
  GEMEL_CHECK(latest.ok()) << found->first;
  return *std::move(latest);
}

std::optional<ShardId> Oracle::ShardOfLatest(const std::string& job, uint64_t draw) const {
  const std::optional<model::CommitRecord> latest = LatestRecord(jobs_.at(job));
  if (!latest.has_value()) {
    return std::nullopt;
  }
  return ShardId{latest->snapshot, static_cast<uint32_t>(draw % latest->world_size)};
}

bool Oracle::IsKeptBeside(const std::vector<uint32_t>& servers) const {
  for (const auto& [name, job] : jobs_) {
    const std::optional<model::CommitRecord> latest = LatestRecord(job);
    for (uint32_t rank = 0; latest.has_value() && rank < latest->world_size; ++rank) {
      const std::vector<uint32_t> holders = truth_->MemoriesWith({latest->snapshot, rank});
      if (std::all_of(holders.begin(), holders.end(), [&servers](uint32_t holder) {
            return std::find(servers.begin(), servers.end(), holder) != servers.end();
          })) {
        return false;
      }
    }
  }
  return true;
}

bool Oracle::IsOnDisk(const std::string& job) const {
  return newest_persisted(job) > 0 || truth_->NewestWholeOnDisks(job) > 0;
}

}  // namespace gemel::sim

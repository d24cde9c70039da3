// SPDX-License-Identifier: Apache-2.0
#include "tests/sim/oracle.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "common/check.h"
#include "common/random.h"

namespace gemel::sim {
namespace {

// So long before a transaction is applied it may have been decided; longer where it may be late.
constexpr Duration kDecidedBefore = 100ms;
constexpr Duration kDecidedBeforeLate = 4s;
constexpr uint64_t kCheckStepsMax = 500'000;  // half a second; beyond it a history is undecided

Random ContentStream(const ShardPlace& place) {
  const std::string who =
      fmt::format("{}/{}/{}/{}", place.job, place.epoch.ToString(), place.world, place.rank);
  return Random(place.step).Split(who);
}

}  // namespace

Oracle::Oracle(Cluster* cluster, const GroundTruth* truth, const std::vector<JobPlan>& jobs)
    : cluster_(cluster), truth_(truth) {
  for (const JobPlan& plan : jobs) {
    jobs_[plan.name].plan = plan;
  }
  cluster->store()->on_applied = [this](const Txn& txn) { Applied(txn); };
  cluster->world()->SetOnLanded(
      [this](const std::string& node, ByteSpan landed) { CheckLanded(node, landed); });
  // A server that is declared dead takes its copies out of every count, whatever it holds.
  cluster->OnMemberDead([this](uint32_t server) { MemoryLost(server); });
}

// Mostly small; whole chunks and single bytes are among them.
uint64_t Oracle::ShardBytes(const ShardPlace& place) const {
  const uint64_t max = jobs_.at(place.job).plan.shard_bytes_max;
  Random random = ContentStream(place).Split("size");
  const uint64_t kind = random.Below(20);
  if (kind == 0) {
    return std::min(max, kChunkBytes);
  }
  if (kind == 1) {
    return 1;
  }
  const uint64_t bound = kind < 12 ? 200 * kKiB : kind < 17 ? kChunkBytes + 100 * kKiB : max;
  return random.Below(std::min(max, bound)) + 1;
}

void Oracle::FillContent(const ShardPlace& place, MutableByteSpan out) {
  // A counter mixed once a word: the generator must not cost more than the copies.
  Random random = ContentStream(place);
  uint64_t state = random.Next();
  for (size_t at = 0; at < out.size(); at += sizeof(uint64_t)) {
    state += 0x9e3779b97f4a7c15ULL;
    const uint64_t word = (state ^ (state >> 29)) * 0xbf58476d1ce4e5b9ULL;
    std::memcpy(out.data() + at, &word, std::min(sizeof(word), out.size() - at));
  }
}

void Oracle::Violation(std::string what) {
  constexpr size_t kKept = 16;
  if (violations_.size() < kKept) {
    violations_.push_back(std::move(what));
  }
}

// Servers that lost what they may have held of what is told.
size_t Oracle::Exposure(const Job& job) const {
  std::set<uint32_t> servers;
  for (const auto& [when, server] : lost_) {
    if (when >= job.safe_since) {
      servers.insert(server);
    }
  }
  return servers.size();
}

TimePoint Oracle::DecidedSince() const {
  return cluster_->now() - (late_store_ ? kDecidedBeforeLate : kDecidedBefore);
}

// Where disks are all there is: one of a server that counts as dead, and is not back with it.
bool Oracle::IsDiskAway(const Job& job) const {
  const TimePoint decided = DecidedSince();
  const auto is_away = [&](const auto& loss) {
    return loss.first >= job.safe_since &&
           (!cluster_->IsMember(loss.second) || cluster_->MemberSince(loss.second) > decided);
  };
  const auto is_lost = [&job](const auto& loss) { return loss.first >= job.safe_since; };
  return std::any_of(lost_.begin(), lost_.end(), is_away) ||
         std::any_of(disks_lost_.begin(), disks_lost_.end(), is_lost);
}

bool Oracle::MayLose(const Job& job) const {
  return overkill_ || (job.on_disks ? IsDiskAway(job) : Exposure(job) >= job.plan.copies);
}

void Oracle::MemoryLost(uint32_t server) {
  lost_.emplace_back(cluster_->scheduler()->now(), server);
  memories_lost_.emplace_back(lost_.back());
}

void Oracle::DiskLost(uint32_t server) {
  disks_lost_.emplace_back(cluster_->now(), server);
  on_disk_since_.erase(server);
}

bool Oracle::CanLose(uint32_t server) const {
  return std::all_of(jobs_.begin(), jobs_.end(), [&](const auto& entry) {
    const Job& job = entry.second;
    const bool known = std::any_of(lost_.begin(), lost_.end(), [&](const auto& lost) {
      return lost.first >= job.safe_since && lost.second == server;
    });
    return job.newest_told == 0 ||
           (!job.on_disks && Exposure(job) + (known ? 0 : 1) < job.plan.copies);
  });
}

bool Oracle::OnDisksOnly() const {
  return std::any_of(jobs_.begin(), jobs_.end(),
                     [](const auto& entry) { return entry.second.on_disks; });
}

// Epochs that have not restored yet will do so from disk.
void Oracle::PowerCut() {
  for (auto& [name, job] : jobs_) {
    const uint64_t persisted = disks_lost_.empty() ? newest_persisted(name) : 0;
    const uint64_t kept = std::max(truth_->NewestWholeOnDisks(name), persisted);
    job.newest_told = std::min(job.newest_told, kept);
    for (auto& [id, epoch] : job.epochs) {
      epoch.floor = std::min(epoch.floor, kept);
    }
    job.safe_since = cluster_->scheduler()->now();
    job.on_disks = true;
  }
  lost_.clear();
  for (uint32_t i = 0; i < cluster_->shape().slots(); ++i) {
    memories_lost_.emplace_back(cluster_->now(), i);
  }
  for (const uint32_t server : CountedDead()) {
    MemoryLost(server);
  }
}

// Servers that the store says are dead, in every life, or will as soon as it can be written:
// placement waits for none of their disks.
std::set<uint32_t> Oracle::CountedDead() const {
  std::set<std::string> dead;
  std::set<std::string> alive;
  for (const auto& [key, stored] : cluster_->store()->values) {
    if (key.starts_with(kMemberPrefix)) {
      const absl::StatusOr<MemberRecord> member = DecodeStored<MemberRecord>(key, stored.value);
      GEMEL_CHECK(member.ok()) << ToText(member.status());
      (member->dead ? dead : alive).insert(member->name);
    }
  }
  std::set<uint32_t> servers;
  for (uint32_t i = 0; i < cluster_->shape().slots(); ++i) {
    const std::string name = Cluster::NameOf(i);
    if ((dead.contains(name) && !alive.contains(name)) || cluster_->IsDeclaredDead(i)) {
      servers.insert(i);
    }
  }
  return servers;
}

void Oracle::Removing(const std::string& name) {
  Job& job = jobs_.at(name);
  job.removing = true;
  job.removal_runs = true;
  MayBeGone(&job);
}

// By a person: whatever was opened so far.
void Oracle::MayBeGone(Job* job) {
  job->removed_through = job->opened_at.empty() ? 0 : job->opened_at.rbegin()->first;
  job->newest_told = 0;
  job->told_honestly = 0;
  for (auto& [id, epoch] : job->epochs) {
    epoch.floor = 0;
  }
}

void Oracle::Committed(const SnapshotId& snapshot, bool full) {
  Job& job = jobs_.at(snapshot.job);
  commits_ += 1;
  if (snapshot.sequence > job.removed_through) {  // else told late of what is gone by a person
    job.newest_told = std::max(job.newest_told, snapshot.sequence);
    job.told_honestly = std::max(job.told_honestly, snapshot.sequence);
  }
  if (full && snapshot.sequence > job.newest_full) {
    job.newest_full = snapshot.sequence;
    job.safe_since = std::max(job.safe_since, job.opened_at.at(snapshot.sequence));
    job.on_disks = false;
  }
  for (const auto& [id, newer] : job.epochs) {
    if (id > snapshot.epoch && newer.restored && !newer.told_lost && !job.removing &&
        snapshot.sequence > job.removed_through &&
        (!newer.from.has_value() || newer.from->sequence < snapshot.sequence)) {
      Violation(fmt::format(
          "fenced: {} was told committed after epoch {} restored from sequence {}",
          snapshot.ToString(), id.ToString(), newer.from.has_value() ? newer.from->sequence : 0));
    }
  }
  const size_t needed = job.plan.copies;  // min_copies is copies
  if (disks_lost_.empty() && job.stored.contains(snapshot.sequence) &&
      truth_->DisksWithRecord(snapshot) < needed) {
    Violation(fmt::format("on record: {} was told committed, and {} disks of {} have its record",
                          snapshot.ToString(), truth_->DisksWithRecord(snapshot), needed));
  }
}

void Oracle::EpochAcquired(const std::string& name, const EpochId& epoch) {
  // The first rank's moment counts: later ranks of the same epoch acquire it again.
  Job& job = jobs_.at(name);
  if (!job.epochs.contains(epoch)) {
    job.epochs[epoch].floor = job.newest_told;
    job.removing = job.removal_runs;
  }
}

void Oracle::RemovalEnded(const std::string& name) {
  Job& job = jobs_.at(name);
  GEMEL_CHECK(job.removal_runs) << name;
  job.removal_runs = false;
  MayBeGone(&job);
}

void Oracle::Restored(const std::string& name, const EpochId& epoch, uint32_t rank,
                      const std::optional<SnapshotId>& snapshot, bool told_lost) {
  Job& job = jobs_.at(name);
  restores_ += 1;
  GEMEL_CHECK(job.epochs.contains(epoch)) << name << " " << epoch.ToString();
  Epoch& state = job.epochs[epoch];
  const std::string text = snapshot.has_value() ? snapshot->ToString() : "nothing";
  if (state.restored && state.from != snapshot) {
    Violation(fmt::format("one step: rank {} of epoch {} of {} starts from {}, another from {}",
                          rank, epoch.ToString(), name, text,
                          state.from.has_value() ? state.from->ToString() : "nothing"));
  }
  const uint64_t sequence = snapshot.has_value() ? snapshot->sequence : 0;
  if (sequence < state.floor && !state.exposed && !MayLose(job)) {
    Violation(fmt::format(
        "not lost: epoch {} of {} restored from {} though sequence {} was committed, and {} "
        "memories of {} copies were lost since",
        epoch.ToString(), name, text, state.floor, Exposure(job), job.plan.copies));
  }
  // A superseded epoch may end its restore when newer ones have committed.
  const bool newest = epoch == job.epochs.rbegin()->first;
  const uint64_t known = newest ? job.told_honestly : std::min(job.told_honestly, state.floor);
  // A recovery does not hear of what only dead servers knew.
  const bool unheard = known <= job.before_recovery && MayLose(job);
  if (!state.restored && sequence < known && !told_lost && !unheard) {
    Violation(fmt::format(
        "silent: epoch {} of {} restored from {} and was not told what became of sequence {}",
        epoch.ToString(), name, text, known));
  }
  state.restored = true;
  state.told_lost = told_lost;
  state.from = snapshot;
  if (sequence < state.floor || told_lost) {
    losses_told_ += told_lost ? 1 : 0;
    job.newest_told = std::min(job.newest_told, sequence);
    job.told_honestly = std::min(job.told_honestly, sequence);
  }
}

void Oracle::ToldDataLoss(const std::string& name, const EpochId& epoch) {
  Job& job = jobs_.at(name);
  losses_told_ += 1;
  const auto state = job.epochs.find(epoch);
  GEMEL_CHECK(state != job.epochs.end()) << name << " " << epoch.ToString();
  // What a superseded epoch was refused is told late, when newer saves may be whole again.
  const bool newest = epoch == job.epochs.rbegin()->first;
  if (newest && state->second.floor > 0 && !state->second.exposed && !MayLose(job)) {
    Violation(fmt::format(
        "not lost: epoch {} of {} was told DATA_LOSS though sequence {} was committed, and {} "
        "memories of {} copies were lost since",
        epoch.ToString(), name, state->second.floor, Exposure(job), job.plan.copies));
  }
}

void Oracle::CheckContent(const SnapshotId& snapshot, uint32_t world, uint32_t rank,
                          ByteSpan bytes) {
  ShardPlace place{.job = snapshot.job, .epoch = snapshot.epoch, .world = world, .rank = rank};
  place.step = std::strtoull(snapshot.name.c_str(), nullptr, 10);
  std::vector<std::byte> expected(ShardBytes(place));
  FillContent(place, expected);
  if (bytes.size() != expected.size() ||
      std::memcmp(bytes.data(), expected.data(), expected.size()) != 0) {
    Violation(fmt::format("content: rank {} of {} differs from what was saved", rank,
                          snapshot.ToString()));
  }
}

void Oracle::CheckCalls(bool ghosts) {
  const Verdict verdict = calls_.Check({.steps_max = kCheckStepsMax}, ghosts);
  undecided_ = verdict.answer == Linearisable::kUndecided;
  if (verdict.answer == Linearisable::kNo) {
    Violation("linearisable: " + verdict.text);
  }
}

}  // namespace gemel::sim

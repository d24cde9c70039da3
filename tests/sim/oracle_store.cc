// SPDX-License-Identifier: Apache-2.0
//
// What the oracle checks of every transaction that the MetaStore applies.
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>

#include "common/check.h"
#include "common/errors.h"
#include "common/xxh3.h"
#include "placement/model/records.h"
#include "tests/sim/oracle.h"

namespace gemel::sim {
namespace {

template <typename Record>
Record Decoded(const std::string& key, const std::string& value) {
  absl::StatusOr<Record> record = DecodeStored<Record>(key, value);
  GEMEL_CHECK(record.ok()) << key << ": " << ToText(record.status());
  return *std::move(record);
}

model::CommitRecord DecodedCommit(const std::string& key, const std::string& value) {
  absl::StatusOr<model::CommitRecord> record = model::DecodeCommitRecord(value);
  GEMEL_CHECK(record.ok()) << key << ": " << ToText(record.status());
  return *std::move(record);
}

// "snapshot/<job>/<epoch>/<sequence>" and its like.
std::string JobOf(const std::string& key) {
  const size_t begin = key.find('/') + 1;
  return key.substr(begin, key.find('/', begin) - begin);
}

uint64_t SequenceOf(const std::string& key) {
  return std::strtoull(key.substr(key.rfind('/') + 1).c_str(), nullptr, 16);
}

}  // namespace

void Oracle::Applied(const Txn& txn) {
  SimScheduler* scheduler = cluster_->scheduler();
  const bool fenced = std::any_of(txn.compares.begin(), txn.compares.end(),
                                  [](const auto& compare) { return compare.key == kLeaderKey; });
  if (!fenced) {
    Violation("fenced: a transaction that a deposed manager could have made");
  }
  for (const auto& [key, value] : txn.puts) {
    scheduler->MixIntoHistory(Xxh3_128(AsBytes(key)).low);
    scheduler->MixIntoHistory(Xxh3_128(AsBytes(value)).low);
  }
  for (const auto& [key, value] : txn.puts) {
    PutApplied(key, value);
  }
  for (const std::string& key : txn.deletes) {
    scheduler->MixIntoHistory(Xxh3_128(AsBytes(key)).low);
    DeleteApplied(key);
  }
  // Last: what a job's record names must be there after the whole transaction.
  for (const auto& [key, value] : txn.puts) {
    if (key.starts_with(kJobPrefix)) {
      JobWritten(key, value);
    }
  }
  recovering_ = cluster_->IsRecovering();
}

bool Oracle::MayRecoverFrom(uint32_t server) const {
  const Server* up = cluster_->ServerAt(server);
  return up != nullptr && !up->identity().cluster().IsZero() &&
         !IsExcused(disks_lost_, server, TimePoint());
}

// It may have been told, and only they know.
void Oracle::LossAccepted() {
  loss_accepted_ = true;
  for (auto& [name, job] : jobs_) {
    job.newest_told = 0;
    job.told_honestly = 0;
    for (auto& [id, epoch] : job.epochs) {
      epoch.floor = 0;
    }
  }
}

// Nothing is in the store any more, and what was told holds as before. Calls are not judged from
// here on: how far tokens, opens and `latest` are known again depends on who reports.
void Oracle::StoreLost() {
  recovering_ = true;
  loss_accepted_ = false;
  term_ = 0;
  alive_since_.clear();
  calls_.End();
  for (auto& [name, job] : jobs_) {
    job.record = JobRecord();
    job.open.clear();
    job.stored.clear();
    job.persisted.clear();
    job.before_recovery = job.opened_at.empty() ? 0 : job.opened_at.rbegin()->first;
  }
}

void Oracle::PutApplied(const std::string& key, const std::string& value) {
  if (key == kLeaderKey) {
    LeaderWritten(key, value);
  } else if (key == kClusterKey) {
    ClusterWritten(key, value);
  } else if (key.starts_with(kMemberPrefix)) {
    MemberWritten(key, value);
  } else if (key.starts_with(kDrainPrefix)) {
    drained_[key.substr(std::string_view(kDrainPrefix).size())] = kTimeNever;
  } else if (key.starts_with(kTokenPrefix)) {
    TokenWritten(key, value);
  } else if (key.starts_with(kOpenPrefix)) {
    OpenWritten(key, value);
  } else if (key.starts_with(kSnapshotPrefix)) {
    SnapshotWritten(key, value);
  } else if (key.starts_with(kPersistedPrefix)) {
    PersistedWritten(key, value);
  } else if (key.starts_with(kRestorePrefix)) {
    RestoreWritten(key, value);
  }
}

void Oracle::DeleteApplied(const std::string& key) {
  if (recovering_) {
    return;  // what a recovery that was cut short has left
  }
  if (key.starts_with(kTokenPrefix)) {
    Violation(fmt::format("token: {} was forgotten", key));
  } else if (key.starts_with(kDrainPrefix)) {
    drained_[key.substr(std::string_view(kDrainPrefix).size())] = cluster_->now();
  } else if (key.starts_with(kMemberPrefix)) {
    for (auto& [name, alive] : alive_since_) {
      alive.erase(key);
    }
  } else if (key.starts_with(kOpenPrefix)) {
    jobs_.at(JobOf(key)).open.erase(SequenceOf(key));
  } else if (key.starts_with(kSnapshotPrefix)) {
    SnapshotDeleted(key);
  } else if (key.starts_with(kPersistedPrefix)) {
    PersistedDeleted(key);
  }
}

void Oracle::LeaderWritten(const std::string& key, const std::string& value) {
  const auto record = Decoded<LeaderRecord>(key, value);
  if (record.term < term_ || (record.term == term_ && !record.resigned)) {
    Violation(
        fmt::format("fenced: {} leads in term {} after term {}", record.name, record.term, term_));
  }
  term_ = record.term;
  leader_ = record.name;
  CheckLeaders();
}

// Reads are answered without the store: whoever led before has ceased by the time of a take-over.
void Oracle::CheckLeaders() {
  if (cluster_->IsServedBefore(term_, leader_)) {
    Violation(fmt::format("leaders: {} has taken over in term {}, and one before it answers",
                          leader_, term_));
  }
}

void Oracle::ClusterWritten(const std::string& key, const std::string& value) {
  const auto record = Decoded<ClusterRecord>(key, value);
  const ClusterRecord& before = cluster_record_;
  if (record.IsUnfinishedRecovery()) {
    return;
  }
  if (record.generation < before.generation ||
      (record.map_version < before.map_version && !recovering_)) {
    Violation(fmt::format("latest: the cluster went back from generation {}, map {} to {}, {}",
                          before.generation, before.map_version, record.generation,
                          record.map_version));
  }
  if (recovering_ && record.generation > before.generation && !loss_accepted_) {
    CheckMajority();
  }
  cluster_record_ = record;
}

void Oracle::TokenWritten(const std::string& key, const std::string& value) {
  Job& job = jobs_.at(JobOf(key));
  const auto record = Decoded<TokenRecord>(key, value);
  const std::string hex = key.substr(key.rfind('/') + 1);
  for (const auto& [epoch, token] : job.tokens) {
    if (epoch.generation != record.epoch.generation) {
      continue;  // servers need not have anything of it
    }
    const bool same_token = TokenKey(job.plan.name, token) == key;
    if (same_token != (epoch == record.epoch)) {
      Violation(fmt::format("token: {} of {} is given epoch {}, and epoch {} is that of {}", hex,
                            job.plan.name, record.epoch.ToString(), epoch.ToString(),
                            token.ToShort()));
    }
  }
}

void Oracle::OpenWritten(const std::string& key, const std::string& value) {
  auto record = Decoded<OpenRecord>(key, value);
  Job& job = jobs_.at(record.snapshot.job);
  const uint64_t sequence = record.snapshot.sequence;
  if (job.opened_at.contains(sequence)) {
    Violation(fmt::format("once: sequence {} of {} is given twice", sequence, job.plan.name));
  }
  job.opened_at[sequence] = cluster_->scheduler()->now();
  job.open[sequence] = std::move(record);
}

void Oracle::SnapshotWritten(const std::string& key, const std::string& value) {
  const model::CommitRecord record = DecodedCommit(key, value);
  const SnapshotId& id = record.snapshot;
  Job& job = jobs_.at(id.job);
  if (IsFromBefore(id)) {
    CheckRecovered(job, id, value);
    job.stored.insert(id.sequence);
    return;
  }
  const std::string job_key = JobKey(id.job);
  const auto written = Decoded<JobRecord>(job_key, cluster_->store()->values.at(job_key).value);
  if (written.epoch != id.epoch) {
    Violation(fmt::format("fenced: the record of {} was written in epoch {}", id.ToString(),
                          written.epoch.ToString()));
  }
  const auto open = job.open.find(id.sequence);
  if (open == job.open.end() || open->second.snapshot != id) {
    Violation(fmt::format("once: {} is committed and was not open", id.ToString()));
  } else if (open->second.world_size != record.world_size ||
             open->second.layout_hash != record.layout_hash ||
             open->second.copies != record.copies || open->second.min_copies != record.min_copies ||
             open->second.strategy != record.strategy) {
    Violation(
        fmt::format("shape: {} is committed with {} ranks and {} copies, it was opened with "
                    "{} and {}",
                    id.ToString(), record.world_size, record.copies, open->second.world_size,
                    open->second.copies));
  }
  if (open != job.open.end()) {
    CheckCopies(job, record, open->second.level);
    CheckBeliefs();
  }
  if (odd_.contains(id.ToString())) {
    Violation(fmt::format("odd rank: {} is committed, and its ranks disagree about the layout",
                          id.ToString()));
  }
  if (!job.named.insert({id.epoch, id.name, id.attempt}).second) {
    Violation(fmt::format("once: {} is committed a second time", id.ToString()));
  }
  job.stored.insert(id.sequence);
  job.by_text[id.ToString()] = id;
  job.by_sequence[id.sequence] = id;
  job.records[id.sequence] = value;
}

// Of a generation before the present one: servers have reported it.
bool Oracle::IsFromBefore(const SnapshotId& id) const {
  return recovering_ || id.epoch.generation < cluster_record_.generation;
}

void Oracle::CheckRecovered(const Job& job, const SnapshotId& id, const std::string& value) {
  const auto known = job.records.find(id.sequence);
  if (known == job.records.end() || known->second != value) {
    Violation(fmt::format("recovered: {} is not what was committed", id.ToString()));
  }
}

void Oracle::SnapshotDeleted(const std::string& key) {
  Job& job = jobs_.at(JobOf(key));
  const uint64_t sequence = SequenceOf(key);
  if (job.stored.contains(sequence) && sequence == *job.stored.rbegin() && !job.removing) {
    Violation(fmt::format("freed: {} is the newest, and is retired", key));
  } else if (job.stored.contains(sequence) && !job.removing) {
    CheckRetired(job, key, sequence);
  }
  CheckPinned(job, key, sequence);
  job.stored.erase(sequence);
  job.retired.insert(sequence);
}

void Oracle::PersistedWritten(const std::string& key, const std::string& value) {
  const model::CommitRecord record = DecodedCommit(key, value);
  Job& job = jobs_.at(record.snapshot.job);
  bool was_persisted = false;
  if (IsFromBefore(record.snapshot)) {
    CheckRecovered(job, record.snapshot, value);
    was_persisted = job.persisted_names.contains(record.snapshot.sequence);
  }
  // A recovery takes what it finds whole on disks for PERSISTED, however many disks it is on.
  const uint32_t copies =
      IsFromBefore(record.snapshot) ? 1 : std::max(1U, job.record.persist_copies);
  if (!was_persisted && !IsWholeOnDisks(job, record, copies)) {
    Violation(fmt::format("on disk: {} is PERSISTED, and a shard of it is not on {} disks",
                          record.snapshot.ToString(), copies));
  }
  job.persisted.insert(record.snapshot.sequence);
  job.persisted_names[record.snapshot.sequence] = record.snapshot.name;
  persists_ += 1;
}

void Oracle::PersistedDeleted(const std::string& key) {
  Job& job = jobs_.at(JobOf(key));
  const uint64_t sequence = SequenceOf(key);
  if (job.persisted.contains(sequence) && sequence == *job.persisted.rbegin() && !job.removing) {
    Violation(fmt::format("on disk: {} is retired, and nothing newer is PERSISTED", key));
  }
  CheckRetiredOnDisk(job, key, sequence);
  job.persisted.erase(sequence);
}

void Oracle::JobWritten(const std::string& key, const std::string& value) {
  const auto record = Decoded<JobRecord>(key, value);
  const std::string name = key.substr(std::string_view(kJobPrefix).size());
  Job& job = jobs_.at(name);
  const JobRecord before = std::exchange(job.record, record);
  if (!record.token.IsZero()) {  // a recovery knows of none
    job.tokens[record.epoch] = record.token;
  }
  const EpochId newest = job.epochs.empty() ? EpochId() : job.epochs.rbegin()->first;
  if (recovering_ && record.epoch.generation <= newest.generation) {
    Violation(fmt::format("recovered: {} goes on from epoch {}, and {} was acquired", key,
                          record.epoch.ToString(), newest.ToString()));
  }
  if (record.epoch < before.epoch || record.next_sequence < before.next_sequence) {
    Violation(fmt::format("latest: {} went back from epoch {}, next sequence {} to {}, {}", key,
                          before.epoch.ToString(), before.next_sequence, record.epoch.ToString(),
                          record.next_sequence));
  }
  const auto order = [](const JobRecord& one) {
    return std::pair(one.latest_epoch, one.latest_sequence);
  };
  if (order(record) < order(before) && !job.removing) {
    Violation(fmt::format("latest: {} went back from sequence {} in epoch {} to {} in {}", key,
                          before.latest_sequence, before.epoch.ToString(), record.latest_sequence,
                          record.epoch.ToString()));
  }
  const bool committed = record.latest_sequence != 0;
  if (committed && !cluster_->store()->values.contains(
                       StoredSnapshotKey(name, record.latest_epoch, record.latest_sequence))) {
    Violation(fmt::format("latest: {} names sequence {}, whose record is gone", key,
                          record.latest_sequence));
  }
  if (std::pair(record.persisted_epoch, record.persisted_sequence) <
          std::pair(before.persisted_epoch, before.persisted_sequence) &&
      !job.removing) {
    Violation(fmt::format("on disk: {} went back from sequence {} to {}", key,
                          before.persisted_sequence, record.persisted_sequence));
  }
}

}  // namespace gemel::sim

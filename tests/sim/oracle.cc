// SPDX-License-Identifier: Apache-2.0
#include "tests/sim/oracle.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "common/check.h"
#include "common/errors.h"
#include "common/random.h"
#include "placement/model/records.h"

namespace gemel::sim {
namespace {

constexpr uint64_t kShardBytesMax = 2 * kMiB + 300 * kKiB;

Random ContentStream(const ShardPlace& place) {
  const std::string who =
      fmt::format("{}/{}/{}/{}", place.job, place.epoch.ToString(), place.world, place.rank);
  return Random(place.step).Split(who);
}

}  // namespace

uint64_t Oracle::ShardBytes(const ShardPlace& place) {
  Random random = ContentStream(place).Split("size");
  return random.Below(kShardBytesMax) + 1;
}

void Oracle::FillContent(const ShardPlace& place, MutableByteSpan out) {
  Random random = ContentStream(place);
  for (size_t at = 0; at < out.size(); at += sizeof(uint64_t)) {
    const uint64_t word = random.Next();
    std::memcpy(out.data() + at, &word, std::min(sizeof(word), out.size() - at));
  }
}

void Oracle::Violation(std::string what) {
  constexpr size_t kKept = 16;
  if (violations_.size() < kKept) {
    violations_.push_back(std::move(what));
  }
}

void Oracle::Watch(SimStoreState* store) {
  store->on_applied = [this, store](const Txn& txn) {
    for (const auto& [key, value] : txn.puts) {
      if (key.starts_with(kSnapshotPrefix)) {
        SnapshotWritten(key, value, *store);
      } else if (key.starts_with(kPersistedPrefix)) {
        PersistedWritten(key, value);
      }
    }
    for (const std::string& key : txn.deletes) {
      if (key.starts_with(kPersistedPrefix)) {
        PersistedDeleted(key);
      }
    }
    for (const auto& [key, value] : txn.puts) {
      if (key.starts_with(kJobPrefix)) {
        JobWritten(key, value, *store);
      }
    }
  };
}

void Oracle::SnapshotWritten(const std::string& key, const std::string& value,
                             const SimStoreState& store) {
  const absl::StatusOr<model::CommitRecord> record = model::DecodeCommitRecord(value);
  GEMEL_CHECK(record.ok()) << key << ": " << ToText(record.status());
  const std::string job_key = JobKey(record->snapshot.job);
  const auto job = DecodeStored<JobRecord>(job_key, store.values.at(job_key).value);
  GEMEL_CHECK(job.ok()) << ToText(job.status());
  if (job->epoch != record->snapshot.epoch) {
    Violation(fmt::format("fenced: the record of {} was written in epoch {}",
                          record->snapshot.ToString(), job->epoch.ToString()));
  }
}

void Oracle::PersistedWritten(const std::string& key, const std::string& value) {
  const absl::StatusOr<model::CommitRecord> record = model::DecodeCommitRecord(value);
  GEMEL_CHECK(record.ok()) << key << ": " << ToText(record.status());
  persisted_.insert(record->snapshot.sequence);
  persists_ += 1;
}

void Oracle::PersistedDeleted(const std::string& key) {
  const uint64_t sequence = std::strtoull(key.substr(key.rfind('/') + 1).c_str(), nullptr, 16);
  if (persisted_.contains(sequence) && sequence == *persisted_.rbegin()) {
    Violation(fmt::format("on disk: {} is retired, and nothing newer is PERSISTED", key));
  }
  persisted_.erase(sequence);
}

// Epochs that have not restored yet will do so from disk.
void Oracle::PowerCut(uint64_t newest_whole) {
  const uint64_t kept = std::max(newest_whole, newest_persisted());
  newest_told_ = std::min(newest_told_, kept);
  for (auto& [id, epoch] : epochs_) {
    epoch.newest_told_before = std::min(epoch.newest_told_before, kept);
  }
}

void Oracle::JobWritten(const std::string& key, const std::string& value,
                        const SimStoreState& store) {
  const auto record = DecodeStored<JobRecord>(key, value);
  GEMEL_CHECK(record.ok()) << ToText(record.status());
  const JobRecord& before = jobs_[key];
  const auto order = [](const JobRecord& job) {
    return std::pair(job.latest_epoch, job.latest_sequence);
  };
  if (order(*record) < order(before) || record->epoch < before.epoch) {
    Violation(fmt::format("latest: {} went back from sequence {} in epoch {} to {} in {}", key,
                          before.latest_sequence, before.epoch.ToString(), record->latest_sequence,
                          record->epoch.ToString()));
  }
  const std::string job = key.substr(std::string_view(kJobPrefix).size());
  const bool committed = record->latest_sequence != 0;
  if (committed && !store.values.contains(
                       StoredSnapshotKey(job, record->latest_epoch, record->latest_sequence))) {
    Violation(fmt::format("latest: {} names sequence {}, whose record is gone", key,
                          record->latest_sequence));
  }
  if (std::pair(record->persisted_epoch, record->persisted_sequence) <
      std::pair(before.persisted_epoch, before.persisted_sequence)) {
    Violation(fmt::format("on disk: {} went back from sequence {} to {}", key,
                          before.persisted_sequence, record->persisted_sequence));
  }
  jobs_[key] = *record;
}

void Oracle::Committed(const SnapshotId& snapshot) {
  commits_ += 1;
  newest_told_ = std::max(newest_told_, snapshot.sequence);
  for (const auto& [id, newer] : epochs_) {
    if (id > snapshot.epoch && newer.restored &&
        (!newer.from.has_value() || newer.from->sequence < snapshot.sequence)) {
      Violation(fmt::format(
          "fenced: {} was told committed after epoch {} restored from sequence {}",
          snapshot.ToString(), id.ToString(), newer.from.has_value() ? newer.from->sequence : 0));
    }
  }
}

void Oracle::EpochAcquired(const EpochId& epoch) {
  // The first rank's moment counts: later ranks of the same epoch acquire it again.
  if (!epochs_.contains(epoch)) {
    epochs_[epoch].newest_told_before = newest_told_;
  }
}

void Oracle::Restored(const EpochId& epoch, uint32_t rank,
                      const std::optional<SnapshotId>& snapshot) {
  restores_ += 1;
  GEMEL_CHECK(epochs_.contains(epoch)) << epoch.ToString();
  Epoch& state = epochs_[epoch];
  const std::string text = snapshot.has_value() ? snapshot->ToString() : "nothing";
  if (state.restored && state.from != snapshot) {
    Violation(fmt::format("one step: rank {} of epoch {} starts from {}, another from {}", rank,
                          epoch.ToString(), text,
                          state.from.has_value() ? state.from->ToString() : "nothing"));
  }
  const uint64_t sequence = snapshot.has_value() ? snapshot->sequence : 0;
  if (!overkill_ && sequence < state.newest_told_before) {
    Violation(fmt::format("not lost: epoch {} restored from {} though sequence {} was committed",
                          epoch.ToString(), text, state.newest_told_before));
  }
  state.restored = true;
  state.from = snapshot;
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

}  // namespace gemel::sim

// SPDX-License-Identifier: Apache-2.0
#include "tests/sim/oracle.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "common/check.h"
#include "common/random.h"

namespace gemel::sim {
namespace {

constexpr uint64_t kShardBytesMax = 2 * kMiB + 300 * kKiB;

Random ContentStream(const std::string& job, uint64_t step, uint32_t world, uint32_t rank) {
  return Random(step).Split(fmt::format("{}/{}/{}", job, world, rank));
}

}  // namespace

uint64_t Oracle::ShardBytes(const std::string& job, uint64_t step, uint32_t world, uint32_t rank) {
  Random random = ContentStream(job, step, world, rank).Split("size");
  return random.Below(kShardBytesMax) + 1;
}

void Oracle::FillContent(const std::string& job, uint64_t step, uint32_t world, uint32_t rank,
                         MutableByteSpan out) {
  Random random = ContentStream(job, step, world, rank);
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

void Oracle::Committed(const SnapshotId& snapshot, uint32_t rank) {
  commits_ += 1;
  newest_told_ = std::max(newest_told_, snapshot.sequence);
  Epoch& epoch = epochs_[snapshot.epoch];
  uint64_t& told = epoch.told[rank];
  if (snapshot.sequence < told) {
    Violation(fmt::format("monotone: rank {} was told of {} after sequence {}", rank,
                          snapshot.ToString(), told));
  }
  told = snapshot.sequence;
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
  const uint64_t step = std::strtoull(snapshot.name.c_str(), nullptr, 10);
  std::vector<std::byte> expected(ShardBytes(snapshot.job, step, world, rank));
  FillContent(snapshot.job, step, world, rank, expected);
  if (bytes.size() != expected.size() ||
      std::memcmp(bytes.data(), expected.data(), expected.size()) != 0) {
    Violation(fmt::format("content: rank {} of {} differs from what was saved", rank,
                          snapshot.ToString()));
  }
}

}  // namespace gemel::sim

// SPDX-License-Identifier: Apache-2.0
#include "server/scrub.h"

#include <algorithm>
#include <utility>

#include "common/check.h"
#include "common/errors.h"

namespace gemel {
namespace {

constexpr int64_t kNanosecondsPerSecond = 1'000'000'000;

}  // namespace

Scrub::Scrub(const ServerSeams& seams, const Parts& parts, const ScrubOptions& options)
    : seams_(seams),
      parts_(parts),
      options_(options),
      bytes_(seams.metrics->Counter("gemel_scrub_bytes_total", "Bytes of memory hashed again.")),
      passes_(seams.metrics->Counter("gemel_scrub_passes_total", "Passes over all of memory.")),
      memory_corruptions_(seams.metrics->Counter("gemel_scrub_memory_corruptions_total",
                                                 "Objects that scrubbing found damaged.")),
      disk_bytes_(
          seams.metrics->Counter("gemel_scrub_disk_bytes_total", "Bytes on disk read again.")),
      disk_passes_(
          seams.metrics->Counter("gemel_scrub_disk_passes_total", "Passes over all of the disk.")),
      disk_corruptions_(seams.metrics->Counter("gemel_scrub_disk_corruptions_total",
                                               "Shards on disk that scrubbing found damaged.")) {
  GEMEL_CHECK(parts.objects != nullptr && parts.pool != nullptr && parts.tier != nullptr);
  GEMEL_CHECK(options.memory_pass >= Duration::zero() && options.disk_pass >= Duration::zero());
  GEMEL_CHECK_LE(options.memory_bytes_per_second_max, kScrubRateMax);
  GEMEL_CHECK_LE(options.disk_bytes_per_second_max, kScrubRateMax);
}

// Bytes a second that take `pass` for all of `bytes`.
uint64_t Scrub::RateOf(uint64_t bytes, Duration pass, uint64_t bytes_per_second_max) {
  GEMEL_CHECK(pass > Duration::zero());
  const auto milliseconds = static_cast<uint64_t>(std::max<int64_t>(1, pass / 1ms));
  return std::min(bytes * 1000 / milliseconds, bytes_per_second_max);
}

// Until about a chunk is due; not so long that a change of the rate would go unseen.
Duration Scrub::PauseOf(uint64_t rate) {
  if (rate == 0) {
    return kScrubStepMax;
  }
  const Duration chunk(static_cast<int64_t>(kChunkBytes) * 1000 /
                       static_cast<int64_t>(std::max<uint64_t>(1, rate / 1'000'000)));
  return std::clamp(chunk, kScrubStepMin, kScrubStepMax);
}

// At most a second's worth is saved up: what was put off is made up for, in small steps.
void Scrub::Earn(Walk* walk, uint64_t rate) const {
  const TimePoint now = seams_.loop->Now();
  const int64_t elapsed = std::min((now - walk->at).count(), kNanosecondsPerSecond);
  GEMEL_CHECK_GE(elapsed, 0);
  const auto per_second = static_cast<int64_t>(rate);
  const int64_t most = per_second + static_cast<int64_t>(kChunkBytes);
  walk->tokens = std::min(most, walk->tokens + per_second * (elapsed / 1000) / 1'000'000);
  walk->at = now;
}

// True while somebody writes and the step can wait.
bool Scrub::Defer(Walk* walk) const {
  const TimePoint now = seams_.loop->Now();
  if (!busy_()) {
    walk->deferred = false;
    return false;
  }
  if (!walk->deferred) {
    walk->deferred = true;
    walk->deferred_since = now;
  }
  if (now < Add(walk->deferred_since, kScrubDeferMax)) {
    return true;
  }
  walk->deferred_since = now;
  return false;
}

// The object that the walk is at; the next one when that is gone or done. Null: a pass is over.
std::shared_ptr<Object> Scrub::NextObject(Walk* walk) {
  if (walk->shard.has_value()) {
    std::shared_ptr<Object> object = parts_.objects->Find(*walk->shard);
    if (object != nullptr && object->state() == ObjectState::kSealed &&
        walk->chunk < object->chunks()) {
      return object;
    }
  }
  std::shared_ptr<Object> next = parts_.objects->NextSealed(walk->shard);
  walk->chunk = 0;
  if (next == nullptr) {
    if (walk->shard.has_value()) {
      passes_.Add(1);
    }
    walk->shard.reset();
    return next;
  }
  walk->shard = next->shard();
  return next;
}

// False when there is nothing more in this pass.
bool Scrub::CheckNextChunk(Walk* walk) {
  const std::shared_ptr<Object> object = NextObject(walk);
  if (object == nullptr) {
    return false;
  }
  const uint64_t bytes = object->Chunk(walk->chunk).size();
  const absl::Status checked = object->CheckChunk(walk->chunk);
  walk->chunk += 1;
  walk->tokens -= static_cast<int64_t>(bytes);
  bytes_.Add(static_cast<int64_t>(bytes));
  if (!checked.ok()) {
    memory_corruptions_.Add(1);
    seams_.events->Emit(Severity::kError, "scrub_corruption",
                        fmt::format("memory: {}; the copy is dropped, another one takes its place",
                                    MessageOf(checked)));
    corrupt_(object, checked);
    GEMEL_CHECK(parts_.objects->Find(object->shard()) != object) << object->shard().ToString();
  }
  return true;
}

Task<void> Scrub::RunMemory(Gate* gate) {
  const Gate::Pass pass = gate->Enter();
  GEMEL_CHECK(corrupt_ != nullptr && busy_ != nullptr);
  if (options_.memory_pass == Duration::zero()) {
    co_return;
  }
  Walk walk;
  walk.at = seams_.loop->Now();
  while (pass && !gate->closed()) {
    const uint64_t rate = RateOf(parts_.pool->used_bytes(), options_.memory_pass,
                                 options_.memory_bytes_per_second_max);
    co_await seams_.loop->Sleep(PauseOf(rate));
    Earn(&walk, rate);
    if (Defer(&walk)) {
      continue;
    }
    bool more = true;
    while (more && walk.tokens > 0 && !gate->closed()) {
      more = CheckNextChunk(&walk);
      co_await seams_.loop->Yield();
    }
    walk.tokens = more ? walk.tokens : std::min<int64_t>(walk.tokens, 0);
  }
}

// The shard on disk that the walk is at, or the next one. False: a pass is over.
bool Scrub::NextOnDisk(Walk* walk, PersistedShard* shard) {
  std::optional<PersistedShard> found = walk->shard.has_value() && walk->chunk > 0
                                            ? parts_.tier->SoundAt(*walk->shard)
                                            : std::nullopt;
  if (found.has_value() && walk->chunk >= ChunkCount(found->bytes)) {
    found.reset();
  }
  if (!found.has_value()) {
    found = parts_.tier->NextSound(walk->shard);
    walk->chunk = 0;
  }
  if (!found.has_value()) {
    if (walk->shard.has_value()) {
      disk_passes_.Add(1);
    }
    walk->shard.reset();
    return false;
  }
  walk->shard = found->shard;
  *shard = *std::move(found);
  return true;
}

Task<bool> Scrub::ReadNextChunk(Walk* walk) {
  PersistedShard shard;
  if (!NextOnDisk(walk, &shard)) {
    co_return false;
  }
  const uint32_t chunk = walk->chunk;
  const uint64_t size = std::min(kChunkBytes, shard.bytes - chunk * kChunkBytes);
  auto scratch = std::make_shared<std::vector<std::byte>>(size);  // outlives a disk that hangs
  const MutableByteSpan into(*scratch);
  const absl::Status read =
      co_await parts_.tier->ReadChunk(shard.shard, shard.root, chunk, into, scratch);
  walk->tokens -= static_cast<int64_t>(size);
  walk->chunk += 1;
  disk_bytes_.Add(static_cast<int64_t>(size));
  if (read.code() == absl::StatusCode::kDataLoss) {
    disk_corruptions_.Add(1);  // the tier has told placement
    seams_.events->Emit(
        Severity::kError, "scrub_corruption",
        fmt::format("disk: {}; it is written again from another copy", MessageOf(read)));
  }
  if (!read.ok()) {
    walk->chunk = static_cast<uint32_t>(ChunkCount(shard.bytes));  // on to the next shard
  }
  co_return read.ok() || read.code() == absl::StatusCode::kDataLoss;
}

Task<void> Scrub::RunDisk(Gate* gate) {
  const Gate::Pass pass = gate->Enter();
  if (options_.disk_pass == Duration::zero()) {
    co_return;
  }
  Walk walk;
  walk.at = seams_.loop->Now();
  while (pass && !gate->closed()) {
    const uint64_t rate =
        RateOf(parts_.tier->used_bytes(), options_.disk_pass, options_.disk_bytes_per_second_max);
    co_await seams_.loop->Sleep(PauseOf(rate));
    Earn(&walk, rate);
    bool more = true;
    while (more && walk.tokens > 0 && !gate->closed()) {
      more = co_await ReadNextChunk(&walk);
    }
    walk.tokens = more ? walk.tokens : std::min<int64_t>(walk.tokens, 0);
  }
}

}  // namespace gemel

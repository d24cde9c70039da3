// SPDX-License-Identifier: Apache-2.0
//
// What placement and readers ask of the persistent tier: persist, mark, drop; digests, chunks and
// manifests.
#include <algorithm>
#include <utility>

#include "common/check.h"
#include "common/errors.h"
#include "common/points.h"
#include "common/status_macros.h"
#include "placement/model/records.h"
#include "server/tier.h"

namespace gemel {

// The same shard is written once at a time: who asks again waits for the same result.
Task<absl::Status> Tier::Persist(std::shared_ptr<const Object> object, std::string record,
                                 std::string manifest) {
  GEMEL_CO_RETURN_IF_ERROR(CheckExists());
  GEMEL_CHECK(object->state() == ObjectState::kSealed);
  const ShardId shard = object->shard();
  if (HasSound(shard, object->root())) {
    co_return absl::OkStatus();
  }
  if (const auto under_way = writing_.find(shard); under_way != writing_.end()) {
    const Result same = under_way->second;
    const bool set = co_await same->WaitUntil(kTimeNever);
    GEMEL_CHECK(set);
    co_return same->value();
  }
  const Result result = std::make_shared<OneShot<absl::Status>>(seams_.loop);
  writing_[shard] = result;
  const absl::Status written =
      co_await Write(std::move(object), std::move(record), std::move(manifest));
  writing_.erase(shard);
  result->Set(written);
  co_return written;
}

Task<absl::Status> Tier::Write(std::shared_ptr<const Object> object, std::string record,
                               std::string manifest) {
  PersistSource source;
  source.shard.shard = object->shard();
  source.shard.token = object->token();
  source.shard.root = object->root();
  source.shard.bytes = object->bytes();
  source.shard.layout_bytes = object->layout_bytes();
  source.digests = object->digests();
  for (uint32_t chunk = 0; chunk < object->chunks(); ++chunk) {
    source.chunks.push_back(object->Chunk(chunk));
  }
  source.record = record;
  source.manifest = std::move(manifest);
  source.keep = object;
  const PersistedShard shard = source.shard;
  const TimePoint begun = seams_.loop->Now();
  Task<absl::Status> operation = store_->Write(std::move(source));
  const absl::Status written = co_await Change(std::move(operation));
  if (written.ok()) {
    Written(shard, std::move(record), seams_.loop->Now() - begun);
  } else if (written.code() == absl::StatusCode::kAborted) {
    seams_.metrics
        ->Counter("gemel_persist_given_up_total", "Shards that were not persisted to the end.")
        .Add(1);
    seams_.events->Emit(Severity::kWarning, "persist_given_up", ToText(written));
  } else {
    seams_.metrics->Counter("gemel_persist_errors_total", "Shards that could not be persisted.")
        .Add(1);
  }
  co_return written;
}

void Tier::Written(const PersistedShard& shard, std::string record, Duration took) {
  ForgetDigests(shard.shard);
  Entry& entry = inventory_[shard.shard.snapshot];
  entry.record = std::move(record);
  entry.shards[shard.shard.rank] = Held{shard, false};
  seams_.metrics->Counter("gemel_persisted_shards_total", "Shards written to disk.").Add(1);
  seams_.metrics->Counter("gemel_persisted_bytes_total", "Bytes of shards written to disk.")
      .Add(static_cast<int64_t>(shard.bytes));
  seams_.events->Emit(
      Severity::kInfo, "shard_persisted",
      fmt::format("{} is on disk below {}: {} bytes in {:.0f} ms", shard.shard.ToString(),
                  store_->place(), shard.bytes, Milliseconds(took)));
  SetGauges();
}

Task<absl::Status> Tier::MarkComplete(SnapshotId snapshot) {
  GEMEL_CO_RETURN_IF_ERROR(CheckExists());
  Task<absl::Status> operation = store_->MarkComplete(snapshot);
  const absl::Status marked = co_await Change(std::move(operation));
  const auto entry = inventory_.find(snapshot);
  if (marked.ok() && entry != inventory_.end()) {
    Reach(CrashPoint::kPersistMarked);
    entry->second.complete = true;
  }
  co_return marked;
}

Task<absl::Status> Tier::Drop(SnapshotId snapshot) {
  if (store_ == nullptr) {
    co_return absl::OkStatus();  // nothing of it is here
  }
  Task<absl::Status> operation = store_->Drop(snapshot);
  dropping_.insert(snapshot);
  const absl::Status dropped = co_await Change(std::move(operation));
  GEMEL_CHECK(dropping_.contains(snapshot)) << snapshot.ToString();
  dropping_.erase(dropping_.find(snapshot));
  const auto entry = inventory_.find(snapshot);
  if (!dropped.ok() || entry == inventory_.end()) {
    undropped_ = undropped_ || entry != inventory_.end();
    co_return dropped;
  }
  const size_t shards = entry->second.shards.size();
  for (const auto& [rank, held] : entry->second.shards) {
    ForgetDigests(held.shard.shard);
  }
  inventory_.erase(entry);
  seams_.metrics->Counter("gemel_persist_dropped_total", "Shards that were removed from disk.")
      .Add(static_cast<int64_t>(shards));
  seams_.events->Emit(Severity::kInfo, "persisted_dropped",
                      fmt::format("{} is off the disk below {}: {} shards", snapshot.ToString(),
                                  store_->place(), shards));
  SetGauges();
  co_return dropped;
}

Task<absl::StatusOr<Tier::Digests>> Tier::ReadDigests(ShardId shard, Digest128 root) {
  if (Find(shard, root) == nullptr) {
    co_return error::NotFound("{} is not on this server's disk under root {}", shard.ToString(),
                              ToHex(root));
  }
  if (const auto kept = digests_.find(shard); kept != digests_.end()) {
    co_return kept->second;
  }
  using Read_ = absl::StatusOr<std::vector<Digest128>>;
  Task<Read_> operation = store_->ReadDigests(shard);
  Read_ read = co_await Read<Read_>(std::move(operation));
  if (!read.ok()) {
    NoteDamage(shard, read.status());
    co_return read.status();
  }
  Digests digests = std::make_shared<const std::vector<Digest128>>(*std::move(read));
  if (HasSound(shard, root)) {  // still, and the same
    KeepDigests(shard, digests);
  }
  co_return digests;
}

Task<absl::Status> Tier::ReadChunk(ShardId shard, Digest128 root, uint32_t chunk,
                                   MutableByteSpan into, std::shared_ptr<void> keep) {
  GEMEL_CO_ASSIGN_OR_RETURN(const Digests digests, co_await ReadDigests(shard, root));
  if (chunk >= digests->size()) {
    co_return error::InvalidArgument("{} has {} chunks; chunk {} was asked for", shard.ToString(),
                                     digests->size(), chunk);
  }
  PersistTarget target;
  target.bytes = into;
  target.digest = (*digests)[chunk];
  target.keep = std::move(keep);
  Task<absl::Status> operation = store_->ReadChunk(shard, chunk, std::move(target));
  const absl::Status read = co_await Read<absl::Status>(std::move(operation));
  if (!read.ok()) {
    NoteDamage(shard, read);
    co_return read;
  }
  seams_.metrics->Counter("gemel_persist_read_bytes_total", "Bytes that were read from disk.")
      .Add(static_cast<int64_t>(into.size()));
  co_return read;
}

Task<absl::Status> Tier::Verify(ShardId shard, Digest128 root) {
  const PersistedShard* found = Find(shard, root);
  if (found == nullptr) {
    co_return error::NotFound("{} is not on this server's disk under root {}", shard.ToString(),
                              ToHex(root));
  }
  const uint64_t bytes = found->bytes;
  const auto chunks = static_cast<uint32_t>(ChunkCount(bytes));
  auto scratch = std::make_shared<std::vector<std::byte>>(std::min(bytes, kChunkBytes));
  for (uint32_t chunk = 0; chunk < chunks; ++chunk) {
    const uint64_t size = std::min(kChunkBytes, bytes - chunk * kChunkBytes);
    const MutableByteSpan into = MutableByteSpan(*scratch).first(size);
    const absl::Status read = co_await ReadChunk(shard, root, chunk, into, scratch);
    GEMEL_CO_RETURN_IF_ERROR(read);
  }
  co_return absl::OkStatus();
}

Task<absl::StatusOr<std::string>> Tier::ReadManifest(SnapshotId snapshot, Digest128 root) {
  GEMEL_CO_RETURN_IF_ERROR(CheckExists());
  using Read_ = absl::StatusOr<std::string>;
  Task<Read_> operation = store_->ReadManifest(snapshot);
  Read_ manifest = co_await Read<Read_>(std::move(operation));
  GEMEL_CO_RETURN_IF_ERROR(manifest.status());
  const Digest128 found = model::ManifestRoot(*manifest);
  if (found != root) {
    co_return error::DataLoss("the manifest of {} below {} has root {} where {} belongs",
                              snapshot.ToString(), store_->place(), ToHex(found), ToHex(root));
  }
  co_return manifest;
}

// Placement stops counting it: joining again replaces what it believes of this server.
void Tier::NoteDamage(const ShardId& shard, const absl::Status& why) {
  Held* held = HeldOf(shard);
  if (why.code() != absl::StatusCode::kDataLoss || held == nullptr || held->damaged) {
    return;
  }
  held->damaged = true;
  ForgetDigests(shard);
  seams_.metrics->Counter("gemel_chunks_corrupt_total", "Chunks that failed their digest.").Add(1);
  seams_.events->Emit(Severity::kError, "chunk_corrupt", ToText(why));
  if (changed_) {
    changed_(fmt::format("{} is damaged on disk below {}: joining again", shard.ToString(),
                         store_->place()));
  }
}

void Tier::KeepDigests(const ShardId& shard, Digests digests) {
  if (digests_.emplace(shard, std::move(digests)).second) {
    digests_order_.push_back(shard);
  }
  while (digests_order_.size() > kPersistDigestsKept) {
    digests_.erase(digests_order_.front());
    digests_order_.pop_front();
  }
}

void Tier::ForgetDigests(const ShardId& shard) {
  digests_.erase(shard);
  std::erase(digests_order_, shard);
}

}  // namespace gemel

// SPDX-License-Identifier: Apache-2.0
//
// Shards for the tests of the persistent tier: their memory, their digests, their snapshot's commit
// record and manifest. Thread safety: values.
#pragma once

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "common/check.h"
#include "common/xxh3.h"
#include "placement/model/records.h"
#include "server/persist/persist_record.h"

namespace gemel::testing {

inline SnapshotId SnapshotOf(uint64_t sequence, const std::string& job = "gpt") {
  return SnapshotId{job, {1, 1}, sequence, "step-" + std::to_string(sequence), 0};
}

// A whole snapshot of `ranks` shards of `bytes` each.
class TestSnapshot {
 public:
  TestSnapshot(uint64_t sequence, uint32_t ranks, uint64_t bytes, const std::string& job = "gpt")
      : id(SnapshotOf(sequence, job)) {
    model::Manifest manifest;
    manifest.snapshot = id;
    for (uint32_t rank = 0; rank < ranks; ++rank) {
      sources.push_back(Make(ShardId{id, rank}, bytes));
      manifest.shards.push_back({sources.back().shard.root, bytes, 10});
    }
    model::CommitRecord record;
    record.cluster.bytes[0] = 0xc1;
    record.snapshot = id;
    record.world_size = ranks;
    record.copies = record.min_copies = 1;
    record.bytes = bytes * ranks;
    const std::string raw = model::EncodeManifest(manifest);
    record.manifest_root = model::ManifestRoot(raw);
    for (PersistSource& source : sources) {
      source.manifest = raw;
      source.record = model::EncodeCommitRecord(record);
    }
  }

  const PersistSource& operator[](uint32_t rank) const { return sources[rank]; }

  // Where a byte of the content lies.
  char* At(uint32_t rank, uint64_t offset) { return &(*memory[rank])[offset]; }

  SnapshotId id;
  std::vector<PersistSource> sources;
  std::vector<std::shared_ptr<std::string>> memory;  // shared with the stores that write it

 private:
  PersistSource Make(const ShardId& shard, uint64_t bytes) {
    const auto content = std::make_shared<std::string>(bytes, '\0');
    uint64_t state = 0x9e3779b97f4a7c15 * (shard.snapshot.sequence * 64 + shard.rank + 1);
    for (char& byte : *content) {
      state = state * 6364136223846793005 + 1442695040888963407;
      byte = static_cast<char>(state >> 56);
    }
    memory.push_back(content);
    PersistSource source;
    source.keep = content;
    for (uint64_t at = 0; at < bytes; at += kChunkBytes) {
      source.chunks.push_back(AsBytes(*content).subspan(at, std::min(kChunkBytes, bytes - at)));
      source.digests.push_back(Xxh3_128(source.chunks.back()));
    }
    source.shard.shard = shard;
    source.shard.token.bytes[1] = 7;
    source.shard.bytes = bytes;
    source.shard.layout_bytes = 10;
    source.shard.root = PersistedRoot(source.shard, source.digests);
    return source;
  }
};

}  // namespace gemel::testing

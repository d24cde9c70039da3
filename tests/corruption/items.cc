// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "common/bytes.h"
#include "common/codec.h"
#include "common/random.h"
#include "common/xxh3.h"
#include "server/objects.h"
#include "tests/corruption/layers.h"

namespace gemel {

// Versions of one identity are the saves of one job, one after the other.
ShardId ShardOf(const Item& item) {
  ShardId shard;
  shard.snapshot = {.job = fmt::format("job{}", item.identity % 7),
                    .epoch = {.generation = 1, .counter = 3},
                    .sequence = item.version,
                    .name = fmt::format("step{}", item.version),
                    .attempt = item.version};
  shard.rank = item.identity;
  return shard;
}

EpochToken TokenOf(const Item& item) {
  Random random(item.identity % 7);
  return EpochToken::Draw(&random);
}

std::string ContentOf(const Item& item) {
  Random random = Random(item.identity).Split(fmt::format("version {}", item.version));
  std::string content(200 + Random(item.identity).Below(2801), '\0');
  for (size_t at = 0; at < content.size(); at += sizeof(uint64_t)) {
    const uint64_t word = random.Next();
    std::memcpy(content.data() + at, &word, std::min(sizeof(word), content.size() - at));
  }
  return content;
}

std::vector<Digest128> DigestsOf(std::string_view content) {
  GEMEL_CHECK_LE(content.size(), kChunkBytes);
  return {Xxh3_128(AsBytes(content))};
}

Digest128 CommittedRoot(const Item& item) {
  const std::string content = ContentOf(item);
  return RootOf(ShardOf(item), DigestsOf(content), content.size());
}

std::vector<std::unique_ptr<Layer>> AllLayers() {
  std::vector<std::unique_ptr<Layer>> layers;
  layers.push_back(WireLayer());
  layers.push_back(MemoryLayer());
  layers.push_back(SlabDirectoryLayer());
  layers.push_back(PersistedShardLayer());
  layers.push_back(CommitRecordLayer());
  layers.push_back(RecordFileLayer());
  layers.push_back(IdentityFileLayer());
  return layers;
}

}  // namespace gemel

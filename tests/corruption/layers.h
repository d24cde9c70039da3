// SPDX-License-Identifier: Apache-2.0
//
// Layer: one place where bytes lie or travel: it makes those of an item, and reads them with the
// decoders and verifiers of production, in their order. An item is a shard or record of one
// identity in one version; a reader knows which one it wants, from the commit record or the key.
//
// Thread safety: one owner.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "common/digest.h"
#include "common/ids.h"

namespace gemel {

struct Item {
  uint32_t identity = 0;
  uint32_t version = 1;
};

enum class Reading : uint8_t {
  kRefused,  // an error, which sends a reader to the next copy
  kRight,    // what was written
  kWrong,    // believed, and not what was written
};

class Layer {
 public:
  virtual ~Layer() = default;
  virtual std::string_view name() const = 0;
  virtual std::string Bytes(const Item& item) const = 0;
  virtual Reading Read(const Item& wanted, const std::string& bytes) const = 0;
};

std::vector<std::unique_ptr<Layer>> AllLayers();

// The layers, by file.
std::unique_ptr<Layer> WireLayer();
std::unique_ptr<Layer> MemoryLayer();
std::unique_ptr<Layer> SlabDirectoryLayer();
std::unique_ptr<Layer> PersistedShardLayer();
std::unique_ptr<Layer> CommitRecordLayer();
std::unique_ptr<Layer> RecordFileLayer();
std::unique_ptr<Layer> IdentityFileLayer();

// What items are made of.
ShardId ShardOf(const Item& item);
EpochToken TokenOf(const Item& item);
// Between 200 and 3,000 bytes; one chunk.
std::string ContentOf(const Item& item);
std::vector<Digest128> DigestsOf(std::string_view content);
// The root in the manifest of the commit: what a reader trusts.
Digest128 CommittedRoot(const Item& item);

}  // namespace gemel

// SPDX-License-Identifier: Apache-2.0
//
// Shards where they lie: in a holder's memory and as it describes them, in the slabs that a keeper
// hands to a new incarnation, on the disk of a persistent tier. The reader knows the root from the
// commit record.
#include "common/bytes.h"
#include "common/codec.h"
#include "common/fields.h"
#include "server/objects.h"
#include "server/persist/persist_record.h"
#include "server/slab_directory.h"
#include "tests/corruption/layers.h"
#include "transport/peer/messages.h"

namespace gemel {
namespace {

// Parts that lie beside each other, each found at the offset at which it was written.
std::string_view Cut(std::string_view* bytes, size_t length) {
  const std::string_view part = bytes->substr(0, std::min(length, bytes->size()));
  bytes->remove_prefix(part.size());
  return part;
}

Reading Judge(const Item& wanted, std::string_view content) {
  return content == ContentOf(wanted) ? Reading::kRight : Reading::kWrong;
}

// Each chunk against its digest, and all digests against the root of the commit.
bool Verified(const Item& wanted, const std::vector<Digest128>& digests, std::string_view content) {
  return content.size() == ContentOf(wanted).size() &&
         RootOf(ShardOf(wanted), digests, content.size()) == CommittedRoot(wanted) &&
         DigestsOf(content) == digests;
}

class Memory final : public Layer {
 public:
  std::string_view name() const override { return "memory"; }

  static std::string Described(const Item& item) {
    const std::string content = ContentOf(item);
    DescribeReply described;
    described.bytes = content.size();
    described.layout_bytes = 10;
    described.digests = DigestsOf(content);
    return EncodeMessage(described);
  }

  std::string Bytes(const Item& item) const override { return Described(item) + ContentOf(item); }

  Reading Read(const Item& wanted, const std::string& bytes) const override {
    std::string_view rest = bytes;
    const auto described = DecodeMessage<DescribeReply>(Cut(&rest, Described(wanted).size()));
    if (!described.ok() || described->bytes != ContentOf(wanted).size() ||
        !Verified(wanted, described->digests, rest)) {
      return Reading::kRefused;
    }
    return Judge(wanted, rest);
  }
};

class Slabs final : public Layer {
 public:
  std::string_view name() const override { return "slab directory"; }

  static std::string Directory(const Item& item) {
    SlabDirectoryHeader header;
    header.server.bytes[0] = 1;
    header.incarnation.bytes[0] = 2;
    header.slab_bytes = kMiB;
    header.slabs = 1;
    SlabEntry entry;
    entry.state = SlabState::kInUse;
    entry.slab_class = SlabClass::kSnapshot;
    entry.sealed = true;
    entry.generation = item.version;
    entry.shard = ShardOf(item);
    entry.token = TokenOf(item);
    entry.length = entry.object_bytes = ContentOf(item).size();
    entry.layout_bytes = 10;
    entry.root = CommittedRoot(item);
    return EncodeSlabDirectoryHeader(header) + EncodeSlabEntry(entry);
  }

  std::string Bytes(const Item& item) const override { return Directory(item) + ContentOf(item); }

  Reading Read(const Item& wanted, const std::string& bytes) const override {
    constexpr size_t kDirectoryBytes = kSlabDirectoryHeaderBytes + kSlabEntryBytes;
    std::string_view rest = bytes;
    const auto directory = ReadSlabDirectory(AsBytes(Cut(&rest, kDirectoryBytes)));
    if (!directory.ok() || directory->entries.size() != 1) {
      return Reading::kRefused;
    }
    const SlabEntry& entry = directory->entries.front();
    // A new incarnation re-hashes what committed roots name, and drops the rest.
    if (!entry.sealed || entry.shard != ShardOf(wanted) || entry.root != CommittedRoot(wanted) ||
        entry.object_bytes != rest.size() ||
        RootOf(entry.shard, DigestsOf(rest), entry.object_bytes) != entry.root) {
      return Reading::kRefused;
    }
    return Judge(wanted, rest);
  }
};

class Persisted final : public Layer {
 public:
  std::string_view name() const override { return "persisted shard"; }

  static std::string Record(const Item& item) {
    ShardRecord record;
    record.range = 1 + item.version;
    record.shard.shard = ShardOf(item);
    record.shard.token = TokenOf(item);
    record.shard.root = CommittedRoot(item);
    record.shard.bytes = ContentOf(item).size();
    record.shard.layout_bytes = 10;
    return EncodeShardRecord(record);
  }

  std::string Bytes(const Item& item) const override {
    const std::string content = ContentOf(item);
    return Record(item) + EncodeDigests(DigestsOf(content)) + content;
  }

  Reading Read(const Item& wanted, const std::string& bytes) const override {
    std::string_view rest = bytes;
    const auto record = DecodeShardRecord(Cut(&rest, Record(wanted).size()));
    const auto digests = DecodeDigests(Cut(&rest, kDigestBytes));
    if (!record.ok() || !digests.ok() ||
        ShardKey(record->shard.shard) != ShardKey(ShardOf(wanted)) ||
        record->shard.root != CommittedRoot(wanted) || digests->size() != 1 ||
        PersistedRoot(record->shard, *digests) != record->shard.root ||
        record->shard.bytes != rest.size() || DigestsOf(rest) != *digests) {
      return Reading::kRefused;
    }
    return Judge(wanted, rest);
  }
};

}  // namespace

std::unique_ptr<Layer> MemoryLayer() { return std::make_unique<Memory>(); }

std::unique_ptr<Layer> SlabDirectoryLayer() { return std::make_unique<Slabs>(); }

std::unique_ptr<Layer> PersistedShardLayer() { return std::make_unique<Persisted>(); }

}  // namespace gemel

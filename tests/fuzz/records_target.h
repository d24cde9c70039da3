// SPDX-License-Identifier: Apache-2.0
//
// One input of the record fuzzers: the first byte picks what is decoded (commit record, manifest,
// records of the MetaStore, identity file, slab directory, frame of a file, ids, records of the
// persistent tier), bit 7 whether its checksum is made right. What is accepted must encode to the
// same bytes.
//
// Thread safety: pure. An input that breaks an invariant ends the process.
#pragma once

#include <cstring>
#include <string>
#include <vector>

#include "common/check.h"
#include "common/crc32c.h"
#include "common/digest.h"
#include "common/disk_files.h"
#include "placement/manager/stored.h"
#include "placement/model/records.h"
#include "server/identity.h"
#include "server/persist/persist_record.h"
#include "server/slab_directory.h"
#include "tests/fuzz/inputs.h"

namespace gemel {

class RecordsTarget {
 public:
  static constexpr uint8_t kRepair = 0x80;

  enum Kind : uint8_t {
    kCommitRecord,
    kManifest,
    kCluster,
    kMember,
    kJob,
    kToken,
    kOpen,
    kRestore,
    kIdentity,
    kSlabHeader,
    kSlabEntry,
    kSlabDirectory,
    kFile,
    kId,
    kPersistedShard,
    kPersistedSnapshot,
    kDigests,
    kKinds
  };

  // True when the record was accepted.
  static bool Run(ByteSpan input) {
    Choices choices(input);
    const uint8_t pick = choices.Byte();
    std::string raw = choices.Rest();
    const auto kind = static_cast<Kind>((pick & ~kRepair) % kKinds);
    if ((pick & kRepair) != 0) {
      Repair(kind, &raw);
    }
    return RunKind(kind, raw);
  }

  // Valid inputs, checksums to be repaired.
  static std::vector<std::string> Seeds() {
    std::vector<std::string> seeds;
    const auto add = [&](Kind kind, const std::string& raw) {
      seeds.push_back(static_cast<char>(kind | kRepair) + raw);
    };
    const SnapshotId snapshot{"gpt", {1, 7}, 12, "step", 3};
    model::CommitRecord record;
    record.snapshot = snapshot;
    record.world_size = 2;
    record.copies = 2;
    record.min_copies = 1;
    add(kCommitRecord, model::EncodeCommitRecord(record));
    record.strategy = StrategyChoice::kRing;
    add(kCommitRecord, model::EncodeCommitRecord(record));
    add(kManifest, model::EncodeManifest({snapshot, {{{}, 100, 10}, {{}, 200, 20}}}));
    add(kCluster, EncodeStored(ClusterRecord()));
    MemberRecord member;
    member.name = "server-0";
    member.domain = "pod0/rack1";
    member.superseded.resize(2);
    add(kMember, EncodeStored(member));
    add(kJob, EncodeStored(JobRecord()));
    add(kToken, EncodeStored(TokenRecord()));
    OpenRecord open;
    open.snapshot = snapshot;
    add(kOpen, EncodeStored(open));
    open.strategy = StrategyChoice::kRing;
    add(kOpen, EncodeStored(open));
    RestoreRecord restore;
    restore.lost = {"one", "two"};
    restore.verified = std::string("\0\1", 2);
    add(kRestore, EncodeStored(restore));
    AddServerSeeds(add);
    return seeds;
  }

 private:
  static void AddServerSeeds(auto&& add) {
    IdentityFile identity;
    identity.epochs = {{"a", {1, 1}}, {"b", {1, 2}}};
    identity.last_members.resize(2);
    add(kIdentity, EncodeIdentity(identity));
    SlabDirectoryHeader header;
    header.slab_bytes = kMiB;
    header.slabs = 2;
    SlabEntry entry;
    entry.state = SlabState::kInUse;
    entry.shard.snapshot.job = "gpt";
    entry.length = entry.object_bytes = 100;
    SlabEntry next = entry;
    next.slab = 1;
    add(kSlabHeader, EncodeSlabDirectoryHeader(header));
    add(kSlabEntry, EncodeSlabEntry(entry));
    add(kSlabDirectory,
        EncodeSlabDirectoryHeader(header) + EncodeSlabEntry(entry) + EncodeSlabEntry(next));
    add(kFile, FrameFile("content"));
    add(kId, std::string(16, 'i'));
    add(kId, std::string(32, 'a'));
    ShardRecord shard;
    shard.range = 7;
    shard.shard.shard.snapshot = {"gpt", {1, 7}, 12, "step", 3};
    shard.shard.bytes = 100;
    add(kPersistedShard, EncodeShardRecord(shard));
    add(kPersistedSnapshot, EncodeSnapshotRecord({true, "commit record"}));
    add(kDigests, EncodeDigests({{1, 2}, {3, 4}}));
  }

  // Puts the checksum that belongs to `checked` at `at`.
  static void Store(std::string* raw, size_t at, uint32_t crc) {
    std::memcpy(raw->data() + at, &crc, sizeof(crc));
  }

  static void SealTail(std::string* raw, size_t begin, size_t bytes) {
    if (begin + bytes <= raw->size() && bytes >= sizeof(uint32_t)) {
      const size_t at = begin + bytes - sizeof(uint32_t);
      Store(raw, at, Crc32c(AsBytes(std::string_view(*raw).substr(begin, at - begin))));
    }
  }

  static void Repair(Kind kind, std::string* raw) {
    constexpr size_t kFileHeaderBytes = 24;
    constexpr size_t kFileCrcAt = 20;
    if (kind == kCommitRecord || kind == kManifest || kind == kPersistedShard ||
        kind == kPersistedSnapshot) {
      SealTail(raw, 0, raw->size());
    } else if (kind == kSlabHeader || kind == kSlabEntry) {
      raw->resize(kind == kSlabHeader ? kSlabDirectoryHeaderBytes : kSlabEntryBytes);
      SealTail(raw, 0, raw->size());
    } else if (kind == kSlabDirectory) {
      SealTail(raw, 0, kSlabDirectoryHeaderBytes);
      for (size_t at = kSlabDirectoryHeaderBytes; at < raw->size(); at += kSlabEntryBytes) {
        SealTail(raw, at, kSlabEntryBytes);
      }
    } else if (kind == kFile && raw->size() >= kFileHeaderBytes) {
      const std::string_view all(*raw);
      const uint32_t head = Crc32c(AsBytes(all.substr(0, kFileCrcAt)));
      Store(raw, kFileCrcAt, Crc32c(AsBytes(all.substr(kFileHeaderBytes)), head));
    }
  }

  static bool RunKind(Kind kind, const std::string& raw) {
    switch (kind) {
      case kCommitRecord:
        return Same(model::DecodeCommitRecord(raw), raw, model::EncodeCommitRecord);
      case kManifest:
        return Same(model::DecodeManifest(raw), raw, model::EncodeManifest);
      case kCluster:
        return Stored<ClusterRecord>(raw);
      case kMember:
        return Stored<MemberRecord>(raw);
      case kJob:
        return Stored<JobRecord>(raw);
      case kToken:
        return Stored<TokenRecord>(raw);
      case kOpen:
        return Stored<OpenRecord>(raw);
      case kRestore:
        return Stored<RestoreRecord>(raw);
      case kIdentity:
        return Same(DecodeIdentity(raw), raw, EncodeIdentity);
      case kSlabHeader:
        return Same(DecodeSlabDirectoryHeader(raw), raw, EncodeSlabDirectoryHeader);
      case kSlabEntry:
        return Same(DecodeSlabEntry(raw), raw, EncodeSlabEntry);
      case kSlabDirectory:
        return Directory(raw);
      case kFile:
        return Same(UnframeFile(raw, "file"), raw, FrameFile);
      case kPersistedShard:
        return Same(DecodeShardRecord(raw), raw, EncodeShardRecord);
      case kPersistedSnapshot:
        return Same(DecodeSnapshotRecord(raw), raw, EncodeSnapshotRecord);
      case kDigests:
        return Same(DecodeDigests(raw), raw, EncodeDigests);
      default:
        return Ids(raw);
    }
  }

  template <typename Record>
  static bool Same(const absl::StatusOr<Record>& record, const std::string& raw, auto&& encode) {
    if (record.ok()) {
      GEMEL_CHECK(encode(*record) == raw) << "another encoding of the same record was accepted";
    }
    return record.ok();
  }

  template <typename Record>
  static bool Stored(const std::string& raw) {
    return Same(DecodeStored<Record>("key", raw), raw,
                [](const Record& record) { return EncodeStored(record); });
  }

  static bool Directory(const std::string& raw) {
    const absl::StatusOr<SlabDirectoryContent> content = ReadSlabDirectory(AsBytes(raw));
    if (content.ok()) {
      GEMEL_CHECK_EQ(content->entries.size() + content->torn.size(), content->header.slabs);
    }
    return content.ok();
  }

  static bool Ids(const std::string& raw) {
    const auto id = ServerId::FromBytes(raw);
    if (id.ok()) {
      GEMEL_CHECK(id->ToBytes() == raw);
    }
    const auto hex = ClusterId::FromHex(raw);
    if (hex.ok()) {
      GEMEL_CHECK(hex->ToHex() == raw);
    }
    const auto digest = DigestFromHex(raw);
    GEMEL_CHECK(!hex.ok() || (digest.ok() && ToHex(*digest) == raw));
    return id.ok() || hex.ok() || digest.ok();
  }
};

}  // namespace gemel

// SPDX-License-Identifier: Apache-2.0
//
// The bytes of the persistent tier's records and keys (docs/formats/persist.md), for ever.
#include <gtest/gtest.h>

#include "placement/model/records.h"
#include "server/persist/persist_record.h"
#include "tests/golden/golden_bytes.h"

namespace gemel {
namespace {

ShardRecord Record() {
  ShardRecord record;
  record.range = 0x0102030405060708;
  record.shard.shard.snapshot = {"gpt", {1, 7}, 12, "step", 3};
  record.shard.shard.rank = 9;
  record.shard.token = IdOf<EpochToken>(0x40);
  record.shard.root = {0x1112131415161718, 0x2122232425262728};
  record.shard.bytes = 0x4001000;
  record.shard.layout_bytes = 0x200;
  return record;
}

TEST(PersistGolden, ShardRecord) {
  const std::string raw = EncodeShardRecord(Record());
  EXPECT_EQ(BytesToHex(raw),
            "474d5053"                          // magic
            "01"                                // version
            "0807060504030201"                  // range
            "03000000"                          // job
            "677074"                            //
            "0100000000000000"                  // epoch generation
            "0700000000000000"                  // epoch counter
            "0c00000000000000"                  // sequence
            "04000000"                          // name
            "73746570"                          //
            "03000000"                          // attempt
            "09000000"                          // rank
            "404142434445464748494a4b4c4d4e4f"  // token
            "18171615141312112827262524232221"  // root
            "0010000400000000"                  // bytes
            "0002000000000000"                  // layout_bytes
            "b1867464");                        // crc32c
  EXPECT_EQ(*DecodeShardRecord(raw), Record());
}

TEST(PersistGolden, SnapshotRecord) {
  const SnapshotRecord record{true, "record"};
  const std::string raw = EncodeSnapshotRecord(record);
  EXPECT_EQ(BytesToHex(raw),
            "474d504e"      // magic
            "01"            // version
            "01"            // complete
            "06000000"      // commit_record
            "7265636f7264"  //
            "202ac29c");    // crc32c
  EXPECT_EQ(*DecodeSnapshotRecord(raw), record);
}

TEST(PersistGolden, Keys) {
  const ShardId& shard = Record().shard.shard;
  EXPECT_EQ(BytesToHex(ShardKey(shard)),
            "72"                // kind: shard
            "67707400"          // job
            "0000000000000001"  // epoch generation
            "0000000000000007"  // epoch counter
            "000000000000000c"  // sequence
            "00000009");        // rank
  EXPECT_EQ(BytesToHex(SnapshotKey(kSnapshotKeyKind, shard.snapshot)),
            "73677074000000000000000001"
            "0000000000000007000000000000000c");
  EXPECT_EQ(SnapshotKey(kManifestKeyKind, shard.snapshot).front(), 'm');
  EXPECT_EQ(BytesToHex(DataKey(0x0102030405060708, 0x11121314)), "010203040506070811121314");
  EXPECT_EQ(RangeOfKey(DataKey(0x0102030405060708, 0x11121314)), 0x0102030405060708U);
}

TEST(PersistGolden, KeysSortAsSnapshotsRanksAndChunksDo) {
  ShardId low{{"gpt", {1, 7}, 12, "step", 3}, 9};
  ShardId high = low;
  high.rank = 256;
  EXPECT_LT(ShardKey(low), ShardKey(high));
  high = low;
  high.snapshot.sequence = 0x100;
  EXPECT_LT(ShardKey(low), ShardKey(high));
  high = low;
  high.snapshot.job = "gpt2";
  EXPECT_LT(ShardKey(low), ShardKey(high));
  EXPECT_LT(DataKey(1, 0xffffffff), DataKey(2, 0));
  EXPECT_LT(DataKey(1, 255), DataKey(1, 256));
}

TEST(PersistGolden, Digests) {
  const std::vector<Digest128> digests = {{0x1112131415161718, 0x2122232425262728}, {1, 2}};
  const std::string raw = EncodeDigests(digests);
  EXPECT_EQ(BytesToHex(raw),
            "18171615141312112827262524232221"
            "01000000000000000200000000000000");
  EXPECT_EQ(*DecodeDigests(raw), digests);
}

TEST(PersistGolden, TheLargestRecordsAreTaken) {
  ShardRecord shard = Record();
  shard.shard.shard.snapshot.job = std::string(model::kJobNameBytesMax, 'j');
  shard.shard.shard.snapshot.name = std::string(model::kSnapshotNameBytesMax, 'n');
  shard.shard.shard.rank = model::kWorldSizeMax - 1;
  shard.shard.bytes = model::kShardBytesMax;
  EXPECT_EQ(*DecodeShardRecord(EncodeShardRecord(shard)), shard);
  const SnapshotRecord snapshot{false, std::string(model::kCommitRecordBytesMax, 'r')};
  EXPECT_EQ(*DecodeSnapshotRecord(EncodeSnapshotRecord(snapshot)), snapshot);
}

TEST(PersistGolden, OtherVersionsAndDamageAreRefusedByName) {
  std::string raw = EncodeShardRecord(Record());
  raw[20] ^= 1;
  EXPECT_EQ(DecodeShardRecord(raw).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(DecodeShardRecord(EncodeSnapshotRecord({})).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(DecodeShardRecord("").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(DecodeDigests("123").status().code(), absl::StatusCode::kInvalidArgument);
  ShardRecord zero = Record();
  zero.shard.bytes = 0;
  EXPECT_EQ(DecodeShardRecord(EncodeShardRecord(zero)).status().code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace gemel

// SPDX-License-Identifier: Apache-2.0
//
// The bytes of commit record and manifest (docs/formats/records.md), for ever.
#include <gtest/gtest.h>

#include "placement/model/records.h"
#include "tests/golden/golden_bytes.h"

namespace gemel::model {
namespace {

CommitRecord Record() {
  CommitRecord record;
  record.cluster = IdOf<ClusterId>(0x10);
  record.snapshot = GoldenSnapshot();
  record.manifest_root = {0x0807060504030201, 0x100f0e0d0c0b0a09};
  record.layout_hash = {0x2827262524232221, 0x302f2e2d2c2b2a29};
  record.map_version = 0x3837363534333231;
  record.bytes = 0x4847464544434241;
  record.world_size = 2;
  record.copies = 3;
  record.min_copies = 2;
  record.keep_latest = 4;
  record.committed_unix_s = 1'700'000'000;
  return record;
}

Manifest TwoShards() {
  Manifest manifest;
  manifest.snapshot = GoldenSnapshot();
  manifest.shards.push_back({{0x0807060504030201, 0x100f0e0d0c0b0a09}, 0x1001, 0x21});
  manifest.shards.push_back({{0x5857565554535251, 0x605f5e5d5c5b5a59}, 0x2002, 0x22});
  return manifest;
}

TEST(RecordsGolden, CommitRecord) {
  const std::string raw = EncodeCommitRecord(Record());
  EXPECT_EQ(BytesToHex(raw),
            "474d4352"                              // magic GMCR
            "01"                                    // version
            "101112131415161718191a1b1c1d1e1f" +    // cluster
                kSnapshotHex +                      // snapshot
                "0102030405060708090a0b0c0d0e0f10"  // manifest_root, low then high
                "2122232425262728292a2b2c2d2e2f30"  // layout_hash
                "3132333435363738"                  // map_version
                "4142434445464748"                  // bytes
                "02000000"                          // world_size
                "03000000"                          // copies
                "02000000"                          // min_copies
                "04000000"                          // keep_latest
                "00f1536500000000"                  // committed_unix_s
                "39433d5f");                        // crc32c of all before it
  EXPECT_EQ(*DecodeCommitRecord(raw), Record());
}

// A strategy other than the default follows the other fields; without it there is nothing.
TEST(RecordsGolden, CommitRecordOfARing) {
  CommitRecord record = Record();
  record.strategy = StrategyChoice::kRing;
  const std::string raw = EncodeCommitRecord(record);
  EXPECT_EQ(BytesToHex(raw.substr(raw.size() - 13)),
            "00f1536500000000"  // committed_unix_s
            "01"                // strategy
            "6c7f18e8");        // crc32c of all before it
  EXPECT_EQ(raw.size(), EncodeCommitRecord(Record()).size() + 1);
  EXPECT_EQ(*DecodeCommitRecord(raw), record);
}

TEST(RecordsGolden, Manifest) {
  const std::string raw = EncodeManifest(TwoShards());
  EXPECT_EQ(BytesToHex(raw),
            "474d4d46"                              // magic GMMF
            "01" +                                  // version
                kSnapshotHex +                      // snapshot
                "02000000"                          // shards
                "0102030405060708090a0b0c0d0e0f10"  // root of rank 0
                "0110000000000000"                  // bytes
                "2100000000000000"                  // layout_bytes
                "5152535455565758595a5b5c5d5e5f60"  // root of rank 1
                "0220000000000000"                  // bytes
                "2200000000000000"                  // layout_bytes
                "6dfe2bb6");                        // crc32c of all before it
  EXPECT_EQ(*DecodeManifest(raw), TwoShards());
  EXPECT_EQ(ToHex(ManifestRoot(raw)), "57270b6082dafb155a31b5c57189b5d3");
}

// 512 bytes is what the document promises, whatever the names.
TEST(RecordsGolden, TheLargestCommitRecordFits) {
  CommitRecord record = Record();
  record.snapshot.job = std::string(kJobNameBytesMax, 'j');
  record.snapshot.name = std::string(kSnapshotNameBytesMax, 'n');
  record.strategy = StrategyChoice::kRing;
  EXPECT_LE(EncodeCommitRecord(record).size(), kCommitRecordBytesMax);
}

}  // namespace
}  // namespace gemel::model

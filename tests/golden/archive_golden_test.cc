// SPDX-License-Identifier: Apache-2.0
//
// Bytes of the layout table (the same as in tests/python/torch_layout_test.py), of a safetensors
// file's head and of the records of exports and archives (docs/formats/export.md), for ever.
#include <gtest/gtest.h>

#include "client/archive/export_record.h"
#include "client/archive/layout.h"
#include "client/archive/safetensors.h"
#include "tests/golden/golden_bytes.h"

namespace gemel::archive {
namespace {

TEST(ArchiveGolden, Layout) {
  ShardLayout layout;
  layout.rank = 1;
  layout.world_size = 2;
  for (uint8_t i = 0; i < 16; ++i) {
    layout.layout_hash[i] = i;
  }
  layout.entries = {{"values/rank", Dtype::kNone, {}, 0, 3},
                    {"model/w", Dtype::kFloat32, {{4, 2, 2}, {3, 0, 3}}, 0, 24}};
  ASSERT_TRUE(PlaceEntries(&layout).ok());
  const std::string table = EncodeLayout(layout);
  EXPECT_EQ(BytesToHex(table),
            "47454d4c"                                          // magic
            "0100"                                              // version
            "0000"                                              // flags
            "01000000"                                          // rank
            "02000000"                                          // world_size
            "c000000000000000"                                  // layout_bytes
            "1801000000000000"                                  // shard_bytes
            "02000000"                                          // entry_count
            "00000000"                                          //
            "000102030405060708090a0b0c0d0e0f"                  // layout_hash
            "0000000000000000"                                  //
            "0b00"                                              // name_len
            "01"                                                // kind
            "00"                                                // dtype
            "00"                                                // ndim
            "000000"                                            //
            "c000000000000000"                                  // data_offset
            "0300000000000000"                                  // data_bytes
            "76616c7565732f72616e6b"                            // values/rank
            "0700"                                              //
            "00"                                                //
            "01"                                                //
            "02"                                                //
            "000000"                                            //
            "0001000000000000"                                  //
            "1800000000000000"                                  //
            "040000000000000002000000000000000200000000000000"  // global, offset, size
            "030000000000000000000000000000000300000000000000"  //
            "6d6f64656c2f77"                                    // model/w
            "0000000000000000000000000000");                    // padding
  EXPECT_EQ(*DecodeLayout(AsBytes(table)), layout);
}

TEST(ArchiveGolden, SafetensorsHead) {
  safetensors::Header header;
  header.tensors = {{"b", Dtype::kBfloat16, {2, 3}}, {"c", Dtype::kComplex128, {1}}};
  header.metadata = {{"format", "pt"}};
  ASSERT_TRUE(safetensors::Place(&header).ok());
  const std::string text = R"({"__metadata__":{"format":"pt","gemel.dtype.c":"complex128"},)"
                           R"("b":{"data_offsets":[16,28],"dtype":"BF16","shape":[2,3]},)"
                           R"("c":{"data_offsets":[0,16],"dtype":"U8","shape":[1,16]}})"
                           " ";
  EXPECT_EQ(safetensors::EncodeHeader(header), std::string("\xb0\0\0\0\0\0\0\0", 8) + text);
}

ExportRecord GoldenRecord() {
  ExportRecord record;
  record.snapshot = {
      std::string(32, 'c'), "gpt", "7", 1, 2, 12, {{std::string(32, 'a'), 4096, 192}}};
  record.files = {{"model.safetensors", 1000, {0x0123456789abcdef, 0xfedcba9876543210}, "model/"}};
  return record;
}

constexpr const char* kRecordText = R"({
 "format": "gemel.export",
 "version": 1,
 "cluster": "cccccccccccccccccccccccccccccccc",
 "job": "gpt",
 "name": "7",
 "epoch": {
  "generation": 1,
  "counter": 2
 },
 "sequence": 12,
 "world_size": 1,
 "shards": [
  {
   "root": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
   "bytes": 4096,
   "layout_bytes": 192
  }
 ],
 "files": [
  {
   "name": "model.safetensors",
   "bytes": 1000,
   "xxh3_128": "fedcba98765432100123456789abcdef",
   "prefix": "model/"
  }
 ]
}
)";

TEST(ArchiveGolden, Record) {
  EXPECT_EQ(EncodeRecord(GoldenRecord(), RecordKind::kComplete), kRecordText);
  EXPECT_EQ(*DecodeRecord(kRecordText, RecordKind::kComplete), GoldenRecord());
}

TEST(ArchiveGolden, Journal) {
  std::string text = kRecordText;
  text.replace(text.find("gemel.export"), 12, "gemel.export.partial");
  EXPECT_EQ(EncodeRecord(GoldenRecord(), RecordKind::kPartial), text);
  EXPECT_EQ(*DecodeRecord(text, RecordKind::kPartial), GoldenRecord());
}

TEST(ArchiveGolden, Latest) {
  const Latest latest{"gpt",
                      {{"00000000000000000012-7",
                        std::string(32, 'c'),
                        "7",
                        12,
                        1000,
                        {0x0123456789abcdef, 0xfedcba9876543210}}}};
  const std::string text = R"({
 "format": "gemel.archive.latest",
 "version": 1,
 "job": "gpt",
 "latest": "00000000000000000012-7",
 "exports": [
  {
   "path": "00000000000000000012-7",
   "cluster": "cccccccccccccccccccccccccccccccc",
   "name": "7",
   "sequence": 12,
   "bytes": 1000,
   "record_xxh3_128": "fedcba98765432100123456789abcdef"
  }
 ]
}
)";
  EXPECT_EQ(EncodeLatest(latest), text);
  EXPECT_EQ(*DecodeLatest(text), latest);
}

}  // namespace
}  // namespace gemel::archive

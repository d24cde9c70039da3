// SPDX-License-Identifier: Apache-2.0
//
// The frame of every file on a server's disk (docs/formats/records.md) and what the root of a shard
// binds (common/merkle.h), for ever. Digests themselves are pinned in
// tests/unit/common_digest_test.
#include <gtest/gtest.h>

#include "common/file_frame.h"
#include "common/merkle.h"
#include "common/xxh3.h"
#include "tests/golden/golden_bytes.h"

namespace gemel {
namespace {

TEST(FileGolden, Frame) {
  EXPECT_EQ(BytesToHex(FrameFile("abc")),
            "47454d4c46494c45"  // magic GEMLFILE
            "01000000"          // version
            "0300000000000000"  // length
            "99c8b4cc"          // crc32c of the 20 bytes before it and the content
            "616263");          // content
  EXPECT_EQ(*UnframeFile(FrameFile("abc"), "path"), "abc");
}

TEST(FileGolden, FrameOfNothing) {
  EXPECT_EQ(BytesToHex(FrameFile("")),
            "47454d4c46494c45"
            "01000000"
            "0000000000000000"
            "c127282e");
}

TEST(FileGolden, CopyOfAPair) {
  EXPECT_EQ(BytesToHex(FrameCopy("abc", 9)),
            "47454d4c50414952"  // magic GEMLPAIR
            "01000000"          // version
            "0300000000000000"  // length
            "0900000000000000"  // serial
            "610f84a3"          // crc32c of the 28 bytes before it and the content
            "616263");          // content
  const std::string pair = FramePair("abc", 9);
  ASSERT_EQ(pair.size(), 2 * 20U * 1024);  // room for 16 KiB, in whole blocks with its header
  for (const size_t copy : {0U, 20U * 1024}) {
    EXPECT_EQ(pair.substr(copy, 35), FrameCopy("abc", 9)) << copy;
  }
  EXPECT_EQ(*UnframeFile(pair, "path"), "abc");
}

TEST(RootGolden, BindsJobEpochNameAttemptSequenceAndRank) {
  const ShardId shard{{"gpt", {1, 7}, 12, "step", 3}, 9};
  EXPECT_EQ(shard.RootOwner(), "gpt/1.7");
  EXPECT_EQ(shard.RootName(), "step/3/12/9");
  const std::vector<Digest128> chunks = {Xxh3_128(AsBytes("first")), Xxh3_128(AsBytes("second"))};
  EXPECT_EQ(ToHex(MerkleRoot(shard.RootOwner(), shard.RootName(), chunks, kChunkBytes + 6,
                             static_cast<uint32_t>(kChunkBytes))),
            "c7428e5ce8d782814295c6b34e6e2369");
}

}  // namespace
}  // namespace gemel

// SPDX-License-Identifier: Apache-2.0
//
// The frame of every file on a server's disk (docs/formats/records.md) and what the root of a shard
// binds (common/merkle.h), for ever. Digests themselves are pinned in
// tests/unit/common_digest_test.
#include <gtest/gtest.h>

#include "common/disk_files.h"
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

// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <vector>

#include "client/core/chunk_filler.h"

namespace gemel {
namespace {

constexpr uint64_t kBytes = 2 * kChunkBytes + 10;

class ChunkFillerTest : public ::testing::Test {
 protected:
  ChunkFillerTest() : memory_(kBytes), source_(kBytes) {
    for (size_t i = 0; i < source_.size(); ++i) {
      source_[i] = static_cast<std::byte>(i * 31 + i / 257);
    }
  }

  // The shard in two places, the first of one chunk.
  std::vector<MutableByteSpan> Places() {
    const MutableByteSpan all(memory_);
    return {all.first(kChunkBytes), all.subspan(kChunkBytes)};
  }

  std::vector<std::byte> memory_;
  std::vector<std::byte> source_;
};

TEST_F(ChunkFillerTest, HashesTheSameHoweverTheBytesCome) {
  for (const size_t step : {size_t{1000}, size_t{kChunkBytes}, size_t{kBytes}}) {
    ChunkFiller filler(Places(), kBytes);
    for (size_t at = 0; at < kBytes; at += step) {
      const size_t size = std::min<size_t>(step, kBytes - at);
      ASSERT_TRUE(filler.Append(ByteSpan(source_).subspan(at, size)).ok());
    }
    ASSERT_TRUE(filler.complete()) << step;
    EXPECT_EQ(memory_, source_) << step;
    for (uint32_t chunk = 0; chunk < 3; ++chunk) {
      const size_t at = chunk * kChunkBytes;
      const ByteSpan bytes = ByteSpan(source_).subspan(at, std::min(kChunkBytes, kBytes - at));
      EXPECT_EQ(filler.digest(chunk), Xxh3_128(bytes)) << step;
    }
  }
}

TEST_F(ChunkFillerTest, TellsOfAChunkWhenItIsWhole) {
  ChunkFiller filler(Places(), kBytes);
  ASSERT_TRUE(filler.Append(ByteSpan(source_).first(kChunkBytes - 1)).ok());
  EXPECT_EQ(filler.filled(), 0U);
  ASSERT_TRUE(filler.Append(ByteSpan(source_).subspan(kChunkBytes - 1, 1)).ok());
  EXPECT_EQ(filler.filled(), 1U);
  EXPECT_FALSE(filler.complete());
}

TEST_F(ChunkFillerTest, RefusesMoreThanItsBytesAndKeepsWhatItHas) {
  ChunkFiller filler(Places(), kBytes);
  ASSERT_TRUE(filler.Append(source_).ok());
  const absl::Status status = filler.Append(ByteSpan(source_).first(1));
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(filler.appended(), kBytes);
}

TEST_F(ChunkFillerTest, IsCompleteAtOnceWithoutBytes) {
  ChunkFiller filler({}, 0);
  EXPECT_TRUE(filler.complete());
  EXPECT_TRUE(filler.Append({}).ok());
}

}  // namespace
}  // namespace gemel

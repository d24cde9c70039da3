// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "common/errors.h"
#include "common/ids.h"

namespace gemel {
namespace {

TEST(Ids, TextAndBytesGoBothWays) {
  Random random(3);
  const ServerId id = ServerId::Draw(&random);
  ASSERT_FALSE(id.IsZero());
  EXPECT_EQ(id.ToHex().size(), 32U);
  EXPECT_EQ(id.ToShort(), id.ToHex().substr(0, 8));
  EXPECT_EQ(*ServerId::FromHex(id.ToHex()), id);
  EXPECT_EQ(*ServerId::FromBytes(id.ToBytes()), id);
  EXPECT_NE(ServerId::Draw(&random), id);
}

TEST(Ids, TextIsTheBytesInOrder) {
  ClusterId id;
  for (size_t i = 0; i < id.bytes.size(); ++i) {
    id.bytes[i] = static_cast<uint8_t>(i * 17);
  }
  EXPECT_EQ(id.ToHex(), "00112233445566778899aabbccddeeff");
}

TEST(Ids, BadTextIsRefusedByName) {
  for (const std::string& text : {std::string(), std::string(31, 'a'), std::string(33, 'a'),
                                  std::string(32, 'A'), std::string(31, 'a') + "g"}) {
    auto parsed = Incarnation::FromHex(text);
    ASSERT_TRUE(absl::IsInvalidArgument(parsed.status())) << text;
    EXPECT_NE(MessageOf(parsed.status()).find("incarnation"), std::string_view::npos);
  }
  EXPECT_TRUE(absl::IsInvalidArgument(EpochToken::FromBytes("short").status()));
}

TEST(Ids, EpochsOrderByGenerationThenCounter) {
  EXPECT_LT((EpochId{1, 9}), (EpochId{2, 0}));
  EXPECT_LT((EpochId{2, 0}), (EpochId{2, 1}));
  EXPECT_TRUE(EpochId().IsNone());
  EXPECT_FALSE((EpochId{0, 1}).IsNone());
  EXPECT_EQ((EpochId{1, 7}).ToString(), "1.7");
}

TEST(Ids, AnAbortIsToldOnceHoweverManyPassItOn) {
  const SnapshotId id{"gpt", {1, 7}, 12, "7", 0};
  const std::string told =
      "gpt@7 (epoch 1.7, sequence 12, attempt 0) was aborted: the disk is full";
  EXPECT_EQ(id.AbortedBecause("the disk is full"), told);
  EXPECT_EQ(id.AbortedBecause(told), told);
  EXPECT_EQ(id.AbortedBecause(id.ToString() + ": the disk is full"), told);
  const SnapshotId other{"gpt", {1, 7}, 11, "6", 0};
  EXPECT_EQ(id.AbortedBecause(other.ToString() + " is older"),
            id.ToString() + " was aborted: " + other.ToString() + " is older");
}

TEST(Ids, ShardsDifferInTheirRootWhereverTheyDiffer) {
  const ShardId base{{"gpt", {1, 7}, 12, "step-7", 0}, 3};
  EXPECT_EQ(base.ToString(), "rank 3 of gpt@step-7 (epoch 1.7, sequence 12, attempt 0)");
  auto root_of = [](const ShardId& id) { return id.RootOwner() + "\n" + id.RootName(); };
  std::vector<ShardId> others(6, base);
  others[0].rank = 4;
  others[1].snapshot.attempt = 1;
  others[2].snapshot.sequence = 13;
  others[3].snapshot.name = "step-8";
  others[4].snapshot.epoch.counter = 8;
  others[5].snapshot.job = "gpt/1.7";
  for (const ShardId& other : others) {
    EXPECT_NE(root_of(base), root_of(other)) << other.ToString();
  }
}

}  // namespace
}  // namespace gemel

// SPDX-License-Identifier: Apache-2.0
//
// Shards that are written before they have a name, through the C++ header.
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/unit/client_fixture.h"

namespace gemel {
namespace {

class ClientStage : public ClientLibrary {
 protected:
  StageWriter Staged(std::span<const std::byte> content) {
    auto stage = client_.OpenStage({.shard_bytes = content.size(), .timeout_ms = 5000});
    EXPECT_TRUE(stage) << stage.status().message();
    StageWriter staged = std::move(*stage);
    const size_t half = content.size() / 2;
    EXPECT_TRUE(staged.Write(0, content.first(half)).ok());
    EXPECT_TRUE(staged.Write(half, content.subspan(half)).ok());
    const Status sealed = staged.Seal();
    EXPECT_TRUE(sealed.ok()) << sealed.message();
    return staged;
  }

  Result<std::optional<SnapshotWriter>> OpenStaged(Client* by, const std::array<uint8_t, 16>& id,
                                                   uint64_t bytes) {
    return by->OpenSnapshot({.job = "gpt",
                             .epoch = epoch_,
                             .name = "7",
                             .shard_bytes = bytes,
                             .copies = 1,
                             .timeout_ms = 5000,
                             .stage = id});
  }

  // All that went before on this connection was handled.
  void Settle() { ASSERT_TRUE(client_.AcquireEpoch("gpt", DrawToken())); }
};

TEST_F(ClientStage, IsOpenedUnderANameByAnotherClient) {
  const std::vector<std::byte> content = Content(kShardBytes, 1);
  const StageWriter stage = Staged(content);
  auto other = Client::Connect({.address = server_.address(), .timeout_ms = 5000});
  ASSERT_TRUE(other);
  ASSERT_TRUE(other->AcquireEpoch("gpt", DrawToken()));
  auto opened = OpenStaged(&*other, stage.id(), content.size());
  ASSERT_TRUE(opened && opened->has_value()) << opened.status().message();
  SnapshotWriter& writer = **opened;
  EXPECT_EQ(writer.Write(0, std::span(content).first(1)).code(), GEMEL_FAILED_PRECONDITION);
  ASSERT_TRUE(writer.Seal().ok());
  EXPECT_EQ(writer.Seal().code(), GEMEL_FAILED_PRECONDITION);
  // The fake compares the root of digests and name.
  auto commit = writer.Wait(5000);
  ASSERT_TRUE(commit) << commit.status().message();
  auto read = other->BeginRead({.job = "gpt", .name = "7"});
  ASSERT_TRUE(read);
  std::vector<std::byte> back(content.size());
  ASSERT_TRUE(read->Read(0, 0, back).ok());
  EXPECT_EQ(back, content);
}

TEST_F(ClientStage, IsFreedWithItsHandleUnlessItWasOpened) {
  const std::vector<std::byte> content = Content(100, 2);
  {
    const StageWriter stage = Staged(content);
  }
  Settle();
  EXPECT_EQ(server_.drops.load(), 1);
  {
    auto unfinished = client_.OpenStage({.shard_bytes = 100});
    ASSERT_TRUE(unfinished);
  }
  Settle();
  EXPECT_EQ(server_.drops.load(), 2);
}

TEST_F(ClientStage, KeepsItsCallsInOrder) {
  const std::vector<std::byte> content = Content(100, 3);
  auto stage = client_.OpenStage({.shard_bytes = 150});
  ASSERT_TRUE(stage);
  EXPECT_EQ(stage->Write(1, content).code(), GEMEL_INVALID_ARGUMENT);
  ASSERT_TRUE(stage->Write(0, content).ok());
  EXPECT_EQ(stage->Write(100, content).code(), GEMEL_INVALID_ARGUMENT) << "more than it has";
  const Status early = stage->Seal();
  EXPECT_EQ(early.code(), GEMEL_FAILED_PRECONDITION);
  EXPECT_NE(early.message().find("100 of 150"), std::string::npos) << early.message();
  ASSERT_TRUE(stage->Write(100, std::span(content).first(50)).ok());
  ASSERT_TRUE(stage->Seal().ok());
  EXPECT_EQ(stage->Seal().code(), GEMEL_FAILED_PRECONDITION);
  EXPECT_EQ(stage->Write(150, {}).code(), GEMEL_FAILED_PRECONDITION);
}

TEST_F(ClientStage, WaitsForMemoryAsLongAsItMay) {
  server_.faults.no_memory = 3;
  auto stage = client_.OpenStage({.shard_bytes = 100, .timeout_ms = 5000});
  EXPECT_TRUE(stage) << stage.status().message();
  EXPECT_EQ(server_.faults.no_memory.load(), 0);
  server_.faults.no_memory = -1;
  const Status none = client_.OpenStage({.shard_bytes = 100, .timeout_ms = 30}).status();
  EXPECT_EQ(none.code(), GEMEL_RESOURCE_EXHAUSTED);
  EXPECT_NE(none.message().find("7 bytes are free"), std::string::npos) << none.message();
}

TEST_F(ClientStage, IsNotOpenedWhenItIsUnknownOrNotWhole) {
  std::array<uint8_t, 16> id{};
  EXPECT_EQ(OpenStaged(&client_, id, 100).status().code(), GEMEL_INVALID_ARGUMENT);
  id[3] = 1;
  EXPECT_EQ(OpenStaged(&client_, id, 100).status().code(), GEMEL_NOT_FOUND);
  const StageWriter stage = Staged(Content(100, 4));
  EXPECT_EQ(OpenStaged(&client_, stage.id(), 101).status().code(), GEMEL_FAILED_PRECONDITION);
  server_.faults.wrong_digests = true;
  EXPECT_EQ(OpenStaged(&client_, stage.id(), 100).status().code(), GEMEL_INTERNAL);
  EXPECT_EQ(server_.aborts.load(), 1) << "the other ranks must not wait";
}

TEST_F(ClientStage, RefusesSizesThatMakeNoSense) {
  EXPECT_EQ(client_.OpenStage({.shard_bytes = 0}).status().code(), GEMEL_INVALID_ARGUMENT);
  EXPECT_EQ(client_.OpenStage({.shard_bytes = 9, .layout_bytes = 10}).status().code(),
            GEMEL_INVALID_ARGUMENT);
}

TEST_F(ClientStage, FailsWhenItsClientIsClosed) {
  const std::vector<std::byte> content = Content(100, 5);
  auto stage = client_.OpenStage({.shard_bytes = 100});
  ASSERT_TRUE(stage);
  client_.Close();
  EXPECT_EQ(stage->Write(0, content).code(), GEMEL_FAILED_PRECONDITION);
  EXPECT_EQ(stage->Seal().code(), GEMEL_FAILED_PRECONDITION);
}

}  // namespace
}  // namespace gemel

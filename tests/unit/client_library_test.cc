// SPDX-License-Identifier: Apache-2.0
//
// The C++ header over the C ABI, against a server on a real unix socket.
#include <gtest/gtest.h>

#include <array>
#include <string>
#include <thread>
#include <vector>

#include "client/core/shard_fill.h"
#include "tests/unit/client_fixture.h"

namespace gemel {
namespace {

TEST_F(ClientLibrary, TellsWhichServerItReached) {
  EXPECT_EQ(client_.cluster_id(), "abababababababababababababababab");
  EXPECT_EQ(client_.server_id(), "cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd");
}

TEST_F(ClientLibrary, GivesBackEveryByteThatWasWrittenInOddPieces) {
  const std::vector<std::byte> content = Content(kShardBytes, 1);
  auto opened = Open(content.size());
  ASSERT_TRUE(opened) << opened.status().message();
  SnapshotWriter& writer = **opened;
  const std::array<size_t, 4> pieces = {1, 777, kChunkBytes, 3 * kMiB - 5};
  size_t at = 0;
  for (size_t i = 0; at < content.size(); ++i) {
    const size_t size = std::min(pieces[i % pieces.size()], content.size() - at);
    ASSERT_TRUE(writer.Write(at, std::span(content).subspan(at, size)).ok());
    at += size;
  }
  ASSERT_TRUE(writer.Seal().ok());
  auto commit = writer.Wait(5000);
  ASSERT_TRUE(commit) << commit.status().message();
  EXPECT_EQ(commit->sequence, writer.sequence());
  EXPECT_EQ(commit->copies, 1U);

  Restore restore = Begun();
  EXPECT_STREQ(restore.info().name, "7");
  EXPECT_EQ(restore.Shard(0)->bytes, content.size());
  // Two halves, the later first, into their places.
  std::vector<std::byte> back(content.size());
  const size_t half = content.size() / 2;
  const std::array<Range, 2> ranges = {Range{0, half, content.size() - half, back.data() + half},
                                       Range{0, 0, half, back.data()}};
  const Status read = restore.Read(ranges);
  ASSERT_TRUE(read.ok()) << read.message();
  EXPECT_EQ(back, content);
  ASSERT_TRUE(restore.Report(true).ok());
  auto end = restore.Wait(5000);
  ASSERT_TRUE(end) << end.status().message();
  EXPECT_EQ(end->outcome, GEMEL_RESTORE_VERIFIED);
  EXPECT_EQ(end->local_bytes, content.size());
}

TEST_F(ClientLibrary, CopiesEachByteOnceIntoASaveAndOnceOutOfARestore) {
  const std::vector<std::byte> content = Content(kShardBytes, 1);
  const uint64_t before = CopiedBytes();
  ASSERT_TRUE(Saved(content).Wait(5000));
  EXPECT_EQ(CopiedBytes() - before, kShardBytes);
  Restore restore = Begun();
  std::vector<std::byte> back(content.size());
  ASSERT_TRUE(restore.Read(0, 0, back).ok());
  EXPECT_EQ(CopiedBytes() - before, 2 * kShardBytes);
  ASSERT_TRUE(restore.Report(true).ok());
  ASSERT_TRUE(restore.Wait(5000));
  EXPECT_EQ(CopiedBytes() - before, 2 * kShardBytes);
}

TEST_F(ClientLibrary, TellsOfChunksWhileAShardIsFilledButNotAtOnce) {
  const std::vector<std::byte> content = Content(kShardBytes, 1);
  auto opened = Open(content.size());
  ASSERT_TRUE(opened && opened->has_value()) << opened.status().message();
  SnapshotWriter writer = std::move(**opened);
  ASSERT_TRUE(writer.Write(0, std::span(content).first(kChunkBytes)).ok());
  for (int turn = 0; turn < 10'000'000 && server_.first_report_ms < 0; ++turn) {
    std::this_thread::yield();  // as long as it may take a busy machine
  }
  EXPECT_GE(server_.first_report_ms, ShardFill::kReportAfter / 1ms);
  ASSERT_TRUE(writer.Write(kChunkBytes, std::span(content).subspan(kChunkBytes)).ok());
  ASSERT_TRUE(writer.Seal().ok());
  EXPECT_TRUE(writer.Wait(5000));
}

TEST_F(ClientLibrary, KeepsAnEmptyShard) {
  SnapshotWriter writer = Saved({});
  EXPECT_TRUE(writer.Wait(5000));
}

TEST_F(ClientLibrary, RefusesBytesThatAreNotNext) {
  const std::vector<std::byte> content = Content(100, 2);
  auto opened = Open(150);
  SnapshotWriter& writer = **opened;
  EXPECT_EQ(writer.Write(1, content).code(), GEMEL_INVALID_ARGUMENT);
  EXPECT_TRUE(writer.Write(0, content).ok());
  EXPECT_EQ(writer.Write(0, content).code(), GEMEL_INVALID_ARGUMENT);
  EXPECT_EQ(writer.Write(100, content).code(), GEMEL_INVALID_ARGUMENT);
}

TEST_F(ClientLibrary, KeepsTheCallsOfAWriterInOrder) {
  const std::vector<std::byte> content = Content(100, 3);
  auto opened = Open(content.size());
  SnapshotWriter& writer = **opened;
  EXPECT_EQ(writer.Wait(10).status().code(), GEMEL_FAILED_PRECONDITION);
  EXPECT_EQ(writer.Seal().code(), GEMEL_FAILED_PRECONDITION);
  ASSERT_TRUE(writer.Write(0, content).ok());
  ASSERT_TRUE(writer.Seal().ok());
  EXPECT_EQ(writer.Seal().code(), GEMEL_FAILED_PRECONDITION);
  EXPECT_EQ(writer.Write(100, content).code(), GEMEL_FAILED_PRECONDITION);
  EXPECT_TRUE(writer.Wait(5000));
  EXPECT_TRUE(writer.Wait(5000));
}

TEST_F(ClientLibrary, AbortsAWriterThatIsDroppedBeforeItsSeal) {
  {
    auto opened = Open(100);
    ASSERT_TRUE(opened && opened->has_value());
  }
  // The abort went before on the same connection.
  ASSERT_TRUE(client_.AcquireEpoch("gpt", DrawToken()));
  EXPECT_EQ(server_.aborts.load(), 1);
}

TEST_F(ClientLibrary, GivesNoWriterWhenTheClusterSkips) {
  server_.faults.skip = true;
  auto opened = Open(100);
  ASSERT_TRUE(opened) << opened.status().message();
  EXPECT_FALSE(opened->has_value());
}

TEST_F(ClientLibrary, GivesNoRestoreWhenNothingWasCommitted) {
  auto restore = client_.BeginRestore({.job = "gpt", .epoch = epoch_});
  ASSERT_TRUE(restore) << restore.status().message();
  EXPECT_FALSE(restore->has_value());
}

TEST_F(ClientLibrary, HandsOutNoByteThatFailsItsDigestAndNamesTheShard) {
  SnapshotWriter writer = Saved(Content(kShardBytes, 4));
  ASSERT_TRUE(writer.Wait(5000));
  server_.faults.wrong_digests = true;
  Restore restore = Begun();
  std::vector<std::byte> back(10, std::byte{9});
  const Status read = restore.Read(0, 0, back);
  EXPECT_EQ(read.code(), GEMEL_DATA_LOSS);
  EXPECT_NE(read.message().find("chunk 0 of shard 0"), std::string::npos) << read.message();
  EXPECT_EQ(back, std::vector<std::byte>(10, std::byte{9}));
  ASSERT_TRUE(restore.Report(false, read.message()).ok());
  EXPECT_EQ(server_.unreadable_shards.load(), 1);
  auto end = restore.Wait(5000);
  ASSERT_TRUE(end);
  EXPECT_EQ(end->outcome, GEMEL_RESTORE_MOVED);
}

TEST_F(ClientLibrary, ReadsAgainWhatWasUnreadableAndIsNotLost) {
  SnapshotWriter writer = Saved(Content(kChunkBytes + 100, 4));
  ASSERT_TRUE(writer.Wait(5000));
  server_.faults.wrong_digests = true;
  server_.faults.nothing_lost = true;
  Restore restore = Begun();
  std::vector<std::byte> back(10);
  ASSERT_FALSE(restore.Read(0, 0, back).ok());
  ASSERT_TRUE(restore.Report(false, "unreadable").ok());
  auto end = restore.Wait(5000);
  ASSERT_TRUE(end) << end.status().message();
  EXPECT_EQ(end->outcome, GEMEL_RESTORE_READ_AGAIN);
}

TEST_F(ClientLibrary, RefusesRangesOutsideTheShard) {
  SnapshotWriter writer = Saved(Content(100, 5));
  ASSERT_TRUE(writer.Wait(5000));
  Restore restore = Begun();
  std::vector<std::byte> back(101);
  EXPECT_EQ(restore.Read(0, 0, back).code(), GEMEL_INVALID_ARGUMENT);
  EXPECT_EQ(restore.Read(1, 0, std::span(back).first(1)).code(), GEMEL_INVALID_ARGUMENT);
  EXPECT_EQ(restore.Shard(1).status().code(), GEMEL_INVALID_ARGUMENT);
}

TEST_F(ClientLibrary, TellsThatACommitIsNotThereYetAndMayBeAskedAgain) {
  server_.faults.hold_commits = true;
  SnapshotWriter writer = Saved(Content(100, 6));
  EXPECT_EQ(writer.Wait(50).status().code(), GEMEL_DEADLINE_EXCEEDED);
  server_.faults.hold_commits = false;
  EXPECT_TRUE(writer.Wait(5000));
}

TEST_F(ClientLibrary, RefusesOptionsThatMakeNoSense) {
  auto code = [this](Client::SnapshotOptions options) {
    options.epoch = epoch_;
    return client_.OpenSnapshot(options).status().code();
  };
  EXPECT_EQ(code({.job = "", .name = "1"}), GEMEL_INVALID_ARGUMENT);
  EXPECT_EQ(code({.job = "gpt", .name = ""}), GEMEL_INVALID_ARGUMENT);
  EXPECT_EQ(code({.job = "gpt", .name = "1", .rank = 2, .world_size = 2}), GEMEL_INVALID_ARGUMENT);
  EXPECT_EQ(code({.job = "gpt", .name = "1", .layout_bytes = 1}), GEMEL_INVALID_ARGUMENT);
  EXPECT_EQ(code({.job = "gpt", .name = "1", .copies = 1, .min_copies = 2}),
            GEMEL_INVALID_ARGUMENT);
  EXPECT_EQ(code({.job = "gpt", .name = "1", .strategy = static_cast<Client::Strategy>(2)}),
            GEMEL_INVALID_ARGUMENT);
  EXPECT_EQ(code({.job = "other", .name = "1"}), GEMEL_FAILED_PRECONDITION);  // no epoch acquired
  EXPECT_EQ(client_.AcquireEpoch("gpt", Token{}).status().code(), GEMEL_INVALID_ARGUMENT);
}

TEST_F(ClientLibrary, EndsCallsWhenItIsClosedAndFreesHandlesInAnyOrder) {
  SnapshotWriter writer = Saved(Content(100, 7));
  client_.Close();
  EXPECT_EQ(writer.Wait(5000).status().code(), GEMEL_FAILED_PRECONDITION);
  EXPECT_EQ(client_.AcquireEpoch("gpt", DrawToken()).status().code(), GEMEL_FAILED_PRECONDITION);
  client_ = Client();
  EXPECT_EQ(writer.Wait(5000).status().code(), GEMEL_FAILED_PRECONDITION);
}

TEST_F(ClientLibrary, LetsGoOfAWaitThatIsInterrupted) {
  std::atomic<int> asked{0};
  gemel_client_options options{};
  options.struct_bytes = sizeof(options);
  const std::string address = server_.address();
  options.address = address.c_str();
  options.timeout_ms = 5000;
  options.context = &asked;
  options.interrupted = [](void* context) {
    *static_cast<std::atomic<int>*>(context) += 1;
    return 1;
  };
  gemel_client* client = nullptr;
  // The hello itself takes less than one look at the interrupt.
  ASSERT_TRUE(Status(gemel_client_connect(&options, &client)).ok());
  gemel_epoch epoch{};
  ASSERT_TRUE(Status(gemel_epoch_acquire(client, "gpt", DrawToken().data(), &epoch)).ok());
  gemel_snapshot_options open{};
  open.struct_bytes = sizeof(open);
  open.job = "gpt";
  open.name = "1";
  open.epoch = epoch;
  open.world_size = 1;
  open.copies = 1;
  open.timeout_ms = 5000;
  gemel_writer* handle = nullptr;
  ASSERT_TRUE(Status(gemel_snapshot_open(client, &open, &handle)).ok());
  SnapshotWriter writer(handle);
  ASSERT_TRUE(writer.Seal().ok());
  server_.faults.hold_commits = true;
  EXPECT_EQ(writer.Wait(60'000).status().code(), GEMEL_CANCELLED);
  EXPECT_GT(asked.load(), 0);
  gemel_client_free(client);
}

TEST(ClientConnect, NamesTheAddressWhereNobodyAnswers) {
  auto client = Client::Connect({.address = "/nowhere/server.sock", .timeout_ms = 1000});
  ASSERT_FALSE(client);
  EXPECT_EQ(client.status().code(), GEMEL_UNAVAILABLE);
  EXPECT_NE(client.status().message().find("/nowhere/server.sock"), std::string::npos);
}

TEST(ClientConnect, RefusesWhatIsNoAddressOfThisHost) {
  for (const char* address : {"", "tcp://127.0.0.1:7611", "server.sock", "unix://"}) {
    auto client = Client::Connect({.address = address});
    EXPECT_EQ(client.status().code(), GEMEL_INVALID_ARGUMENT) << address;
  }
}

TEST(ClientConnect, RefusesAServerOfAnotherProtocolVersion) {
  FakeServer server;
  server.faults.version = 99;
  auto client = Client::Connect({.address = server.address()});
  EXPECT_EQ(client.status().code(), GEMEL_FAILED_PRECONDITION);
  EXPECT_NE(client.status().message().find("99"), std::string::npos) << client.status().message();
}

TEST(ClientConnect, RefusesAStructureThatWasNotSized) {
  gemel_client_options options{};
  gemel_client* client = nullptr;
  EXPECT_EQ(Status(gemel_client_connect(&options, &client)).code(), GEMEL_INVALID_ARGUMENT);
  EXPECT_EQ(client, nullptr);
}

}  // namespace
}  // namespace gemel

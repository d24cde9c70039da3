// SPDX-License-Identifier: Apache-2.0
//
// What the library does without an epoch: reading by name, listing, removing; and options of
// callers that were compiled against an earlier header.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstring>

#include "tests/unit/client_fixture.h"

namespace gemel {
namespace {

TEST_F(ClientLibrary, ReadsASnapshotByNameInAProcessWithoutAnEpoch) {
  const std::vector<std::byte> older = Content(kShardBytes, 1);
  ASSERT_TRUE(Saved(older, "7").Wait(5000));
  ASSERT_TRUE(Saved(Content(100, 2), "8").Wait(5000));
  auto other = Client::Connect({.address = server_.address(), .timeout_ms = 5000});
  ASSERT_TRUE(other) << other.status().message();
  auto read = other->BeginRead({.job = "gpt", .name = "7", .timeout_ms = 5000});
  ASSERT_TRUE(read) << read.status().message();
  EXPECT_STREQ(read->info().name, "7");
  std::vector<std::byte> back(older.size());
  ASSERT_TRUE(read->Read(0, 0, back).ok());
  EXPECT_EQ(back, older);
  auto newest = other->BeginRead({.job = "gpt"});
  ASSERT_TRUE(newest) << newest.status().message();
  EXPECT_STREQ(newest->info().name, "8");
}

// More than is fetched in one go, in ranges that end anywhere, overlap and come in any order.
TEST_F(ClientLibrary, ReadsRangesOfManyParts) {
  const std::vector<std::byte> content = Content(40 * kMiB + 12345, 1);
  ASSERT_TRUE(Saved(content, "7").Wait(5000));
  auto read = client_.BeginRead({.job = "gpt", .name = "7", .timeout_ms = 20000});
  ASSERT_TRUE(read) << read.status().message();
  const std::vector<std::pair<uint64_t, uint64_t>> wanted = {{33 * kMiB + 5, 7 * kMiB + 12340},
                                                             {0, 1},
                                                             {100, 20 * kMiB},
                                                             {15 * kMiB, 2 * kMiB + 1},
                                                             {17 * kMiB - 1, 2},
                                                             {20 * kMiB + 100, 0},
                                                             {31 * kMiB + 77, 2 * kMiB}};
  std::vector<std::vector<std::byte>> back;
  std::vector<Range> ranges;
  for (const auto& [offset, size] : wanted) {
    back.emplace_back(size);
    ranges.push_back({0, offset, size, back.back().data()});
  }
  const Status status = read->Read(ranges);
  ASSERT_TRUE(status.ok()) << status.message();
  for (size_t i = 0; i < wanted.size(); ++i) {
    const auto first = content.begin() + static_cast<ptrdiff_t>(wanted[i].first);
    EXPECT_TRUE(std::equal(back[i].begin(), back[i].end(), first)) << wanted[i].first;
  }
  std::vector<std::byte> all(content.size());
  ASSERT_TRUE(read->Read(0, 0, all).ok());
  EXPECT_EQ(all, content);
}

TEST_F(ClientLibrary, NeitherReportsNorAwaitsARead) {
  ASSERT_TRUE(Saved(Content(100, 1)).Wait(5000));
  {
    auto read = client_.BeginRead({.job = "gpt", .name = "7"});
    ASSERT_TRUE(read) << read.status().message();
    EXPECT_EQ(read->Report(true).code(), GEMEL_FAILED_PRECONDITION);
    const Status waited = read->Wait(100).status();
    EXPECT_EQ(waited.code(), GEMEL_FAILED_PRECONDITION);
    EXPECT_NE(waited.message().find("7"), std::string::npos) << waited.message();
    EXPECT_EQ(server_.releases.load(), 0);
  }
  // The release went before on the same connection.
  ASSERT_TRUE(client_.AcquireEpoch("gpt", DrawToken()));
  EXPECT_EQ(server_.releases.load(), 1);
}

TEST_F(ClientLibrary, HandsOutNoByteOfAReadThatFailsItsDigest) {
  ASSERT_TRUE(Saved(Content(kShardBytes, 1)).Wait(5000));
  server_.faults.wrong_digests = true;
  auto read = client_.BeginRead({.job = "gpt", .name = "7"});
  ASSERT_TRUE(read);
  std::vector<std::byte> back(10, std::byte{9});
  EXPECT_EQ(read->Read(0, 0, back).code(), GEMEL_DATA_LOSS);
  EXPECT_EQ(back, std::vector<std::byte>(10, std::byte{9}));
}

// A whole chunk is hashed while it is copied: what does not match is wiped.
TEST_F(ClientLibrary, LeavesNoByteOfAWholeChunkThatFailsItsDigest) {
  ASSERT_TRUE(Saved(Content(kShardBytes, 1)).Wait(5000));
  server_.faults.wrong_digests = true;
  auto read = client_.BeginRead({.job = "gpt", .name = "7"});
  ASSERT_TRUE(read);
  std::vector<std::byte> back(kShardBytes, std::byte{9});
  EXPECT_EQ(read->Read(0, 0, back).code(), GEMEL_DATA_LOSS);
  std::vector<std::byte> expected(kShardBytes, std::byte{9});
  std::fill_n(expected.begin(), std::min<uint64_t>(kShardBytes, kChunkBytes), std::byte{0});
  EXPECT_EQ(back, expected);
}

TEST_F(ClientLibrary, SaysThatANameIsNotThere) {
  auto read = client_.BeginRead({.job = "gpt", .name = "9"});
  EXPECT_EQ(read.status().code(), GEMEL_NOT_FOUND);
  EXPECT_EQ(client_.BeginRead({.job = ""}).status().code(), GEMEL_INVALID_ARGUMENT);
  gemel_restore* handle = reinterpret_cast<gemel_restore*>(this);
  gemel_read_options unsized{};
  gemel_client* raw = nullptr;
  EXPECT_EQ(Status(gemel_read_begin(raw, &unsized, &handle)).code(), GEMEL_INVALID_ARGUMENT);
  EXPECT_EQ(handle, nullptr);
}

TEST_F(ClientLibrary, ListsWhatIsCommitted) {
  auto none = client_.List("gpt");
  ASSERT_TRUE(none) << none.status().message();
  EXPECT_EQ(none->size(), 0U);
  ASSERT_TRUE(Saved(Content(100, 1), "7").Wait(5000));
  ASSERT_TRUE(Saved(Content(200, 2), "8").Wait(5000));
  auto listing = client_.List("gpt");
  ASSERT_TRUE(listing) << listing.status().message();
  ASSERT_EQ(listing->size(), 2U);
  auto entry = listing->Entry(1);
  ASSERT_TRUE(entry);
  EXPECT_STREQ(entry->name, "8");
  EXPECT_EQ(entry->sequence, 2U);
  EXPECT_EQ(entry->world_size, 1U);
  EXPECT_EQ(entry->bytes, 200U);
  EXPECT_EQ(entry->committed_unix_s, 1'700'000'000);
  EXPECT_EQ(entry->persisted, 0);
  EXPECT_NE(entry->in_memory, 0);
  EXPECT_EQ(entry->epoch.counter, epoch_.counter);
  EXPECT_EQ(listing->Entry(2).status().code(), GEMEL_INVALID_ARGUMENT);
  EXPECT_EQ(client_.List("").status().code(), GEMEL_INVALID_ARGUMENT);
}

TEST_F(ClientLibrary, RemovesByName) {
  ASSERT_TRUE(Saved(Content(100, 1), "7").Wait(5000));
  EXPECT_TRUE(client_.Remove("gpt", "7").ok());
  EXPECT_EQ(client_.Remove("gpt", "7").code(), GEMEL_NOT_FOUND);
  EXPECT_EQ(client_.Remove("gpt", "").code(), GEMEL_INVALID_ARGUMENT) << "not the whole job";
}

TEST_F(ClientLibrary, PassesOnWhichSnapshotsGoToDisk) {
  auto opened = client_.OpenSnapshot({.job = "gpt",
                                      .epoch = epoch_,
                                      .name = "7",
                                      .shard_bytes = 100,
                                      .copies = 1,
                                      .persist = {.every = 10, .keep = 3}});
  ASSERT_TRUE(opened) << opened.status().message();
  EXPECT_EQ(server_.persist_every.load(), 10U);
  EXPECT_EQ(server_.persist_keep.load(), 3U);
}

// Fields that a caller's header did not have yet are not read: they are what lies behind them.
TEST_F(ClientLibrary, TakesOptionsOfAnEarlierHeader) {
  gemel_snapshot_options whole;
  std::memset(&whole, 0x5a, sizeof(whole));
  constexpr size_t kBefore = offsetof(gemel_snapshot_options, persist_every);
  std::memset(&whole, 0, kBefore);
  whole.struct_bytes = kBefore;
  whole.job = "gpt";
  whole.epoch = epoch_;
  whole.name = "7";
  whole.world_size = 1;
  whole.shard_bytes = 100;
  whole.copies = 1;
  whole.timeout_ms = 5000;
  gemel_client_options options{};
  options.struct_bytes = sizeof(options);
  const std::string address = server_.address();
  options.address = address.c_str();
  options.timeout_ms = 5000;
  gemel_client* client = nullptr;
  ASSERT_TRUE(Status(gemel_client_connect(&options, &client)).ok());
  gemel_epoch epoch{};
  ASSERT_TRUE(Status(gemel_epoch_acquire(client, "gpt", DrawToken().data(), &epoch)).ok());
  gemel_writer* handle = nullptr;
  const Status opened(gemel_snapshot_open(client, &whole, &handle));
  ASSERT_TRUE(opened.ok()) << opened.message();
  SnapshotWriter writer(handle);
  EXPECT_EQ(server_.persist_every.load(), 0U);
  EXPECT_EQ(server_.persist_keep.load(), 0U);
  whole.struct_bytes = kBefore - 1;
  EXPECT_EQ(Status(gemel_snapshot_open(client, &whole, &handle)).code(), GEMEL_INVALID_ARGUMENT);
  gemel_client_free(client);
}

}  // namespace
}  // namespace gemel

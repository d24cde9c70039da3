// SPDX-License-Identifier: Apache-2.0
//
// Membership and directives of real servers.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/server_world.h"

namespace gemel::testing {
namespace {

constexpr uint64_t kBytes = 3 * kMiB + 5;

struct Running : ServerWorld {
  Running() : ServerWorld(3), client(&world, "server-0") {
    GEMEL_CHECK(client.Hello("server-0").ok());
  }

  ShardId Committed(const std::string& name) { return CommitShard(&client, name, kBytes); }

  uint32_t Without(const ShardId& shard) {
    return server(1).objects().Find(shard) == nullptr ? 1 : 2;
  }

  // Told to server-0, it is at it until its disk is fast again.
  pb::Directive SlowStore() {
    disks[0]->set_slowness(1000);
    pb::Directive store;
    store.mutable_store_commit()->set_record(fake().saves.at(1).record);
    store.mutable_store_commit()->set_manifest(fake().saves.at(1).manifest);
    Random random(7);
    store.mutable_store_commit()->add_members(ServerId::Draw(&random).ToBytes());
    return store;
  }

  pb::Directive Verify(uint64_t sequence) {
    pb::Directive verify;
    *verify.mutable_verify_shard()->mutable_object() = fake().Held(fake().saves.at(sequence), 0);
    return verify;
  }

  TestClient client;
};

TEST(Directives, StoreCommitIsOnDiskBeforeItIsAcknowledged) {
  Running r;
  const ShardId shard = r.Committed("7");
  EXPECT_TRUE(r.server(0).identity().HasRecord(shard.snapshot));
  const auto files = r.disks[0]->contents();
  EXPECT_TRUE(files.contains("records/job-gpt/00000000000000000001"));
  EXPECT_TRUE(files.contains("manifests/job-gpt/00000000000000000001"));
}

TEST(Directives, StoreCommitAddsToTheLastMembersBeforeTheRecordIsStored) {
  Running r;
  const ShardId shard = r.Committed("7");
  const std::vector<ServerId> before = r.server(1).identity().last_members();
  Random random(7);
  const ServerId other = ServerId::Draw(&random);
  pb::Directive store;
  store.mutable_store_commit()->set_record(r.fake().saves.at(1).record);
  store.mutable_store_commit()->set_manifest(r.fake().saves.at(1).manifest);
  store.mutable_store_commit()->add_members(other.ToBytes());
  ASSERT_EQ(r.Do(1, store).code(), 0U);
  std::vector<ServerId> after = before;
  after.push_back(other);
  EXPECT_THAT(r.server(1).identity().last_members(), ::testing::UnorderedElementsAreArray(after));
  store.mutable_store_commit()->add_members("not an id");
  EXPECT_EQ(r.Do(1, store).code(), static_cast<uint32_t>(absl::StatusCode::kInvalidArgument));
}

TEST(Directives, StoreCommitReportsAFullDisk) {
  Running r;
  const ShardId shard = r.Committed("7");
  r.disks[1]->set_full(true);
  pb::Directive store;
  store.mutable_store_commit()->set_record(r.fake().saves.at(1).record);
  store.mutable_store_commit()->set_manifest(r.fake().saves.at(1).manifest);
  EXPECT_EQ(r.Do(1, store).code(), static_cast<uint32_t>(absl::StatusCode::kResourceExhausted));
}

TEST(Directives, StoreCommitRefusesAManifestOfAnotherRecord) {
  Running r;
  r.Committed("7");
  r.Committed("8");
  pb::Directive store;
  store.mutable_store_commit()->set_record(r.fake().saves.at(1).record);
  store.mutable_store_commit()->set_manifest(r.fake().saves.at(2).manifest);
  EXPECT_EQ(r.Do(1, store).code(), static_cast<uint32_t>(absl::StatusCode::kDataLoss));
}

TEST(Directives, DropSnapshotForgetsRecordAndObjects) {
  Running r;
  const ShardId shard = r.Committed("7");
  pb::Directive drop;
  WriteSnapshotId(shard.snapshot, drop.mutable_drop_snapshot()->mutable_snapshot());
  ASSERT_EQ(r.Do(0, drop).code(), 0U);
  EXPECT_FALSE(r.server(0).identity().HasRecord(shard.snapshot));
  EXPECT_EQ(r.server(0).objects().Find(shard), nullptr);
  EXPECT_EQ(r.Do(0, drop).code(), 0U) << "a second time it is not there";
}

TEST(Directives, NothingBeginsThatWouldMakeAnInventoryUntrue) {
  Running r;
  const ShardId shard = r.Committed("7");
  r.fake().failures["Join"].assign(4, absl::UnavailableError("not now"));
  r.fake().named("server-0").rejoin = true;
  const uint32_t asked = r.fake().calls["Join"];
  ASSERT_TRUE(r.world.RunUntil([&] { return r.fake().calls["Join"] > asked; }, 2s));
  pb::Directive drop;
  WriteSnapshotId(shard.snapshot, drop.mutable_drop_snapshot()->mutable_snapshot());
  const uint64_t id = r.fake().Direct("server-0", drop);
  const uint32_t joins = r.fake().named("server-0").joins;
  ASSERT_TRUE(r.world.RunUntil([&] { return r.fake().ResultOf("server-0", id) != nullptr; }, 30s));
  EXPECT_GT(r.fake().named("server-0").joins, joins) << "it began while a join was under way";
  EXPECT_EQ(r.server(0).objects().Find(shard), nullptr);
}

// Placement forgets at a join what it has told, and takes no result of it.
TEST(Directives, WhatWasToldBeforeAJoinIsNotDoneAfterIt) {
  Running r;
  const ShardId shard = r.Committed("7");
  FakePlacement::Joined& member = r.fake().named("server-0");
  r.fake().directives_take = 300ms;
  pb::Directive drop;
  WriteSnapshotId(shard.snapshot, drop.mutable_drop_snapshot()->mutable_snapshot());
  r.fake().Direct("server-0", drop);
  r.world.RunFor(50ms);
  member.rejoin = true;
  ASSERT_TRUE(r.world.RunUntil([&] { return member.joins == 2; }, 200ms));
  member.directives.clear();
  r.world.RunFor(2s);
  EXPECT_NE(r.server(0).objects().Find(shard), nullptr);
}

// The same for what came in one reply with a directive that was still at its work when the join was
// made.
TEST(Directives, WhatWasToldWithOneThatAJoinOvertookIsNotDoneAfterIt) {
  Running r;
  const ShardId shard = r.Committed("7");
  FakePlacement::Joined& member = r.fake().named("server-0");
  const pb::Directive store = r.SlowStore();
  pb::Directive drop;
  WriteSnapshotId(shard.snapshot, drop.mutable_drop_snapshot()->mutable_snapshot());
  const uint64_t stored = r.fake().Direct("server-0", store);
  r.fake().Direct("server-0", drop);
  r.world.RunFor(50ms);
  member.rejoin = true;
  ASSERT_TRUE(r.world.RunUntil([&] { return member.joins == 2; }, 300ms));
  ASSERT_EQ(r.fake().ResultOf("server-0", stored), nullptr) << "the disk is to be slower";
  member.directives.clear();
  r.disks[0]->set_slowness(1);
  r.world.RunFor(9s);
  EXPECT_NE(r.server(0).objects().Find(shard), nullptr);
  EXPECT_EQ(r.fake().ResultOf("server-0", stored), nullptr);
}

// A leader that began its terms anew gives the numbers of the one before it.
TEST(Directives, OneThatHasTheNumberOfAnotherFromBeforeAJoinIsDone) {
  Running r;
  const ShardId shard = r.Committed("7");
  FakePlacement::Joined& member = r.fake().named("server-0");
  const uint64_t ended = r.fake().Direct("server-0", pb::Directive());
  const uint64_t running = r.fake().Direct("server-0", r.SlowStore());
  r.fake().failures["Directives"].assign(2, absl::OkStatus());
  r.fake().failures["Directives"].resize(1000, absl::UnavailableError("lost"));
  r.world.RunFor(50ms);
  member.directives.clear();
  member.rejoin = true;
  ASSERT_TRUE(r.world.RunUntil([&] { return member.joins == 2; }, 300ms));
  r.disks[0]->set_slowness(1);
  r.fake().failures["Directives"].clear();
  pb::Directive drop;
  WriteSnapshotId(shard.snapshot, drop.mutable_drop_snapshot()->mutable_snapshot());
  for (const uint64_t id : {ended, running}) {
    drop.set_id(id);
    member.directives.push_back(drop);
  }
  ASSERT_TRUE(
      r.world.RunUntil([&] { return r.fake().ResultOf("server-0", running) != nullptr; }, 9s));
  EXPECT_EQ(r.fake().ResultOf("server-0", ended)->code(), 0U);
  EXPECT_EQ(r.fake().ResultOf("server-0", running)->code(), 0U);
  EXPECT_EQ(r.server(0).objects().Find(shard), nullptr);
}

TEST(Directives, ResultsWaitForTheAnswerToAJoinWhoseInventoryCameBeforeThem) {
  Running r;
  r.Committed("7");
  const pb::Directive store = r.SlowStore();
  const uint64_t stored = r.fake().Direct("server-0", store);
  r.world.RunFor(50ms);
  r.fake().failures["Join"].assign(100, absl::UnavailableError("not now"));
  r.fake().named("server-0").rejoin = true;
  const uint32_t asked = r.fake().calls["Join"];
  ASSERT_TRUE(r.world.RunUntil([&] { return r.fake().calls["Join"] > asked; }, 2s));
  r.disks[0]->set_slowness(1);
  r.world.RunFor(5s);
  EXPECT_EQ(r.fake().ResultOf("server-0", stored), nullptr);
  r.fake().failures["Join"].clear();
  EXPECT_TRUE(
      r.world.RunUntil([&] { return r.fake().ResultOf("server-0", stored) != nullptr; }, 5s));
}

TEST(Directives, DropStagingNeverTakesACommittedSnapshot) {
  Running r;
  const ShardId shard = r.Committed("7");
  pb::Directive drop;
  WriteSnapshotId(shard.snapshot, drop.mutable_drop_staging()->mutable_snapshot());
  EXPECT_EQ(r.Do(0, drop).code(), static_cast<uint32_t>(absl::StatusCode::kFailedPrecondition));
  EXPECT_NE(r.server(0).objects().Find(shard), nullptr);
}

TEST(Directives, DropStagingEndsAnOpenAttempt) {
  Running r;
  const auto opened = r.client.Open(TestClient::OpenFor("7", 0, 1, kBytes));
  ASSERT_TRUE(opened.ok());
  pb::Directive drop;
  WriteSnapshotId(opened->snapshot, drop.mutable_drop_staging()->mutable_snapshot());
  ASSERT_EQ(r.Do(0, drop).code(), 0U);
  EXPECT_EQ(r.server(0).uploads().size(), 0U);
  EXPECT_EQ(r.server(0).objects().size(), 0U);
  EXPECT_EQ(r.client.Filled(opened->upload, {Digest128{}}).code(),
            absl::StatusCode::kFailedPrecondition);
}

TEST(Directives, SeeEpochFreesStagingOfOlderEpochsEverywhere) {
  Running r;
  const auto opened = r.client.Open(TestClient::OpenFor("7", 0, 1, kBytes));
  ASSERT_TRUE(opened.ok());
  r.world.RunFor(200ms);
  uint32_t holder = 0;
  for (uint32_t i = 1; i < 3; ++i) {
    holder = r.server(i).holder().grants() > 0 ? i : holder;
  }
  ASSERT_NE(holder, 0U);
  pb::Directive see;
  see.mutable_see_epoch()->set_job("gpt");
  WriteEpochId({1, 5}, see.mutable_see_epoch()->mutable_epoch());
  ASSERT_EQ(r.Do(0, see).code(), 0U);
  ASSERT_EQ(r.Do(holder, see).code(), 0U);
  EXPECT_EQ(r.server(0).uploads().size(), 0U);
  EXPECT_EQ(r.server(holder).holder().grants(), 0U);
  EXPECT_EQ(r.server(holder).pool().used_bytes(), 0U);
}

TEST(Directives, SeeEpochKeepsWhatIsSealed) {
  Running r;
  const ShardId shard = r.Committed("7");
  pb::Directive see;
  see.mutable_see_epoch()->set_job("gpt");
  WriteEpochId({1, 5}, see.mutable_see_epoch()->mutable_epoch());
  ASSERT_EQ(r.Do(0, see).code(), 0U);
  EXPECT_NE(r.server(0).objects().Find(shard), nullptr);
}

TEST(Directives, PullShardMakesASealedCopyWithAReceipt) {
  Running r;
  const ShardId shard = r.Committed("7");
  const uint32_t without = r.Without(shard);
  pb::Directive pull;
  *pull.mutable_pull_shard()->mutable_object() = r.fake().Held(r.fake().saves.at(1), 0);
  for (const auto& [id, member] : r.fake().members) {
    *pull.mutable_pull_shard()->add_sources() = member.member;
  }
  ASSERT_EQ(r.Do(without, pull).code(), 0U);
  const auto object = r.server(without).objects().Find(shard);
  ASSERT_NE(object, nullptr);
  EXPECT_EQ(object->state(), ObjectState::kSealed);
  EXPECT_EQ(object->token().ToBytes(), r.fake().saves.at(1).open.token());
}

TEST(Directives, PullShardFailsWhenNoSourceHasIt) {
  Running r;
  const ShardId shard = r.Committed("7");
  const uint32_t without = r.Without(shard);
  pb::Directive pull;
  *pull.mutable_pull_shard()->mutable_object() = r.fake().Held(r.fake().saves.at(1), 0);
  pull.mutable_pull_shard()->mutable_object()->set_root(std::string(16, 'x'));
  for (const auto& [id, member] : r.fake().members) {
    *pull.mutable_pull_shard()->add_sources() = member.member;
  }
  const pb::DirectiveResult result = r.Do(without, pull);
  EXPECT_NE(result.code(), 0U);
  EXPECT_NE(result.message().find("server-0"), std::string::npos) << result.message();
}

TEST(Directives, PullShardReplacesWhatAWriterHasLeftHalfWritten) {
  Running r;
  const ShardId shard = r.Committed("7");
  const uint32_t without = r.Without(shard);
  TestPeer writer(&r.world, "peer-host");
  ASSERT_TRUE(writer.Hello(r.fake(), r.server(without)).ok());
  Offer offer;
  offer.shard = shard;
  offer.token = *EpochToken::FromBytes(r.fake().saves.at(1).open.token());
  offer.bytes = kBytes;
  const auto grant = writer.AskFor<OfferReply>(FrameType::kOffer, offer);
  ASSERT_TRUE(grant.ok()) << grant.status();
  pb::Directive pull;
  *pull.mutable_pull_shard()->mutable_object() = r.fake().Held(r.fake().saves.at(1), 0);
  *pull.mutable_pull_shard()->add_sources() = r.fake().named("server-0").member;
  EXPECT_NE(r.Do(without, pull).code(), 0U);
  EXPECT_EQ(r.server(without).holder().grants(), 1U) << "a repair ends no writer at its work";
  pull.mutable_pull_shard()->set_writer_gone(true);
  const pb::DirectiveResult result = r.Do(without, pull);
  ASSERT_EQ(result.code(), 0U) << result.message();
  EXPECT_EQ(r.server(without).objects().Find(shard)->state(), ObjectState::kSealed);
  EXPECT_FALSE(writer.Put(*grant, 0, std::string(kChunkBytes, 'x'), Digest128{1, 1}).ok());
}

TEST(Directives, PullShardAsksNoIncarnationThatANewerOneHasReplaced) {
  Running r;
  const ShardId shard = r.Committed("7");
  const uint32_t without = r.Without(shard);
  const uint32_t holder = (without + 1) % 3;
  pb::Directive pull;
  *pull.mutable_pull_shard()->mutable_object() = r.fake().Held(r.fake().saves.at(1), 0);
  *pull.mutable_pull_shard()->add_sources() =
      r.fake().named("server-" + std::to_string(holder)).member;
  ASSERT_TRUE(r.Start(holder).ok());
  r.world.RunFor(2s);
  const pb::DirectiveResult result = r.Do(without, pull);
  EXPECT_EQ(result.code(), static_cast<uint32_t>(absl::StatusCode::kUnavailable));
  EXPECT_NE(result.message().find("placement calls incarnation"), std::string::npos)
      << result.message();
}

TEST(Directives, VerifyShardFindsDecayAndStopsCountingTheCopy) {
  Running r;
  const ShardId shard = r.Committed("7");
  EXPECT_EQ(r.Do(0, r.Verify(1)).code(), 0U);
  r.server(0).objects().Find(shard)->Chunk(2)[1] ^= std::byte{8};
  EXPECT_EQ(r.Do(0, r.Verify(1)).code(), static_cast<uint32_t>(absl::StatusCode::kDataLoss));
  EXPECT_EQ(r.Do(0, r.Verify(1)).code(), static_cast<uint32_t>(absl::StatusCode::kNotFound));
  EXPECT_EQ(r.server(0).objects().Find(shard), nullptr);
  EXPECT_EQ(r.nodes[0]->events.counts["chunk_corrupt"], 1U);
  r.world.RunFor(300ms);
  EXPECT_EQ(r.fake().named("server-0").joins, 1U) << "the result tells placement";
}

TEST(Directives, FetchManifestReturnsItsBytes) {
  Running r;
  const ShardId shard = r.Committed("7");
  pb::Directive fetch;
  WriteSnapshotId(shard.snapshot, fetch.mutable_fetch_manifest()->mutable_snapshot());
  fetch.mutable_fetch_manifest()->set_root(
      DigestBytes(model::ManifestRoot(r.fake().saves.at(1).manifest)));
  const pb::DirectiveResult result = r.Do(0, fetch);
  EXPECT_EQ(result.code(), 0U);
  EXPECT_EQ(result.manifest(), r.fake().saves.at(1).manifest);
  fetch.mutable_fetch_manifest()->set_root(std::string(16, 'x'));
  EXPECT_EQ(r.Do(0, fetch).code(), static_cast<uint32_t>(absl::StatusCode::kDataLoss));
}

TEST(Directives, RepeatsResultsUntilAPollWasAnswered) {
  Running r;
  r.fake().failures["Directives"] = {absl::OkStatus(), absl::UnavailableError("lost"),
                                     absl::DeadlineExceededError("lost")};
  pb::Directive unknown;
  EXPECT_EQ(r.Do(0, unknown).code(), static_cast<uint32_t>(absl::StatusCode::kUnimplemented));
}

TEST(Membership, JoinsWithItsRecordsEpochsAndMembersAfterARestart) {
  Running r;
  const ShardId shard = r.Committed("7");
  const ServerId id = r.server(0).id();
  const Incarnation before = r.server(0).incarnation();
  pb::Directive see;
  see.mutable_see_epoch()->set_job("gpt");
  WriteEpochId({1, 5}, see.mutable_see_epoch()->mutable_epoch());
  ASSERT_EQ(r.Do(0, see).code(), 0U);
  r.client.session = nullptr;
  ASSERT_TRUE(r.Start(0).ok());
  EXPECT_EQ(r.server(0).id(), id);
  EXPECT_NE(r.server(0).incarnation(), before);
  const pb::JoinRequest& join = r.fake().named("server-0").last_join;
  ASSERT_EQ(join.commit_records_size(), 1);
  EXPECT_EQ(join.commit_records(0), r.fake().saves.at(1).record);
  EXPECT_EQ(join.epochs(0).epoch().counter(), 5U);
  EXPECT_EQ(join.last_members_size(), 3);
  EXPECT_EQ(join.objects_size(), 0) << "memory went with the process";
}

TEST(Membership, JoinsAgainWithItsWholeInventoryUnderTheSameIncarnation) {
  Running r;
  const ShardId shard = r.Committed("7");
  const Incarnation before = r.server(0).incarnation();
  r.fake().named("server-0").rejoin = true;
  ASSERT_TRUE(r.world.RunUntil([&] { return r.fake().named("server-0").joins == 2; }, 2s));
  const pb::JoinRequest& join = r.fake().named("server-0").last_join;
  ASSERT_EQ(join.objects_size(), 1);
  EXPECT_EQ(ReadShardId(join.objects(0).shard()), shard);
  EXPECT_EQ(join.caller().incarnation(), before.ToBytes());
}

TEST(Membership, HeartbeatsEvery100Milliseconds) {
  Running r;
  const uint32_t before = r.fake().named("server-0").heartbeats;
  r.world.RunFor(1s);
  const uint32_t beats = r.fake().named("server-0").heartbeats - before;
  EXPECT_GE(beats, 9U);
  EXPECT_LE(beats, 11U);
}

TEST(Membership, ALostHeartbeatCostsTheNextOnesNothing) {
  Running r;
  LinkFaults& faults = r.world.world.Faults("server-0", "placement");
  faults.lose_request_ppm = 1'000'000;
  r.world.RunFor(120ms);  // one goes out, and no answer ever comes
  faults.lose_request_ppm = 0;
  const uint32_t before = r.fake().named("server-0").heartbeats;
  r.world.RunFor(400ms);  // placement suspects after as long
  EXPECT_GT(r.fake().named("server-0").heartbeats, before);
}

TEST(Membership, RetriesAJoinThatPlacementDoesNotAnswer) {
  ServerWorld s(1);
  s.fake().failures["Join"] = {absl::UnavailableError("not yet"), absl::UnavailableError("no")};
  EXPECT_TRUE(s.Start(0).ok());
}

// A manager that has just begun gives its members two seconds.
TEST(Membership, TriesAJoinAtOnceWhenPlacementAnswersAnotherCall) {
  Running r;
  FakePlacement::Joined& member = r.fake().named("server-0");
  r.fake().failures["Join"].assign(8, absl::UnavailableError("not now"));
  member.rejoin = true;
  ASSERT_TRUE(r.world.RunUntil([&] { return r.fake().failures["Join"].empty(); }, 9s));
  r.fake().Direct("server-0", pb::Directive());  // ends its poll
  const auto joined = [&] {
    member.rejoin_by_directives = true;
    return member.joins == 2;
  };
  EXPECT_TRUE(r.world.RunUntil(joined, 100ms));
}

TEST(Membership, SpeaksWhatAnOlderPlacementUnderstandsAndMoreAfterItsUpgrade) {
  Running r;
  EXPECT_GT(r.fake().named("server-0").last_join.join(), 0U);
  r.fake().control_protocol = kControlProtocolOldest;
  r.fake().named("server-0").rejoin = true;
  const uint32_t joins = r.fake().named("server-0").joins;
  ASSERT_TRUE(r.world.RunUntil([&] { return r.fake().named("server-0").joins > joins; }, 5s));
  const pb::JoinRequest older = r.fake().named("server-0").last_join;
  EXPECT_EQ(older.caller().protocol_version(), kControlProtocolOldest);
  ASSERT_TRUE(r.client.Save("7", 0, 1, kBytes).ok());
  r.fake().control_protocol = kControlProtocolVersion;
  r.fake().named("server-0").rejoin = true;
  ASSERT_TRUE(r.world.RunUntil([&] { return r.fake().named("server-0").joins > joins + 1; }, 5s));
  EXPECT_EQ(r.fake().named("server-0").last_join.caller().protocol_version(),
            kControlProtocolVersion);
  ASSERT_TRUE(r.client.Save("8", 0, 1, kBytes).ok());
}

TEST(Membership, RefusesASecondClusterWithAnEmptyStore) {
  ServerWorld s(1);
  s.fake().cluster.bytes[0] = 0x55;
  const absl::Status refused = s.Start(0);
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(MessageOf(refused).find("gemel placement recover --from-servers"),
            std::string_view::npos);
  s.Kill(0);
}

TEST(Membership, EndsWhenARejoinIsRefusedForGood) {
  Running r;
  r.fake().cluster.bytes[0] = 0x55;
  r.fake().named("server-1").rejoin = true;
  ASSERT_TRUE(r.world.RunUntil([&] { return !r.nodes[1]->fatal.ok(); }, 2s));
  EXPECT_EQ(r.nodes[1]->fatal.code(), absl::StatusCode::kFailedPrecondition);
}

TEST(Server, StopsWithClientsAndUploadsInside) {
  Running r;
  ASSERT_TRUE(r.client.Open(TestClient::OpenFor("7", 0, 1, kBytes)).ok());
  const auto stop = [](Server* server) -> Task<bool> {
    co_await server->Stop();
    co_return true;
  };
  EXPECT_TRUE(r.nodes[0]->life.Run(stop(&r.server(0)), 20s));
}

TEST(Server, SaysWhenItsAddressIsTaken) {
  ServerWorld s(1);
  SimDiskState disk;
  ServerNode other(&s.world, "server-0", &disk, {8 * kMiB, 2 * kMiB});
  EXPECT_EQ(other.life.Run(other.server->Start()).code(), absl::StatusCode::kAlreadyExists);
}

TEST(Directives, DropSnapshotKeepsTheObjectsOfARecordThatItCannotRemove) {
  Running r;
  const ShardId shard = r.Committed("7");
  r.disks[0]->FailNextSync();
  pb::Directive drop;
  WriteSnapshotId(shard.snapshot, drop.mutable_drop_snapshot()->mutable_snapshot());
  EXPECT_EQ(r.Do(0, drop).code(), static_cast<uint32_t>(absl::StatusCode::kUnavailable));
  EXPECT_NE(r.server(0).objects().Find(shard), nullptr) << "a record has its objects";
  EXPECT_EQ(r.nodes[0]->events.counts["directive_failed"], 1U);
  EXPECT_EQ(r.Do(0, drop).code(), 0U);
}

TEST(Directives, PullShardRefusesWhatCannotBe) {
  Running r;
  r.Committed("7");
  pb::Directive pull;
  *pull.mutable_pull_shard()->mutable_object() = r.fake().Held(r.fake().saves.at(1), 0);
  const auto invalid = static_cast<uint32_t>(absl::StatusCode::kInvalidArgument);
  pb::Directive bad = pull;
  bad.mutable_pull_shard()->mutable_object()->set_bytes(0);
  EXPECT_EQ(r.Do(0, bad).code(), invalid);
  bad = pull;
  bad.mutable_pull_shard()->mutable_object()->set_layout_bytes(kBytes + 1);
  EXPECT_EQ(r.Do(0, bad).code(), invalid);
  bad = pull;
  bad.mutable_pull_shard()->mutable_object()->set_root("short");
  EXPECT_EQ(r.Do(0, bad).code(), invalid);
  bad = pull;
  bad.mutable_pull_shard()->add_sources()->set_server_id("short");
  EXPECT_EQ(r.Do(0, bad).code(), invalid);
}

TEST(Directives, PullShardIsDoneOnceHoweverOftenItIsTold) {
  Running r;
  const ShardId shard = r.Committed("7");
  const uint32_t without = r.Without(shard);
  const std::string name = "server-" + std::to_string(without);
  for (uint32_t i = 0; i < 3; ++i) {
    r.world.world.Faults("server-" + std::to_string(i), name).transmit_per_mib = 200ms;
  }
  pb::Directive pull;
  *pull.mutable_pull_shard()->mutable_object() = r.fake().Held(r.fake().saves.at(1), 0);
  for (const auto& [id, member] : r.fake().members) {
    *pull.mutable_pull_shard()->add_sources() = member.member;
  }
  const uint32_t before = r.fake().calls["Directives"];
  ASSERT_EQ(r.Do(without, pull).code(), 0U);
  EXPECT_GE(r.fake().calls["Directives"], before + 3) << "it was told again while it ran";
  EXPECT_EQ(r.nodes[without]->metrics.Counter("gemel_fetched_bytes_total", "").Get(),
            static_cast<int64_t>(kBytes));
}

TEST(Directives, JoinsAgainWhenAPollSaysSo) {
  Running r;
  r.fake().named("server-1").rejoin_by_directives = true;
  EXPECT_TRUE(r.world.RunUntil([&] { return r.fake().named("server-1").joins == 2; }, 3s));
}

TEST(Directives, ThoseOfADeposedLeaderAreNotObeyed) {
  Running r;
  const ShardId shard = r.Committed("7");
  r.fake().named("server-0").older_leader = true;
  pb::Directive drop;
  WriteSnapshotId(shard.snapshot, drop.mutable_drop_snapshot()->mutable_snapshot());
  const uint64_t id = r.fake().Direct("server-0", drop);
  r.world.RunFor(5s);
  EXPECT_NE(r.server(0).objects().Find(shard), nullptr);
  EXPECT_TRUE(r.server(0).identity().HasRecord(shard.snapshot));
  EXPECT_EQ(r.fake().ResultOf("server-0", id), nullptr);
  r.fake().named("server-0").older_leader = false;
  EXPECT_TRUE(r.world.RunUntil([&] { return r.server(0).objects().Find(shard) == nullptr; }, 5s));
}

TEST(Membership, RemembersTheLivingMembersOfTheNewestMap) {
  Running r;
  EXPECT_EQ(r.server(0).identity().last_members().size(), 3U);
  r.fake().named("server-2").member.set_state(pb::MEMBER_DEAD);
  r.fake().map_version += 1;
  ASSERT_TRUE(
      r.world.RunUntil([&] { return r.server(0).identity().last_members().size() == 2; }, 2s));
  r.world.RunFor(10ms);
  r.client.session = nullptr;
  ASSERT_TRUE(r.Start(0).ok());
  EXPECT_EQ(r.fake().named("server-0").last_join.last_members_size(), 2);
}

TEST(Membership, BelievesTheMapOfTheLeaderItJoinsThoughItsVersionIsKnown) {
  Running r;
  pb::Member& other = r.fake().named("server-2").member;
  other.set_state(pb::MEMBER_DEAD);
  r.fake().map_version += 1;
  ASSERT_TRUE(
      r.world.RunUntil([&] { return r.server(0).identity().last_members().size() == 2; }, 2s));
  other.set_state(pb::MEMBER_ALIVE);
  r.fake().joins_change_map = false;
  r.fake().no_holders = {"server-1"};
  const uint32_t joins = r.fake().named("server-0").joins;
  r.fake().named("server-0").rejoin = true;
  ASSERT_TRUE(r.world.RunUntil([&] { return r.fake().named("server-0").joins > joins; }, 2s));
  ASSERT_TRUE(r.client.Save("7", 0, 1, kBytes).ok());
  EXPECT_TRUE(r.world.RunUntil([&] { return r.server(2).objects().size() == 1; }, 20s))
      << "no copy goes to a server that is called dead";
}

TEST(Membership, JoinsWithAnInventoryThatIsMadeForTheLeaderThatTakesIt) {
  Running r;
  const ShardId shard = r.Committed("7");
  FakePlacement::Joined& member = r.fake().named("server-0");
  for (const char* leader : {"first-leader-16b", "other-leader-16b"}) {
    r.fake().leader = leader;
    const uint32_t joins = member.joins;
    const uint32_t asked = r.fake().calls["Join"];
    member.rejoin = true;
    ASSERT_TRUE(r.world.RunUntil([&] { return member.joins > joins; }, 2s));
    EXPECT_EQ(r.fake().calls["Join"], asked + 2) << "one to hear who leads";
    EXPECT_EQ(member.last_join.leader(), leader);
    EXPECT_EQ(member.last_join.objects_size(), 1);
    EXPECT_TRUE(r.world.RunUntil([&] { return member.caller.leader() == leader; }, 1s));
    EXPECT_EQ(member.caller.join(), member.last_join.join());
  }
}

// The maps of a recovery: first without what is not heard yet, then without members.
TEST(Membership, WhoIsBackInTheMapAsTheSameIncarnationIsNotDead) {
  Running r;
  pb::Member& other = r.fake().named("server-2").member;
  const std::string incarnation = other.incarnation();
  other.set_incarnation(Incarnation().ToBytes());
  r.fake().map_version += 1;
  r.world.RunFor(50ms);
  r.fake().map_is_empty = true;
  r.fake().map_version += 1;
  r.world.RunFor(50ms);
  r.fake().map_is_empty = false;
  other.set_incarnation(incarnation);
  r.fake().map_version += 1;
  r.world.RunFor(50ms);
  r.fake().no_holders = {"server-1"};
  ASSERT_TRUE(r.client.Save("7", 0, 1, kBytes).ok());
  EXPECT_TRUE(r.world.RunUntil([&] { return r.server(2).objects().size() == 1; }, 20s))
      << "no copy goes to a server that is called dead";
}

TEST(Membership, RefusesAPlacementOfAnOlderGeneration) {
  ServerWorld s(1);
  s.fake().generation = 3;
  ASSERT_TRUE(s.Start(0).ok());
  s.fake().generation = 2;
  const absl::Status refused = s.Start(0);
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition) << refused;
  EXPECT_NE(MessageOf(refused).find("gemel placement recover --from-servers"),
            std::string_view::npos);
  s.Kill(0);
}

TEST(Membership, CountsHeartbeatsWithoutAnAnswerAndGoesOn) {
  Running r;
  r.fake().failures["Heartbeat"].assign(6, absl::UnavailableError("lost"));
  const uint32_t before = r.fake().named("server-0").heartbeats;
  r.world.RunFor(2s);
  int64_t lost = 0;
  for (uint32_t i = 0; i < 3; ++i) {
    lost += r.nodes[i]->metrics.Counter("gemel_heartbeat_errors_total", "").Get();
  }
  EXPECT_EQ(lost, 6);
  EXPECT_GT(r.fake().named("server-0").heartbeats, before + 10);
}

TEST(Receipts, JoinsAgainWhenPlacementDoesNotKnowTheServer) {
  Running r;
  r.fake().failures["ReportReceipts"] = {absl::FailedPreconditionError("not a member")};
  const ShardId shard = r.Committed("7");
  uint32_t joins = 0;
  for (const auto& [id, member] : r.fake().members) {
    joins += member.joins;
  }
  EXPECT_EQ(joins, 4U);
  EXPECT_NE(r.server(0).objects().Find(shard), nullptr);
}

TEST(Receipts, WaitForTheAnswerToAJoinWhoseInventoryCameBeforeThem) {
  Running r;
  r.fake().no_holders = {"server-1", "server-2"};
  r.fake().failures["Join"].assign(8, absl::UnavailableError("not now"));
  r.fake().named("server-0").rejoin = true;
  const uint32_t asked = r.fake().calls["Join"];
  ASSERT_TRUE(r.world.RunUntil([&] { return r.fake().calls["Join"] > asked; }, 2s));
  ASSERT_TRUE(r.client.Save("7", 0, 1, kBytes).ok());
  ASSERT_TRUE(r.world.RunUntil([&] { return r.fake().calls["ReportReceipts"] > 0; }, 30s));
  EXPECT_EQ(r.fake().named("server-0").joins, 2U) << "the receipt overtook the join";
}

TEST(Receipts, PassOnTheHoldersThatPlacementWantsNow) {
  Running r;
  r.fake().no_holders = {"server-1", "server-2"};
  r.fake().failures["ReportReceipts"].assign(5, absl::UnavailableError("not now"));
  r.fake().failures["AwaitCommit"].assign(1000, absl::UnavailableError("not now"));
  const auto opened = r.client.Save("7", 0, 1, kBytes);
  ASSERT_TRUE(opened.ok()) << opened.status();
  auto& save = r.fake().saves.at(1);
  save.ranks.at(0).holders.insert(r.server(2).id().ToBytes());
  pb::ReportReceiptsReply::Retarget* retarget = r.fake().receipts_reply.add_retargets();
  WriteShardId(ShardId{opened->snapshot, 0}, retarget->mutable_shard());
  *retarget->add_holders() = r.fake().named("server-0").member;
  *retarget->add_holders() = r.fake().named("server-2").member;
  ASSERT_TRUE(r.world.RunUntil([&] { return save.committed; }, 10s));
  EXPECT_NE(r.server(2).objects().Find(ShardId{opened->snapshot, 0}), nullptr);
}

TEST(Receipts, RefuseHoldersThatMakeNoSense) {
  Running r;
  pb::ReportReceiptsReply::Retarget* retarget = r.fake().receipts_reply.add_retargets();
  retarget->add_holders()->set_server_id("short");
  r.Committed("7");
  uint32_t refused = 0;
  for (uint32_t i = 0; i < 3; ++i) {
    refused += r.nodes[i]->events.counts["retarget_refused"];
  }
  EXPECT_EQ(refused, 1U);
}

TEST(Server, DoesNotStartOnARottenDisk) {
  ServerWorld s(1);
  s.Kill(0);
  ASSERT_TRUE(s.disks[0]->Rot("identity"));
  EXPECT_EQ(s.Start(0).code(), absl::StatusCode::kDataLoss);
  s.Kill(0);
}

TEST(Server, DoesNotStartWithSizesThatCannotBe) {
  ServerWorld s(1);
  SimDiskState disk;
  ServerNode other(&s.world, "server-9", &disk, {kMiB, 2 * kMiB});
  EXPECT_EQ(other.life.Run(other.server->Start()).code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace gemel::testing

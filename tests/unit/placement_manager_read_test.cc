// SPDX-License-Identifier: Apache-2.0
//
// Reading a committed snapshot by name: what is chosen, what the pin holds, when it ends.
#include <gtest/gtest.h>

#include "tests/unit/placement_manager_cluster.h"

namespace gemel::placement_test {
namespace {

class PlacementRead : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(cluster.Start().ok());
    ASSERT_TRUE(cluster.RunUntilJoined());
    run = cluster.NewRun();
  }

  static std::string NameIn(const pb::BeginReadReply& reply) {
    const auto record = model::DecodeCommitRecord(reply.record());
    return record.ok() ? record->snapshot.name : ToText(record.status());
  }

  Cluster cluster;
  JobRun run;
};

TEST_F(PlacementRead, GivesTheNamedSnapshotWithItsSources) {
  run.keep = 0;
  ASSERT_TRUE(cluster.Save(run, "1").ok());
  ASSERT_TRUE(cluster.Save(run, "2").ok());
  const auto reply = cluster.BeginRead("gpt", "1", cluster.NewReadId());
  ASSERT_TRUE(reply.ok()) << reply.status();
  EXPECT_EQ(reply->decision(), pb::BeginReadReply::CHOSEN);
  EXPECT_EQ(NameIn(*reply), "1");
  ASSERT_EQ(reply->sources_size(), 2);
  EXPECT_EQ(reply->sources(0).holders_size(), 2);
}

TEST_F(PlacementRead, WhatItsEndLetsGoIsWaitedForByAnOpenWithoutRoom) {
  for (const auto& server : cluster.servers) {
    server->capacity = 7 * run.shard_bytes / 2;
  }
  cluster.Run(500ms);
  JobRun other = cluster.NewRun("other");
  run.world = other.world = 1;
  ASSERT_TRUE(cluster.Save(run, "1").ok());
  const ReadId read = cluster.NewReadId();
  ASSERT_TRUE(cluster.BeginRead("gpt", "1", read).ok());
  ASSERT_TRUE(cluster.Save(run, "2").ok());
  cluster.store.latency_min = cluster.store.latency_max = 300ms;
  pb::OpenRequest patient = cluster.OpenOf(other, "1", 0);
  patient.set_wait_ms(4000);
  std::optional<absl::StatusOr<std::string>> answer;
  cluster.CallBeside("Open", patient.SerializeAsString(), &answer);
  cluster.Run(250ms);
  ASSERT_TRUE(cluster.EndRead(read).ok());
  ASSERT_TRUE(cluster.RunUntil([&] { return answer.has_value(); }, 2s));
  pb::OpenReply reply;
  ASSERT_TRUE(answer->ok() && reply.ParseFromString(**answer)) << answer->status();
  EXPECT_EQ(reply.decision(), pb::OpenReply::ACCEPT) << reply.ShortDebugString();
}

TEST_F(PlacementRead, GivesTheNewestWithoutAName) {
  run.keep = 0;
  ASSERT_TRUE(cluster.Save(run, "1").ok());
  ASSERT_TRUE(cluster.Save(run, "2").ok());
  const auto reply = cluster.BeginRead("gpt", "", cluster.NewReadId());
  ASSERT_TRUE(reply.ok()) << reply.status();
  EXPECT_EQ(NameIn(*reply), "2");
}

TEST_F(PlacementRead, GivesTheNewestAttemptOfAName) {
  run.keep = 0;
  ASSERT_TRUE(cluster.Save(run, "1", 1).ok());
  ASSERT_TRUE(cluster.Save(run, "1", 2).ok());
  const auto reply = cluster.BeginRead("gpt", "1", cluster.NewReadId());
  ASSERT_TRUE(reply.ok()) << reply.status();
  EXPECT_EQ(model::DecodeCommitRecord(reply->record())->snapshot.attempt, 2U);
}

TEST_F(PlacementRead, NamesWhatIsThereWhenTheNameIsNot) {
  ASSERT_TRUE(cluster.Save(run, "1").ok());
  const auto reply = cluster.BeginRead("gpt", "7", cluster.NewReadId());
  EXPECT_EQ(reply.status().code(), absl::StatusCode::kNotFound);
  EXPECT_NE(ToText(reply.status()).find("it has: 1"), std::string::npos) << reply.status();
  EXPECT_EQ(cluster.BeginRead("gtp", "1", cluster.NewReadId()).status().code(),
            absl::StatusCode::kNotFound);
}

TEST_F(PlacementRead, AServerThatHasToJoinAgainIsAskedToTryAgainForItsClient) {
  ASSERT_TRUE(cluster.Save(run, "1").ok());
  pb::BeginReadRequest request;
  *request.mutable_caller() = cluster.CallerOf(cluster.server(0));
  request.mutable_caller()->set_incarnation(std::string(16, 'i'));
  request.set_job("gpt");
  request.set_read_id(cluster.NewReadId().ToBytes());
  EXPECT_EQ(cluster.Call<pb::BeginReadReply>("BeginRead", request).status().code(),
            absl::StatusCode::kUnavailable);
}

TEST_F(PlacementRead, FencesNobody) {
  ASSERT_TRUE(cluster.Save(run, "1").ok());
  ASSERT_TRUE(cluster.BeginRead("gpt", "1", cluster.NewReadId()).ok());
  EXPECT_TRUE(cluster.Save(run, "2").ok());
}

TEST_F(PlacementRead, KeepsTheSnapshotUntilEndRead) {
  const auto first = cluster.Save(run, "1");
  ASSERT_TRUE(first.ok());
  const ReadId id = cluster.NewReadId();
  ASSERT_TRUE(cluster.BeginRead("gpt", "1", id).ok());
  ASSERT_TRUE(cluster.Save(run, "2").ok());
  cluster.Run(3s);
  EXPECT_EQ(cluster.Names("gpt"), "1 2 ");
  EXPECT_EQ(cluster.Holders(*first, 0), 2U);
  ASSERT_TRUE(cluster.EndRead(id).ok());
  EXPECT_TRUE(cluster.RunUntil([&] { return cluster.Holders(*first, 0) == 0; }));
  EXPECT_EQ(cluster.Names("gpt"), "2 ");
  EXPECT_TRUE(cluster.EndRead(id).ok()) << "the same again is harmless";
}

TEST_F(PlacementRead, CountsReadersOfOneSnapshot) {
  ASSERT_TRUE(cluster.Save(run, "1").ok());
  const ReadId one = cluster.NewReadId();
  const ReadId two = cluster.NewReadId();
  ASSERT_TRUE(cluster.BeginRead("gpt", "1", one).ok());
  ASSERT_TRUE(cluster.BeginRead("gpt", "1", one).ok()) << "the same read, asked again";
  ASSERT_TRUE(cluster.BeginRead("gpt", "1", two, 1).ok());
  ASSERT_TRUE(cluster.Save(run, "2").ok());
  ASSERT_TRUE(cluster.EndRead(one).ok());
  cluster.Run(3s);
  EXPECT_EQ(cluster.Names("gpt"), "1 2 ");
  ASSERT_TRUE(cluster.EndRead(two, 0).ok()) << "another server's word ends nothing";
  cluster.Run(3s);
  EXPECT_EQ(cluster.Names("gpt"), "1 2 ");
  ASSERT_TRUE(cluster.EndRead(two, 1).ok());
  cluster.Run(3s);
  EXPECT_EQ(cluster.Names("gpt"), "2 ");
}

TEST_F(PlacementRead, PinsEndWithTheReadersServer) {
  ASSERT_TRUE(cluster.Save(run, "1").ok());
  ASSERT_TRUE(cluster.BeginRead("gpt", "1", cluster.NewReadId(), 2).ok());
  ASSERT_TRUE(cluster.Save(run, "2").ok());
  cluster.KillServer(2);
  cluster.Run(5s);
  EXPECT_EQ(cluster.Names("gpt"), "2 ");
}

TEST_F(PlacementRead, PinsEndWithTheIncarnation) {
  ASSERT_TRUE(cluster.Save(run, "1").ok());
  ASSERT_TRUE(cluster.BeginRead("gpt", "1", cluster.NewReadId(), 2).ok());
  ASSERT_TRUE(cluster.Save(run, "2").ok());
  cluster.RestartServer(2);
  ASSERT_TRUE(cluster.RunUntilJoined());
  cluster.Run(5s);
  EXPECT_EQ(cluster.Names("gpt"), "2 ");
}

TEST_F(PlacementRead, IsNotRemovedUnderAReader) {
  ASSERT_TRUE(cluster.Save(run, "1").ok());
  const ReadId id = cluster.NewReadId();
  ASSERT_TRUE(cluster.BeginRead("gpt", "1", id).ok());
  pb::RemoveSnapshotsRequest request;
  *request.mutable_caller() = Cluster::Person();
  request.set_job("gpt");
  request.set_name("1");
  const auto removed = cluster.Call<pb::RemoveSnapshotsReply>("RemoveSnapshots", request);
  EXPECT_EQ(removed.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(ToText(removed.status()).find("read by 1 readers"), std::string::npos);
  ASSERT_TRUE(cluster.EndRead(id).ok());
  EXPECT_TRUE(cluster.Call<pb::RemoveSnapshotsReply>("RemoveSnapshots", request).ok());
}

TEST_F(PlacementRead, SaysWhichShardsAreLost) {
  run.copies = run.min_copies = 1;
  ASSERT_TRUE(cluster.Save(run, "1").ok());
  cluster.KillServer(0);
  cluster.Run(3s);
  const auto reply = cluster.BeginRead("gpt", "1", cluster.NewReadId(), 1);
  EXPECT_EQ(reply.status().code(), absl::StatusCode::kDataLoss);
  EXPECT_NE(ToText(reply.status()).find("ranks 0 of 2"), std::string::npos) << reply.status();
}

TEST_F(PlacementRead, RefusesAZeroIdAndAStranger) {
  ASSERT_TRUE(cluster.Save(run, "1").ok());
  EXPECT_EQ(cluster.BeginRead("gpt", "1", ReadId()).status().code(),
            absl::StatusCode::kInvalidArgument);
  pb::BeginReadRequest request;
  *request.mutable_caller() = Cluster::Person();
  request.set_job("gpt");
  request.set_read_id(cluster.NewReadId().ToBytes());
  EXPECT_FALSE(cluster.Call<pb::BeginReadReply>("BeginRead", request).ok());
}

}  // namespace
}  // namespace gemel::placement_test

// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>

#include "placement_manager_cluster.h"

namespace gemel::placement_test {
namespace {

using ::testing::HasSubstr;

pb::MemberState StateOf(Cluster& cluster, size_t index) {
  pb::GetStatusRequest request;
  request.mutable_caller()->set_protocol_version(kControlProtocolVersion);
  auto status = cluster.Call<pb::GetStatusReply>("GetStatus", request);
  GEMEL_CHECK(status.ok()) << ToText(status.status());
  for (const pb::Member& member : status->map().members()) {
    if (member.server_id() == cluster.server(index).id.ToBytes()) {
      return member.state();
    }
  }
  return pb::MEMBER_UNKNOWN;
}

class PlacementMembers : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(cluster.Start().ok());
    ASSERT_TRUE(cluster.RunUntilJoined()) << cluster.events.All();
  }

  Cluster cluster{3};
};

TEST_F(PlacementMembers, BrokenConnectionAndRefusedProbeAreDeathWithinAHundredMilliseconds) {
  cluster.Run(1s);
  const TimePoint killed = cluster.scheduler.now();
  cluster.KillServer(1);
  ASSERT_TRUE(cluster.RunUntil([&] { return cluster.events.Has("member_dead"); }));
  EXPECT_LE(cluster.scheduler.now() - killed, 100ms);
  EXPECT_EQ(StateOf(cluster, 1), pb::MEMBER_DEAD);
  EXPECT_EQ(StateOf(cluster, 0), pb::MEMBER_ALIVE);
}

// Its sockets are closed one by one: the one that placement hears of first, then the one it asks.
TEST_F(PlacementMembers, OneThatStillAcceptsWhenItsConnectionBreaksIsAskedAgainSoon) {
  cluster.Run(1s);
  const TimePoint killed = cluster.scheduler.now();
  cluster.KillServer(1);
  auto& answer = cluster.node().net->answers[cluster.server(1).address];
  answer = ProbedNet::Answer::kAccepts;
  cluster.Run(105ms);
  EXPECT_FALSE(cluster.events.Has("member_dead"));
  answer = ProbedNet::Answer::kRefuses;
  ASSERT_TRUE(cluster.RunUntil([&] { return cluster.events.Has("member_dead"); }));
  EXPECT_LE(cluster.scheduler.now() - killed, 105ms + 18ms);
}

TEST_F(PlacementMembers, OneThatGoesOnAcceptingIsNotAskedWithoutEnd) {
  cluster.Run(1s);
  cluster.KillServer(1);
  cluster.node().net->answers[cluster.server(1).address] = ProbedNet::Answer::kAccepts;
  cluster.node().net->connects = 0;
  ASSERT_TRUE(cluster.RunUntil([&] { return cluster.events.Has("member_dead"); }));
  // For 150 ms after pauses of up to 16, then each tick.
  EXPECT_LE(cluster.node().net->connects, 5 + 150 / 16 + 850 / 50);
}

TEST_F(PlacementMembers, SilenceIsSuspicionAndDeathBelowOneSecond) {
  cluster.Run(1s);
  cluster.server(1).beating = false;
  cluster.node().net->answers[cluster.server(1).address] = ProbedNet::Answer::kSilent;
  // Its long poll goes on to be answered but is no heartbeat of a new second.
  cluster.server(1).running = false;
  const TimePoint silent = cluster.scheduler.now();
  ASSERT_TRUE(cluster.RunUntil([&] { return cluster.events.Has("member_suspect"); }));
  EXPECT_GE(cluster.scheduler.now() - silent, 300ms);
  ASSERT_TRUE(cluster.RunUntil([&] { return cluster.events.Has("member_dead"); }));
  EXPECT_LE(cluster.scheduler.now() - silent, 1000ms);
}

TEST_F(PlacementMembers, OneThatHearsNoAnswersIsDeadBelowOneSecondHoweverWellItIsHeard) {
  cluster.Run(1s);
  cluster.server(1).unanswered = 1;
  cluster.node().net->answers[cluster.server(1).address] = ProbedNet::Answer::kSilent;
  const TimePoint deaf = cluster.scheduler.now();
  ASSERT_TRUE(cluster.RunUntil([&] { return cluster.events.Has("member_dead"); }));
  EXPECT_LE(cluster.scheduler.now() - deaf, 1000ms);
  EXPECT_EQ(StateOf(cluster, 1), pb::MEMBER_DEAD);
  EXPECT_EQ(StateOf(cluster, 0), pb::MEMBER_ALIVE);
}

TEST_F(PlacementMembers, OneLostAnswerIsNoVerdict) {
  cluster.Run(1s);
  cluster.server(1).unanswered = 1;
  cluster.Run(350ms);
  cluster.server(1).unanswered = 0;
  cluster.Run(2s);
  EXPECT_FALSE(cluster.events.Has("member_dead")) << cluster.events.All();
  EXPECT_EQ(StateOf(cluster, 1), pb::MEMBER_ALIVE);
}

TEST_F(PlacementMembers, WhenMostHearNoAnswersItIsThisPlacementAndNobodyDies) {
  cluster.Run(1s);
  cluster.server(0).unanswered = 7;
  cluster.server(1).unanswered = 7;
  cluster.Run(5s);
  EXPECT_FALSE(cluster.events.Has("member_dead")) << cluster.events.All();
}

TEST_F(PlacementMembers, APausedManagerJudgesNobodyByItsOwnLag) {
  cluster.Run(1s);
  cluster.node().loop->Pause();
  cluster.Run(3s);
  cluster.node().loop->Resume();
  cluster.Run(2s);
  EXPECT_TRUE(cluster.events.Has("placement_starved"));
  EXPECT_FALSE(cluster.events.Has("member_dead")) << cluster.events.All();
}

TEST_F(PlacementMembers, NewIncarnationSupersedesTheOldOneForEver) {
  const Incarnation old = cluster.server(1).incarnation;
  cluster.KillServer(1, false);
  cluster.RestartServer(1);
  ASSERT_TRUE(cluster.RunUntilJoined());
  pb::JoinRequest request;
  *request.mutable_caller() = cluster.CallerOf(cluster.server(1));
  request.mutable_caller()->set_incarnation(old.ToBytes());
  request.set_name("server-1");
  request.set_domain("rack1/host1");
  request.set_data_address("tcp://127.0.0.1:9001");
  auto refused = cluster.Call<pb::JoinReply>("Join", request);
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(refused.status().ToString(), HasSubstr("superseded"));
}

TEST_F(PlacementMembers, AnInventoryThatArrivesAfterANewerOneIsNotTaken) {
  pb::JoinRequest join;
  *join.mutable_caller() = cluster.CallerOf(cluster.server(1));
  join.set_name(cluster.server(1).name);
  join.set_domain(cluster.server(1).domain);
  join.set_data_address(cluster.server(1).address);
  join.set_capacity_bytes(cluster.server(1).capacity);
  join.set_generation(cluster.server(1).generation);
  join.set_join(2);
  ASSERT_TRUE(cluster.Call<pb::JoinReply>("Join", join).ok());
  join.set_join(1);
  const auto late = cluster.Call<pb::JoinReply>("Join", join);
  EXPECT_EQ(late.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(late.status().ToString(), HasSubstr("newer inventory (2 after 1)"));
  cluster.KillServer(1, false);
  cluster.RestartServer(1);
  ASSERT_TRUE(cluster.RunUntilJoined());
  join.mutable_caller()->set_incarnation(cluster.server(1).incarnation.ToBytes());
  EXPECT_TRUE(cluster.Call<pb::JoinReply>("Join", join).ok()) << "an incarnation counts its own";
}

TEST_F(PlacementMembers, AnotherVersionOrClusterIsRefusedWithBothNamed) {
  pb::GetStatusRequest request;
  request.mutable_caller()->set_protocol_version(99);
  auto version = cluster.Call<pb::GetStatusReply>("GetStatus", request);
  EXPECT_THAT(version.status().ToString(), HasSubstr("control protocol 99, this placement 1 to 2"));
  pb::JoinRequest join;
  *join.mutable_caller() = cluster.CallerOf(cluster.server(0));
  join.mutable_caller()->set_cluster_id(std::string(16, 'z'));
  auto foreign = cluster.Call<pb::JoinReply>("Join", join);
  EXPECT_EQ(foreign.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(foreign.status().ToString(), HasSubstr(cluster.node().manager->cluster().ToHex()));
  EXPECT_THAT(foreign.status().ToString(), HasSubstr("recover --from-servers"));
}

TEST_F(PlacementMembers, CallersOfAnOlderReleaseAreServedAndThoseOfANewerOneToldToSpeakIt) {
  pb::GetStatusRequest request;
  request.mutable_caller()->set_protocol_version(kControlProtocolOldest);
  EXPECT_TRUE(cluster.Call<pb::GetStatusReply>("GetStatus", request).ok());
  request.mutable_caller()->set_protocol_version(kControlProtocolOldest - 1);
  EXPECT_EQ(cluster.Call<pb::GetStatusReply>("GetStatus", request).status().code(),
            absl::StatusCode::kFailedPrecondition);
  cluster.Kill();
  cluster.options.control_protocol = kControlProtocolOldest;
  ASSERT_TRUE(cluster.Start().ok());
  request.mutable_caller()->set_protocol_version(kControlProtocolVersion);
  const auto newer = cluster.Call<pb::GetStatusReply>("GetStatus", request);
  EXPECT_EQ(newer.status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(newer.status().ToString(), HasSubstr("control protocol 2, this placement 1 to 1"));
}

TEST_F(PlacementMembers, AStoreOlderThanTheClusterIsNotBelieved) {
  const JobRun run = cluster.NewRun();
  cluster.Run(1s);
  const SimStoreState older = cluster.store;
  ASSERT_TRUE(cluster.Save(run, "1").ok());
  cluster.NewRun();
  cluster.Run(1s);
  cluster.Kill();
  cluster.store = older;
  ASSERT_TRUE(cluster.Start().ok());
  cluster.Run(1s);
  EXPECT_EQ(cluster.server(0).joined.code(), absl::StatusCode::kFailedPrecondition)
      << cluster.server(0).joined;
}

TEST_F(PlacementMembers, TheMapsVersionGrowsWithEveryChangeAndIsWatched) {
  pb::WatchMapRequest request;
  request.mutable_caller()->set_protocol_version(kControlProtocolVersion);
  auto before = cluster.Call<pb::WatchMapReply>("WatchMap", request);
  ASSERT_TRUE(before.ok());
  request.set_known_version(before->map().version());
  request.set_wait_ms(5000);
  std::optional<absl::StatusOr<std::string>> watched;
  cluster.CallBeside("WatchMap", request.SerializeAsString(), &watched);
  cluster.Run(500ms);
  EXPECT_FALSE(watched.has_value());
  cluster.KillServer(2);
  ASSERT_TRUE(cluster.RunUntil([&] { return watched.has_value(); }, 1s));
  pb::WatchMapReply reply;
  ASSERT_TRUE(reply.ParseFromString(**watched));
  EXPECT_GT(reply.map().version(), before->map().version());
}

TEST_F(PlacementMembers, UnknownJobIsNamedWithTheKnownOnes) {
  cluster.NewRun("gpt");
  cluster.NewRun("llama");
  pb::RemoveSnapshotsRequest request;
  request.mutable_caller()->set_protocol_version(kControlProtocolVersion);
  request.set_job("gtp");
  auto refused = cluster.Call<pb::RemoveSnapshotsReply>("RemoveSnapshots", request);
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(refused.status().ToString(), HasSubstr("gpt, llama"));
}

TEST_F(PlacementMembers, StopReleasesEveryLongPoll) {
  std::optional<absl::StatusOr<std::string>> watched;
  pb::WatchMapRequest request;
  request.mutable_caller()->set_protocol_version(kControlProtocolVersion);
  request.set_known_version(4);
  request.set_wait_ms(30'000);
  cluster.CallBeside("WatchMap", request.SerializeAsString(), &watched);
  cluster.Run(100ms);
  bool stopped = false;

  struct Stopper {
    static Task<void> Run(PlacementManager* manager, bool* done) {
      co_await manager->Stop();
      *done = true;
    }
  };

  cluster.node().loop->Spawn(Stopper::Run(cluster.node().manager.get(), &stopped));
  EXPECT_TRUE(cluster.RunUntil([&] { return stopped; }, 2s));
}

}  // namespace
}  // namespace gemel::placement_test

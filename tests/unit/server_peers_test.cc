// SPDX-License-Identifier: Apache-2.0
//
// Peers: sessions to real servers, and whom they refuse or lose.
#include <gtest/gtest.h>

#include "server/peers.h"
#include "tests/unit/server_world.h"

namespace gemel::testing {
namespace {

struct Calling : ServerWorld {
  Calling() : ServerWorld(2), life(&world, "caller"), control(Seams(), CallerId(), Incarnation()) {
    control.SetCluster(fake().cluster);
    peers = std::make_unique<Peers>(Seams(), &control, "caller");
  }

  ~Calling() {
    peers->CloseAll(error::Unavailable("the test ends"));
    peers = nullptr;
    life.Kill();
  }

  static ServerId CallerId() {
    ServerId id;
    id.bytes[0] = 0x99;
    return id;
  }

  ServerSeams Seams() {
    ServerSeams seams;
    seams.loop = &life.loop;
    seams.net = &life.net;
    seams.events = &events;
    seams.metrics = &metrics;
    return seams;
  }

  absl::StatusOr<std::shared_ptr<Session>> SessionTo(const PeerMember& member,
                                                     Duration limit = 5s) {
    return life.Run(peers->SessionTo(member, Add(life.loop.Now(), limit)));
  }

  Life life;
  CountedEvents events;
  MetricRegistry metrics;
  Control control;
  std::unique_ptr<Peers> peers;
};

TEST(Peers, HasOneSessionForAllThatAskForAPeer) {
  Calling c;
  const PeerMember member = c.nodes[0]->AsMember();
  using Answer = absl::StatusOr<std::shared_ptr<Session>>;
  auto first = std::make_shared<std::optional<Answer>>();
  c.life.loop.Spawn(Life::Keep(c.peers->SessionTo(member, Add(c.life.loop.Now(), 5s)), first));
  const auto second = c.SessionTo(member);
  ASSERT_TRUE(c.world.RunUntil([&] { return first->has_value(); }));
  ASSERT_TRUE((*first)->ok() && second.ok());
  EXPECT_EQ(**first, second);
  EXPECT_EQ(c.server(0).holder().sessions(), 1U);
}

TEST(Peers, RefusesAnotherIncarnationThanTheOneAskedFor) {
  Calling c;
  PeerMember member = c.nodes[0]->AsMember();
  member.incarnation.bytes[3] ^= 1;
  const absl::Status refused = c.SessionTo(member).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition) << refused;
  EXPECT_NE(MessageOf(refused).find(c.server(0).incarnation().ToShort()), std::string_view::npos);
  EXPECT_TRUE(c.peers->TakeUnreachable().empty()) << "it answers, it is only another";
}

TEST(Peers, RefusesWhoAnswersInAnothersPlace) {
  Calling c;
  PeerMember member = c.nodes[0]->AsMember();
  member.data_address = c.server(1).data_address();
  EXPECT_EQ(c.SessionTo(member).status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST(Peers, RefusesAPeerOfAnotherCluster) {
  Calling c;
  ClusterId other = c.fake().cluster;
  other.bytes[5] ^= 1;
  c.control.SetCluster(other);
  const absl::Status refused = c.SessionTo(c.nodes[0]->AsMember()).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(MessageOf(refused).find(other.ToHex()), std::string_view::npos) << refused;
}

TEST(Peers, ChecksVersionAndClusterOfAHello) {
  PeerHello hello;
  hello.server_name = "server-9";
  EXPECT_TRUE(CheckPeerHello(hello, ClusterId()).ok());
  hello.version += 1;
  const absl::Status version = CheckPeerHello(hello, ClusterId());
  EXPECT_EQ(version.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(MessageOf(version).find("server-9"), std::string_view::npos);
}

TEST(Peers, ReportsOnceWhoIsUnreachable) {
  Calling c;
  PeerMember member = c.nodes[0]->AsMember();
  c.Kill(0);
  EXPECT_EQ(c.SessionTo(member).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(c.peers->TakeUnreachable(), std::vector<ServerId>{member.server});
  EXPECT_TRUE(c.peers->TakeUnreachable().empty());
}

TEST(Peers, WakesWhoReportsWhenASessionIsReset) {
  Calling c;
  const PeerMember member = c.nodes[0]->AsMember();
  ASSERT_TRUE(c.SessionTo(member).ok());
  const TimePoint began = c.life.loop.Now();
  auto woken = std::make_shared<std::optional<int>>();
  const auto wait = [](Calling* c, std::shared_ptr<std::optional<int>> out) -> Task<void> {
    co_await c->peers->AwaitReset(Add(c->life.loop.Now(), 100ms));
    *out = static_cast<int>(c->peers->TakeUnreachable().size());
  };
  c.life.loop.Spawn(wait(&c, woken));
  c.world.RunFor(20ms);
  EXPECT_FALSE(woken->has_value());
  c.world.world.BreakConnections("caller", "server-0");
  ASSERT_TRUE(c.world.RunUntil([&] { return woken->has_value(); }));
  EXPECT_EQ(**woken, 1);
  EXPECT_LE(c.life.loop.Now() - began, 40ms);
  woken->reset();
  c.life.loop.Spawn(wait(&c, woken));  // what was told is no news
  ASSERT_TRUE(c.world.RunUntil([&] { return woken->has_value(); }));
  EXPECT_GE(c.life.loop.Now() - began, 120ms);
  EXPECT_EQ(**woken, 0);
}

TEST(Peers, ReportsAPeerWhoseSessionWasReset) {
  Calling c;
  const PeerMember member = c.nodes[0]->AsMember();
  ASSERT_TRUE(c.SessionTo(member).ok());
  EXPECT_TRUE(c.peers->TakeUnreachable().empty());
  c.world.world.BreakConnections("caller", "server-0");
  c.world.RunFor(10ms);
  ASSERT_TRUE(c.SessionTo(member).ok()) << "a new session";
  EXPECT_EQ(c.peers->TakeUnreachable(), std::vector<ServerId>{member.server});
}

TEST(Peers, WaitsBetweenAttemptsAtADeadPeer) {
  Calling c;
  PeerMember member = c.nodes[0]->AsMember();
  c.Kill(0);
  const TimePoint before = c.life.loop.Now();
  for (int i = 0; i < 6; ++i) {
    EXPECT_FALSE(c.SessionTo(member).ok());
  }
  // 10 + 20 + 40 + 80 + 160 ms between six attempts.
  EXPECT_GE(c.life.loop.Now() - before, 310ms);
  // With less time than the wait, the last error comes at once.
  const TimePoint asked = c.life.loop.Now();
  EXPECT_EQ(c.SessionTo(member, 1ms).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(c.life.loop.Now(), asked);
}

TEST(Peers, EndsAnAttemptAtItsDeadline) {
  Calling c;
  c.world.world.Partition({"caller"}, {"server-0"});
  const TimePoint before = c.life.loop.Now();
  EXPECT_FALSE(c.SessionTo(c.nodes[0]->AsMember(), 500ms).ok());
  EXPECT_LE(c.life.loop.Now() - before, 510ms);
}

TEST(Peers, EndsWhatWaitsForAPeerThatTheMapCallsDead) {
  Calling c;
  const PeerMember member = c.nodes[0]->AsMember();
  const auto open = c.SessionTo(member);
  ASSERT_TRUE(open.ok());
  c.world.world.Partition({"caller"}, {"server-0"});
  Request request;
  request.type = FrameType::kProbe;
  using Answer = absl::StatusOr<Reply>;
  auto answer = std::make_shared<std::optional<Answer>>();
  c.life.loop.Spawn(Life::Keep(
      (*open)->Call(std::move(request), MutableByteSpan(), Add(c.life.loop.Now(), 10s)), answer));
  c.world.RunFor(100ms);
  ASSERT_FALSE(answer->has_value());
  c.peers->SetDead({member.incarnation});
  c.world.RunFor(1ms);
  ASSERT_TRUE(answer->has_value());
  EXPECT_EQ((*answer)->status().code(), absl::StatusCode::kUnavailable) << (*answer)->status();
  const TimePoint asked = c.life.loop.Now();
  EXPECT_EQ(c.SessionTo(member).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(c.life.loop.Now(), asked);
  EXPECT_TRUE(c.peers->TakeUnreachable().empty()) << "placement knows";
}

TEST(Peers, OpensAgainToAPeerThatALaterMapHasAlive) {
  Calling c;
  const PeerMember member = c.nodes[0]->AsMember();
  c.peers->SetDead({member.incarnation});
  ASSERT_FALSE(c.SessionTo(member).ok());
  c.peers->SetDead({});
  EXPECT_TRUE(c.SessionTo(member).ok());
}

TEST(Peers, OpensNothingAfterItWasClosed) {
  Calling c;
  const auto open = c.SessionTo(c.nodes[0]->AsMember());
  ASSERT_TRUE(open.ok());
  c.peers->CloseAll(error::Unavailable("stopping"));
  EXPECT_FALSE((*open)->open());
  EXPECT_EQ(c.SessionTo(c.nodes[1]->AsMember()).status().code(), absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace gemel::testing

// SPDX-License-Identifier: Apache-2.0
//
// Several lanes to a peer: a save over slow, cut, broken and lying paths; what a lost lane costs.
#include <gtest/gtest.h>

#include "server/peers.h"
#include "tests/unit/server_world.h"
#include "transport/addresses.h"

namespace gemel::testing {
namespace {

constexpr uint64_t kBytes = 24 * kMiB;
constexpr uint32_t kPaths = 4;

// What the network does on the way to one address.
struct Path {
  Duration per_mebibyte = 1ms;
  bool cut = false;      // swallows what is sent
  bool damages = false;  // payloads
  std::vector<Connection*> connections;
  uint64_t payloads = 0;
};

class PathConnection final : public Connection {
 public:
  PathConnection(Loop* loop, std::unique_ptr<Connection> inner, Path* path)
      : loop_(loop), inner_(std::move(inner)), path_(path), turn_(loop, 1) {
    path_->connections.push_back(inner_.get());
  }

  ~PathConnection() override { std::erase(path_->connections, inner_.get()); }

  void Start(ConnectionEvents* events) override { inner_->Start(events); }

  Task<absl::Status> Send(OutgoingFrame frame) override {
    const bool mine = co_await turn_.Acquire(1, kTimeNever);
    GEMEL_CHECK(mine);
    path_->payloads += frame.payload.empty() ? 0 : 1;
    co_await loop_->Sleep(path_->per_mebibyte * static_cast<int64_t>(frame.payload.size()) /
                          static_cast<int64_t>(kMiB));
    turn_.Release(1);
    if (path_->cut) {
      co_return absl::OkStatus();
    }
    if (path_->damages && !frame.payload.empty()) {
      auto damaged =
          std::make_shared<std::vector<std::byte>>(frame.payload.begin(), frame.payload.end());
      damaged->front() ^= std::byte{1};
      frame.payload = *damaged;
      frame.keep = damaged;
    }
    co_return co_await inner_->Send(std::move(frame));
  }

  void Close(absl::Status why) override { inner_->Close(std::move(why)); }

  std::string peer() const override { return inner_->peer(); }

 private:
  Loop* const loop_;
  const std::unique_ptr<Connection> inner_;
  Path* const path_;
  Semaphore turn_;
};

// A Net whose ways out to known addresses are paths.
class PathNet final : public Net {
 public:
  PathNet(Loop* loop, Net* real) : loop_(loop), real_(real) {}

  Task<absl::StatusOr<std::unique_ptr<Connection>>> Connect(std::string address,
                                                            TimePoint deadline) override {
    const auto path = paths.find(address);
    if (path != paths.end() && path->second.cut) {
      co_await loop_->SleepUntil(deadline);
      co_return error::DeadlineExceeded("{} is cut off", address);
    }
    absl::StatusOr<std::unique_ptr<Connection>> made = co_await real_->Connect(address, deadline);
    if (!made.ok() || path == paths.end()) {
      co_return made;
    }
    co_return std::make_unique<PathConnection>(loop_, *std::move(made), &path->second);
  }

  absl::StatusOr<std::unique_ptr<Listener>> Listen(std::string address,
                                                   AcceptCallback accept) override {
    return real_->Listen(std::move(address), std::move(accept));
  }

  std::map<std::string, Path> paths;

 private:
  Loop* const loop_;
  Net* const real_;
};

// server-0 saves, server-1 holds the second copy and has kPaths addresses.
struct Spraying : ServerWorld {
  Spraying() : ServerWorld(0, {256 * kMiB, 2 * kMiB}) {
    for (uint32_t i = 0; i < 2; ++i) {
      disks.push_back(std::make_unique<SimDiskState>());
      const std::string name = "server-" + std::to_string(i);
      nodes.push_back(std::make_unique<ServerNode>(&world, name, disks[i].get(),
                                                   ServerNode::Memory{256 * kMiB, 2 * kMiB}));
      ServerNode& node = *nodes[i];
      for (uint32_t path = 1; path < kPaths; ++path) {
        node.options.data_address += ",sim://" + name + "/0";
      }
      if (i == 0) {
        net = std::make_unique<PathNet>(&node.life.loop, &node.life.net);
      }
      node.UseNet(i == 0 ? static_cast<Net*>(net.get()) : &node.life.net);
      GEMEL_CHECK(node.life.Run(node.server->Start()).ok());
    }
    for (const std::string& address : SplitAddresses(server(1).data_address())) {
      addresses.push_back(address);
      net->paths[address];
    }
    GEMEL_CHECK_EQ(addresses.size(), kPaths);
    client = std::make_unique<TestClient>(&world, "server-0");
    GEMEL_CHECK(client->Hello("server-0").ok());
    world.RunFor(200ms);
  }

  ~Spraying() {
    client = nullptr;
    nodes.clear();  // before the net that they use
  }

  Path& path(uint32_t i) { return net->paths.at(addresses[i]); }

  // How long a save takes from its seal until both copies are there.
  absl::StatusOr<Duration> Save(const std::string& name, uint64_t bytes = kBytes) {
    const TimePoint began = client->life.loop.Now();
    const absl::StatusOr<OpenShardReply> opened = client->Save(name, 0, 1, bytes);
    if (!opened.ok()) {
      return opened.status();
    }
    const auto done = client->Await(opened->snapshot, 0);
    if (!done.ok() || done->state != CommitState::kCommitted) {
      return done.ok() ? error::Aborted("{}", done->why) : done.status();
    }
    const ShardId shard{opened->snapshot, 0};
    GEMEL_CHECK(server(1).objects().Find(shard)->state() == ObjectState::kSealed);
    return client->life.loop.Now() - began;
  }

  int64_t Counted(const std::string& name) { return nodes[0]->metrics.Counter(name, "").Get(); }

  std::unique_ptr<PathNet> net;
  std::vector<std::string> addresses;
  std::unique_ptr<TestClient> client;
};

TEST(Lanes, ASaveGoesOverAllOfThem) {
  Spraying s;
  ASSERT_TRUE(s.Save("1").ok()) << "opens the lanes";
  for (uint32_t i = 0; i < kPaths; ++i) {
    s.path(i).payloads = 0;
  }
  const auto took = s.Save("2");
  ASSERT_TRUE(took.ok()) << took.status();
  for (uint32_t i = 0; i < kPaths; ++i) {
    EXPECT_GE(s.path(i).payloads, 4U) << "path " << i;
  }
  EXPECT_EQ(s.server(1).holder().sessions(), kPaths);
  EXPECT_EQ(s.Counted("gemel_replication_retries_total"), 0);
}

TEST(Lanes, ASlowOneGetsOneSliceAtATimeAndTheRestDoNotWaitForIt) {
  Spraying s;
  ASSERT_TRUE(s.Save("1").ok());
  const auto before = s.Save("2");
  ASSERT_TRUE(before.ok()) << before.status();
  s.path(2).per_mebibyte = 40ms;
  ASSERT_TRUE(s.Save("3").ok()) << "it learns how slow that one is";
  s.world.RunFor(1s);
  s.path(2).payloads = 0;
  const auto took = s.Save("4");
  ASSERT_TRUE(took.ok()) << took.status();
  EXPECT_LE(s.path(2).payloads, 1U);
  EXPECT_LE(*took, *before + 10ms) << "24 slices of 1 ms over 3 lanes, not 4";
  s.world.RunFor(1s);
  s.path(2).payloads = 0;
  ASSERT_TRUE(s.Save("5", 48 * kMiB).ok()) << "more than the windows of the others hold";
  s.world.RunFor(1s);  // until what was queued on it has left
  EXPECT_LE(s.path(2).payloads, 1U);
}

TEST(Lanes, OneThatIsCutCostsWhatWasUnderWayOnIt) {
  Spraying s;
  const auto before = s.Save("1");
  ASSERT_TRUE(before.ok()) << before.status();
  s.path(1).cut = true;
  s.path(0).cut = true;  // that of the control calls, too
  const auto took = s.Save("2");
  ASSERT_TRUE(took.ok()) << took.status();
  EXPECT_GT(s.Counted("gemel_slices_again_total"), 0);
  EXPECT_LE(*took, *before + 2 * kLaneDeadline + 500ms);
  const auto after = s.Save("3");
  ASSERT_TRUE(after.ok()) << after.status();
  EXPECT_LE(*after, *before + 100ms) << "what is known to be late carries no control call";
}

TEST(Lanes, OneThatBreaksIsOpenedAgainAndNobodyIsReported) {
  Spraying s;
  ASSERT_TRUE(s.Save("1").ok());
  s.path(1).connections.front()->Close(error::Unavailable("the path broke"));
  s.world.RunFor(100ms);
  EXPECT_EQ(s.server(1).holder().sessions(), kPaths - 1);
  ASSERT_TRUE(s.Save("2").ok());
  s.world.RunFor(100ms);
  EXPECT_EQ(s.server(1).holder().sessions(), kPaths);
  EXPECT_EQ(s.nodes[0]->events.counts["peer_session_lost"], 1U);
  EXPECT_EQ(s.nodes[0]->events.counts["copy_delayed"], 0U);
}

TEST(Lanes, AllThatBreakInASaveCostATry) {
  Spraying s;
  ASSERT_TRUE(s.Save("1").ok());
  for (uint32_t i = 0; i < kPaths; ++i) {
    s.path(i).per_mebibyte = 20ms;
  }
  const auto opened = s.client->Save("2", 0, 1, kBytes);
  ASSERT_TRUE(opened.ok());
  s.world.RunFor(30ms);
  s.world.world.BreakConnections("server-0", "server-1");
  const auto done = s.client->Await(opened->snapshot, 0);
  ASSERT_TRUE(done.ok() && done->state == CommitState::kCommitted);
}

TEST(Lanes, OneThatDamagesIsLeftOutAndTheCopyIsWhole) {
  Spraying s;
  ASSERT_TRUE(s.Save("1").ok());
  s.path(3).damages = true;
  ASSERT_TRUE(s.Save("2").ok());
  EXPECT_GT(s.nodes[1]->events.counts["chunk_corrupt"], 0U);
  EXPECT_EQ(s.Counted("gemel_replication_retries_total"), 0);
  s.path(3).payloads = 0;
  ASSERT_TRUE(s.Save("3").ok());
  EXPECT_EQ(s.path(3).payloads, 0U) << "paused";
}

TEST(Lanes, AReadGoesOnOverTheOthersWhenOneIsCut) {
  Spraying s;
  const auto opened = s.client->Save("1", 0, 1, kBytes);
  ASSERT_TRUE(opened.ok());
  ASSERT_EQ(s.client->Await(opened->snapshot, 0)->state, CommitState::kCommitted);
  s.world.RunFor(100ms);
  pb::Directive dropped;
  WriteSnapshotId(opened->snapshot, dropped.mutable_drop_snapshot()->mutable_snapshot());
  ASSERT_EQ(s.Do(0, dropped).code(), 0U);
  s.path(2).cut = true;
  const auto begun = s.client->Begin();
  ASSERT_TRUE(begun.ok()) << begun.status();
  const auto fetched = s.client->Fetch(begun->restore, 0, 0, kBytes / kMiB);
  ASSERT_TRUE(fetched.ok()) << fetched.status();
  EXPECT_TRUE(s.client->Holds(*fetched, 0, 0));
}

}  // namespace
}  // namespace gemel::testing

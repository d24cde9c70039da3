// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstring>
#include <set>

#include "common/xxh3.h"
#include "tests/unit/sim_fabric_nodes.h"
#include "transport/region.h"

namespace gemel::testing {
namespace {

constexpr std::string_view kAddress = "sim://b/7000";
constexpr uint32_t kAlways = 1'000'000;

std::vector<std::byte> Bytes(size_t count, int seed) {
  std::vector<std::byte> bytes(count);
  for (size_t i = 0; i < count; ++i) {
    bytes[i] = static_cast<std::byte>((i * 31 + static_cast<size_t>(seed)) & 0xff);
  }
  return bytes;
}

class SimFabric : public ::testing::Test {
 protected:
  World world_{7};
  Life a_{&world_, "a"};
  Life b_{&world_, "b"};
  Link link_{&a_, &b_, std::string(kAddress)};

  LinkFaults& Faults() { return world_.world.Faults("a", "b"); }

  void Post(OutgoingFrame frame) {
    a_.loop.Spawn(PostTask(link_.client_side.get(), std::move(frame), &sent_));
  }

  static Task<void> PostTask(Connection* connection, OutgoingFrame frame,
                             std::vector<absl::Status>* sent) {
    absl::Status status = co_await connection->Send(std::move(frame));
    sent->push_back(status);
  }

  bool ServerHas(size_t frames) {
    return world_.RunUntil([&] { return link_.server_events.frames.size() >= frames; }, 5s);
  }

  std::vector<absl::Status> sent_;
};

TEST_F(SimFabric, FramesArriveInTheOrderOfSending) {
  for (uint64_t op = 1; op <= 200; ++op) {
    Post(FrameOf(FrameType::kProbe, op, "body " + std::to_string(op)));
  }
  ASSERT_TRUE(ServerHas(200));
  for (uint64_t op = 1; op <= 200; ++op) {
    EXPECT_EQ(link_.server_events.frames[op - 1].header.op, op);
    EXPECT_EQ(link_.server_events.frames[op - 1].body, "body " + std::to_string(op));
  }
  EXPECT_EQ(sent_.size(), 200U);
  EXPECT_EQ(world_.world.Stats("a", "b").frames, 200U);
}

TEST_F(SimFabric, OrderHoldsForFramesThatAPartitionHeldBack) {
  world_.world.Partition({"a"}, {"b"});
  for (uint64_t op = 1; op <= 50; ++op) {
    Post(FrameOf(FrameType::kProbe, op));
  }
  world_.RunFor(1s);
  EXPECT_TRUE(link_.server_events.frames.empty());
  EXPECT_EQ(sent_.size(), 50U) << "LOCAL needs no peer";
  world_.world.Heal();
  Post(FrameOf(FrameType::kProbe, 51));
  ASSERT_TRUE(ServerHas(51));
  for (uint64_t op = 1; op <= 51; ++op) {
    EXPECT_EQ(link_.server_events.frames[op - 1].header.op, op);
  }
}

TEST_F(SimFabric, APartitionOneWayLetsTheOtherWayThrough) {
  world_.world.PartitionOneWay({"a"}, {"b"});
  Post(FrameOf(FrameType::kProbe, 1));
  absl::Status back = b_.Run(link_.server_side->Send(FrameOf(FrameType::kProbe, 2)));
  EXPECT_TRUE(back.ok());
  ASSERT_TRUE(world_.RunUntil([&] { return !link_.client_events.frames.empty(); }, 1s));
  EXPECT_FALSE(ServerHas(1));
  world_.world.Heal("a", "b");
  EXPECT_TRUE(ServerHas(1));
}

TEST_F(SimFabric, ABridgeNodeSeesBothSidesOfAPartition) {
  Life c(&world_, "c");
  world_.world.Partition({"a"}, {"b"});
  Link bridge(&a_, &c, "sim://c/1");
  Link other(&c, &b_, "sim://b/2");
  auto across = a_.Run(a_.net.Connect("sim://b/2", world_.In(1s)));
  EXPECT_EQ(across.status().code(), absl::StatusCode::kDeadlineExceeded);
}

TEST_F(SimFabric, AClogDelaysEverything) {
  Faults().clogged_until = world_.In(3s);
  Post(FrameOf(FrameType::kProbe, 1));
  world_.RunFor(2900ms);
  EXPECT_TRUE(link_.server_events.frames.empty());
  EXPECT_TRUE(ServerHas(1));
}

TEST_F(SimFabric, APayloadLandsAtItsPlaceAndARevokeFallsInBetween) {
  const std::vector<std::byte> payload = Bytes(kChunkBytes, 3);
  int cut_in_between = 0;
  for (uint64_t op = 1; op <= 40; ++op) {
    std::vector<std::byte> place(kChunkBytes);
    auto revocation = std::make_shared<Revocation>();
    bool placing = false;
    link_.server_events.choose = [&](const FrameHeader&) {
      placing = true;
      return Placement{place, revocation};
    };
    Post(FrameOf(FrameType::kWrite, op, "", payload));
    ASSERT_TRUE(world_.RunUntil([&] { return placing; }));
    if (link_.server_events.frames.size() < op) {
      revocation->Revoke();
    }
    const std::vector<std::byte> before = place;
    ASSERT_TRUE(ServerHas(op));
    const IncomingFrame& frame = link_.server_events.frames.back();
    if (frame.payload_dropped) {
      cut_in_between += 1;
      EXPECT_EQ(place, before) << "bytes landed behind a fence";
      EXPECT_TRUE(frame.payload.empty());
    } else {
      EXPECT_EQ(place, payload);
    }
  }
  EXPECT_GT(cut_in_between, 5);
  EXPECT_LT(cut_in_between, 35);
}

TEST_F(SimFabric, ThePayloadIsReadBeforeLocalAndNotAfter) {
  int changed_in_flight = 0;
  for (uint64_t op = 1; op <= 20; ++op) {
    std::vector<std::byte> source = Bytes(1000, 1);
    std::vector<std::byte> place(1000);
    link_.server_events.choose = [&](const FrameHeader&) { return Placement{place}; };
    Post(FrameOf(FrameType::kWrite, op, "", source));
    // Reused 5 µs after the post, mostly before LOCAL: often too early, and the receiver shows it.
    world_.RunFor(5us);
    if (sent_.size() < op) {
      std::ranges::fill(source, std::byte{0xee});
    }
    ASSERT_TRUE(world_.RunUntil([&] { return sent_.size() == op; }));
    std::ranges::fill(source, std::byte{0x11});
    ASSERT_TRUE(ServerHas(op));
    EXPECT_NE(place, source) << "read after LOCAL";
    changed_in_flight += place == Bytes(1000, 1) ? 0 : 1;
  }
  EXPECT_GT(changed_in_flight, 0);
  EXPECT_LT(changed_in_flight, 20);
}

TEST_F(SimFabric, AResetClosesBothEndsAndMayLeaveAPartOfThePayload) {
  const std::vector<std::byte> payload = Bytes(kChunkBytes, 3);
  std::vector<std::byte> place(kChunkBytes);
  link_.server_events.choose = [&](const FrameHeader&) { return Placement{place}; };
  Faults().reset_ppm = kAlways;
  Post(FrameOf(FrameType::kWrite, 1, "", payload));
  ASSERT_TRUE(world_.RunUntil([&] { return !link_.client_events.closed.empty(); }));
  ASSERT_EQ(link_.server_events.closed.size(), 1U);
  EXPECT_EQ(link_.server_events.closed[0].code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(link_.client_events.closed[0].code(), absl::StatusCode::kUnavailable);
  EXPECT_TRUE(link_.server_events.frames.empty());
  EXPECT_NE(place, payload);
  absl::Status after = a_.Run(link_.client_side->Send(FrameOf(FrameType::kProbe, 2)));
  EXPECT_EQ(after.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(world_.world.TotalStats().resets, 1U);
}

TEST_F(SimFabric, ABitFlippedOnTheWireIsSeenByAChecksumOrIsInThePayload) {
  Faults().corrupt_ppm = kAlways;
  Post(FrameOf(FrameType::kProbe, 1, "a body"));
  ASSERT_TRUE(world_.RunUntil([&] { return !link_.server_events.closed.empty(); }));
  EXPECT_EQ(link_.server_events.closed[0].code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(link_.server_events.frames.empty());
}

TEST_F(SimFabric, CloseTellsThisSideItsOwnReasonAndFailsSendsInProgress) {
  Post(FrameOf(FrameType::kProbe, 1));
  world_.RunFor(1us);
  link_.client_side->Close(error::Cancelled("enough"));
  EXPECT_TRUE(link_.client_events.closed.empty()) << "no call back from within a call";
  ASSERT_TRUE(world_.RunUntil([&] { return !link_.server_events.closed.empty(); }));
  ASSERT_EQ(link_.client_events.closed.size(), 1U);
  EXPECT_EQ(link_.client_events.closed[0].code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(link_.server_events.closed[0].code(), absl::StatusCode::kUnavailable);
  ASSERT_EQ(sent_.size(), 1U);
  EXPECT_EQ(sent_[0].code(), absl::StatusCode::kCancelled);
}

TEST_F(SimFabric, AKilledProcessClosesItsConnectionsAndFreesItsAddress) {
  b_.Kill();
  ASSERT_TRUE(world_.RunUntil([&] { return !link_.client_events.closed.empty(); }, 1s));
  EXPECT_EQ(link_.client_events.closed[0].code(), absl::StatusCode::kUnavailable);
  EXPECT_TRUE(link_.server_events.closed.empty()) << "called into a dead process";
  auto refused = a_.Run(a_.net.Connect(std::string(kAddress), world_.In(1s)));
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kUnavailable);
  Life again(&world_, "b");
  EXPECT_TRUE(again.net.Listen(std::string(kAddress), [](auto) {}).ok());
}

TEST_F(SimFabric, ADeathBehindABlackholeIsNeverToldButTheNextFrameFindsOut) {
  world_.world.Partition({"a"}, {"b"});
  b_.Kill();
  world_.RunFor(100s);
  EXPECT_TRUE(link_.client_events.closed.empty());
  world_.world.Heal();
  world_.RunFor(100s);
  EXPECT_TRUE(link_.client_events.closed.empty());
  Post(FrameOf(FrameType::kProbe, 1));
  EXPECT_TRUE(world_.RunUntil([&] { return !link_.client_events.closed.empty(); }, 1s));
}

TEST_F(SimFabric, APausedProcessGetsItsFramesWhenItGoesOn) {
  b_.loop.Pause();
  Post(FrameOf(FrameType::kProbe, 1));
  world_.RunFor(10s);
  EXPECT_TRUE(link_.server_events.frames.empty());
  EXPECT_EQ(sent_.size(), 1U);
  b_.loop.Resume();
  EXPECT_TRUE(ServerHas(1));
}

TEST_F(SimFabric, AFullWindowStopsTheSenderUntilTheReceiverReads) {
  const std::vector<std::byte> payload = Bytes(kChunkBytes, 1);
  b_.loop.Pause();
  for (uint64_t op = 1; op <= 20; ++op) {
    Post(FrameOf(FrameType::kWrite, op, "", payload));
  }
  world_.RunFor(10s);
  EXPECT_GE(sent_.size(), 8U);
  EXPECT_LT(sent_.size(), 10U);
  b_.loop.Resume();
  EXPECT_TRUE(ServerHas(20));
  EXPECT_EQ(sent_.size(), 20U);
}

TEST_F(SimFabric, ALateWriteIsRefusedByTheGenerationOfItsRegion) {
  std::vector<std::byte> place(kChunkBytes);
  RegionTable regions;
  Grant grant = regions.Open({MutableByteSpan(place)}, place.size(), Incarnation());
  std::vector<absl::Status> verdicts;
  link_.server_events.choose = [&](const FrameHeader& header) {
    auto placement = regions.BeginPlacing(header, {&link_});
    verdicts.push_back(placement.status());
    return placement.ok() ? *placement : Placement();
  };
  Faults().late_write_ppm = kAlways;
  const std::vector<std::byte> payload = Bytes(kChunkBytes, 9);
  OutgoingFrame write = FrameOf(FrameType::kWrite, 1, "", payload);
  write.header.region = grant.region;
  write.header.generation = grant.generation;
  Post(std::move(write));
  ASSERT_TRUE(ServerHas(1));
  ASSERT_TRUE(
      regions.FinishPlacing(link_.server_events.frames[0].header, Xxh3_128(payload), &link_).ok());
  ASSERT_TRUE(regions.Close(grant.region, grant.generation).ok());
  std::ranges::fill(place, std::byte{0});
  ASSERT_TRUE(ServerHas(2));
  ASSERT_EQ(verdicts.size(), 2U);
  EXPECT_TRUE(verdicts[0].ok());
  EXPECT_FALSE(verdicts[1].ok());
  EXPECT_TRUE(link_.server_events.frames[1].payload_dropped);
  EXPECT_NE(link_.server_events.frames[1].header.op, 1U) << "an op that a call may wait for";
  EXPECT_EQ(std::ranges::count(place, std::byte{0}), static_cast<int64_t>(kChunkBytes));
}

TEST_F(SimFabric, ALateWriteOfAClosedConnectionComesOverAnother) {
  Faults().late_write_ppm = kAlways;
  Faults().late_max = 100ms;
  const std::vector<std::byte> payload = Bytes(100, 1);
  Post(FrameOf(FrameType::kWrite, 5, "", payload));
  ASSERT_TRUE(ServerHas(1));
  link_.listener.reset();
  Link second(&a_, &b_, std::string(kAddress));
  absl::Status hello = a_.Run(second.client_side->Send(FrameOf(FrameType::kPeerHello, 1)));
  ASSERT_TRUE(hello.ok());
  link_.client_side->Close(error::Cancelled("first lane gone"));
  link_.server_side->Close(error::Cancelled("first lane gone"));
  ASSERT_TRUE(world_.RunUntil([&] { return second.server_events.frames.size() == 2; }));
  EXPECT_EQ(second.server_events.frames[1].header.type, FrameType::kWrite);
}

TEST_F(SimFabric, ADuplicateWriteFollowsTheFirst) {
  Faults().duplicate_ppm = kAlways;
  const std::vector<std::byte> payload = Bytes(100, 1);
  Post(FrameOf(FrameType::kWrite, 5, "", payload));
  Post(FrameOf(FrameType::kProbe, 6));
  ASSERT_TRUE(ServerHas(3));
  EXPECT_EQ(link_.server_events.frames[0].header.op, 5U);
  EXPECT_NE(link_.server_events.frames[1].header.op, 5U);
  EXPECT_EQ(link_.server_events.frames[2].header.op, 6U);
}

TEST_F(SimFabric, ATakenAddressIsAlreadyExistsAndNamesTheOwner) {
  Life other(&world_, "b");
  auto taken = other.net.Listen(std::string(kAddress), [](auto) {});
  EXPECT_EQ(taken.status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_NE(MessageOf(taken.status()).find(b_.process->ToString()), std::string_view::npos);
  auto elsewhere = a_.net.Listen("sim://b/7001", [](auto) {});
  EXPECT_EQ(elsewhere.status().code(), absl::StatusCode::kInvalidArgument);
  auto chosen = b_.net.Listen("sim://b/0", [](auto) {});
  EXPECT_NE((*chosen)->address(), "sim://b/0");
  auto nonsense = a_.Run(a_.net.Connect("tcp://127.0.0.1:1", world_.In(1s)));
  EXPECT_EQ(nonsense.status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(SimFabric, HandlesTravelOverUnixSocketsOnly) {
  Life client(&world_, "b");
  Link local(&client, &b_, "unix:///run/gemel.sock");
  auto memory = client.host.CreateMemory("slab", 4096);
  ASSERT_TRUE(memory.ok());
  OutgoingFrame with = FrameOf(FrameType::kClientHello, 1);
  with.handles.push_back(*memory);
  EXPECT_TRUE(client.Run(local.client_side->Send(with)).ok());
  ASSERT_TRUE(world_.RunUntil([&] { return !local.server_events.frames.empty(); }));
  ASSERT_EQ(local.server_events.frames[0].handles.size(), 1U);
  EXPECT_EQ(local.server_events.frames[0].handles[0], *memory);
  absl::Status refused = a_.Run(link_.client_side->Send(std::move(with)));
  EXPECT_EQ(refused.code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(SimFabric, BreakingALinkResetsBothEnds) {
  world_.world.BreakConnections("a", "b");
  ASSERT_TRUE(world_.RunUntil([&] { return link_.server_events.closed.size() == 1; }, 1ms));
  EXPECT_EQ(link_.client_events.closed.size(), 1U);
}

TEST_F(SimFabric, CuttingTwoProcessesOffLeavesTheOthersOfTheirNodes) {
  Life other(&world_, "a");
  Link beside(&other, &b_, "sim://b/7001");
  world_.world.CutOff(a_.process.get(), b_.process.get());
  ASSERT_TRUE(world_.RunUntil([&] { return link_.server_events.closed.size() == 1; }, 1ms));
  EXPECT_EQ(link_.client_events.closed.size(), 1U);
  EXPECT_TRUE(other.Run(beside.client_side->Send(FrameOf(FrameType::kProbe, 1))).ok());
  EXPECT_TRUE(world_.RunUntil([&] { return beside.server_events.frames.size() == 1; }, 1s));
}

TEST_F(SimFabric, WhatLandsIsToldWithItsNode) {
  uint64_t landed = 0;
  std::set<std::string> nodes;
  world_.world.SetOnLanded([&](const std::string& node, ByteSpan bytes) {
    nodes.insert(node);
    landed += bytes.size();
  });
  const std::vector<std::byte> payload = Bytes(100'000, 1);
  std::vector<std::byte> place(payload.size());
  link_.server_events.choose = [&place](const FrameHeader&) { return Placement{place, nullptr}; };
  Post(FrameOf(FrameType::kWrite, 1, "", payload));
  ASSERT_TRUE(ServerHas(1));
  EXPECT_EQ(landed, payload.size());
  EXPECT_EQ(nodes, std::set<std::string>{"b"});
}

// A coroutine whose frame the test destroys while it waits.
struct Dropped {
  struct promise_type {
    Dropped get_return_object() {
      return {std::coroutine_handle<promise_type>::from_promise(*this)};
    }

    std::suspend_always initial_suspend() const noexcept { return {}; }

    std::suspend_always final_suspend() const noexcept { return {}; }

    void return_void() const noexcept {}

    void unhandled_exception() const noexcept { std::terminate(); }
  };

  std::coroutine_handle<promise_type> handle;

  static Dropped Await(Task<absl::Status> task) { static_cast<void>(co_await std::move(task)); }
};

TEST_F(SimFabric, ASendDestroyedBeforeItsPayloadWasReadClosesTheConnection) {
  auto payload = std::make_unique<std::vector<std::byte>>(Bytes(1000, 1));
  Dropped sending = Dropped::Await(
      link_.client_side->Send(FrameOf(FrameType::kWrite, 1, "", ByteSpan(*payload))));
  internal::Resume(sending.handle);
  sending.handle.destroy();
  payload.reset();
  ASSERT_TRUE(world_.RunUntil([&] { return !link_.client_events.closed.empty(); }));
  EXPECT_EQ(link_.client_events.closed[0].code(), absl::StatusCode::kCancelled);
  EXPECT_TRUE(link_.server_events.frames.empty());
}

TEST_F(SimFabric, ASendDestroyedWithItsPayloadKeptIsSentAllTheSame) {
  auto payload = std::make_shared<std::vector<std::byte>>(Bytes(1000, 1));
  std::vector<std::byte> place(1000);
  link_.server_events.choose = [&](const FrameHeader&) { return Placement{place}; };
  OutgoingFrame frame = FrameOf(FrameType::kWrite, 1, "", ByteSpan(*payload));
  frame.keep = payload;
  payload.reset();
  Dropped sending = Dropped::Await(link_.client_side->Send(std::move(frame)));
  internal::Resume(sending.handle);
  sending.handle.destroy();
  ASSERT_TRUE(ServerHas(1));
  EXPECT_EQ(place, Bytes(1000, 1));
}

uint64_t HistoryOf(uint64_t seed) {
  World world(seed);
  LinkFaults faults;
  faults.reset_ppm = 20'000;
  faults.late_write_ppm = 100'000;
  faults.duplicate_ppm = 100'000;
  world.world.SetDefaultFaults(faults);
  Life a(&world, "a");
  Life b(&world, "b");
  Link link(&a, &b, "sim://b/1");
  std::vector<std::byte> place(5000);
  link.server_events.choose = [&](const FrameHeader&) { return Placement{place}; };
  const std::vector<std::byte> payload = Bytes(5000, 2);
  for (uint64_t op = 1; op <= 100; ++op) {
    static_cast<void>(a.Run(link.client_side->Send(FrameOf(FrameType::kWrite, op, "", payload))));
  }
  world.RunFor(5s);
  return world.scheduler.history_hash();
}

TEST(SimFabricHistory, IsAFunctionOfTheSeed) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    EXPECT_EQ(HistoryOf(seed), HistoryOf(seed));
    EXPECT_NE(HistoryOf(seed), HistoryOf(seed + 1));
  }
}

}  // namespace
}  // namespace gemel::testing

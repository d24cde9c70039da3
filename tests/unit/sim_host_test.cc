// SPDX-License-Identifier: Apache-2.0
#include "tests/unit/sim_fabric_nodes.h"

namespace gemel::testing {
namespace {

class SimHostTest : public ::testing::Test {
 protected:
  World world_{3};
  Life server_{&world_, "a"};
  SimMachine* const machine_ = world_.world.machine("a");
};

TEST_F(SimHostTest, MemoryIsZeroedSharedAndCounted) {
  Life client(&world_, "a");
  auto memory = server_.host.CreateMemory("slab 1", 4096);
  ASSERT_TRUE(memory.ok());
  auto mine = server_.host.Map(*memory, 4096, Access::kReadWrite, true);
  auto theirs = client.host.Map(*memory, 4096, Access::kRead, false);
  ASSERT_TRUE(mine.ok() && theirs.ok());
  EXPECT_EQ((*theirs)->bytes()[17], std::byte{0});
  (*mine)->bytes()[17] = std::byte{5};
  EXPECT_EQ((*theirs)->bytes()[17], std::byte{5});
  EXPECT_EQ(machine_->memory_used_bytes(), 4096U);
  ASSERT_TRUE((*mine)->Protect(Access::kRead).ok());
  const auto& mappings = machine_->Memories("slab 1").at(0)->mappings;
  ASSERT_EQ(mappings.size(), 2U);
  EXPECT_EQ(mappings.begin()->second.access, Access::kRead);
  EXPECT_EQ(mappings.begin()->second.pid, server_.process->pid());
  EXPECT_EQ(mappings.begin()->second.protects, 1U);
}

TEST_F(SimHostTest, MemoryLivesAsLongAsAnyProcessHoldsIt) {
  auto keeper = std::make_unique<Life>(&world_, "a");
  std::shared_ptr<SharedHandle> kept;
  {
    auto memory = server_.host.CreateMemory("slab", 100);
    auto mapping = server_.host.Map(*memory, 100, Access::kReadWrite, true);
    (*mapping)->bytes()[0] = std::byte{9};
    kept = *memory;
  }
  server_.Kill();
  ASSERT_EQ(machine_->Memories("slab").size(), 1U);
  auto again = keeper->host.Map(kept, 100, Access::kRead, false);
  EXPECT_EQ((*again)->bytes()[0], std::byte{9});
  again->reset();
  kept.reset();
  EXPECT_TRUE(machine_->AllMemories().empty());
  EXPECT_EQ(machine_->memory_used_bytes(), 0U);
}

TEST_F(SimHostTest, ALimitRefusesMoreAndNamesItself) {
  machine_->SetMemoryLimit(1000);
  auto first = server_.host.CreateMemory("one", 600);
  auto second = server_.host.CreateMemory("two", 600);
  EXPECT_TRUE(first.ok());
  EXPECT_EQ(second.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_NE(MessageOf(second.status()).find("1000"), std::string_view::npos);
  first->reset();
  EXPECT_TRUE(server_.host.CreateMemory("two", 600).ok());
}

TEST_F(SimHostTest, FlipBitChangesOneBitForAllWhoMapIt) {
  auto memory = server_.host.CreateMemory("slab", 100);
  auto mapping = server_.host.Map(*memory, 100, Access::kRead, false);
  ASSERT_TRUE(machine_->FlipBit("slab", 8 * 42 + 3).ok());
  EXPECT_EQ((*mapping)->bytes()[42], std::byte{8});
  ASSERT_TRUE(machine_->FlipBit("slab", 8 * 42 + 3).ok());
  EXPECT_EQ((*mapping)->bytes()[42], std::byte{0});
  EXPECT_EQ(machine_->FlipBit("other", 1).code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(machine_->FlipBit("slab", 800).code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(SimHostTest, AnExitWatchFiresOnceAlsoForTheDead) {
  auto client = std::make_unique<Life>(&world_, "a");
  auto handle = client->host.OwnProcess();
  int exits = 0;
  auto watch = server_.host.WatchExit(*handle, [&] { exits += 1; });
  ASSERT_TRUE(watch.ok());
  world_.RunFor(1s);
  EXPECT_EQ(exits, 0);
  client->Kill();
  EXPECT_EQ(exits, 0) << "from the queue, not from within the kill";
  world_.RunFor(1s);
  EXPECT_EQ(exits, 1);
  auto late = server_.host.WatchExit(*handle, [&] { exits += 10; });
  world_.RunFor(1s);
  EXPECT_EQ(exits, 11);
}

TEST_F(SimHostTest, ADestroyedWatchStaysSilent) {
  auto client = std::make_unique<Life>(&world_, "a");
  auto handle = client->host.OwnProcess();
  int exits = 0;
  auto watch = server_.host.WatchExit(*handle, [&] { exits += 1; });
  client->Kill();
  watch->reset();
  world_.RunFor(1s);
  EXPECT_EQ(exits, 0);
}

TEST_F(SimHostTest, HandlesOfAnotherNodeAreRefused) {
  Life far(&world_, "b");
  auto memory = far.host.CreateMemory("slab", 10);
  EXPECT_EQ(server_.host.Map(*memory, 10, Access::kRead, false).status().code(),
            absl::StatusCode::kInvalidArgument);
  auto process = far.host.OwnProcess();
  EXPECT_EQ(server_.host.WatchExit(*process, [] {}).status().code(),
            absl::StatusCode::kInvalidArgument);
  auto own = server_.host.CreateMemory("own", 10);
  EXPECT_EQ(server_.host.Map(*own, 11, Access::kRead, false).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_F(SimHostTest, EntropyDiffersFromLifeToLifeAndNotFromRunToRun) {
  Life second(&world_, "a");
  World other_run(3);
  Life same(&other_run, "a");
  const uint64_t first = server_.process->Entropy64();
  EXPECT_NE(first, second.process->Entropy64());
  EXPECT_EQ(first, same.process->Entropy64());
}

}  // namespace
}  // namespace gemel::testing

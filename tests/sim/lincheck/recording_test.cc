// SPDX-License-Identifier: Apache-2.0
//
// Concurrent clients of a real MetaStore implementation, with unknown outcomes, recorded and
// judged.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "common/sim_loop.h"
#include "placement/store/sim_store.h"
#include "tests/sim/lincheck/recording_store.h"

namespace gemel::sim {
namespace {

// One client: reads a key, puts the next value by compare-and-set, goes on from what it is told.
Task<void> Use(RecordingStore* store, Loop* loop, Random random, size_t rounds) {
  for (size_t i = 0; i < rounds; ++i) {
    const std::string key = fmt::format("job/{}", random.Below(4));
    absl::StatusOr<std::optional<Versioned>> found = co_await store->Get(key);
    if (!found.ok()) {
      continue;
    }
    Txn txn;
    txn.compares.push_back({.key = key, .version = std::nullopt});
    if (found->has_value()) {
      txn.compares.back().version = (*found)->version;
    }
    txn.puts.emplace_back(key, fmt::format("{} {}", key, random.Next()));
    txn.puts.emplace_back("beside/" + key, fmt::format("{}", i));
    if (random.Chance(1, 10)) {
      txn.puts.pop_back();
      txn.deletes.push_back("beside/" + key);
    }
    absl::StatusOr<CommitResult> result = co_await store->Commit(std::move(txn));
    result.status().IgnoreError();  // the history says what came of it
    if (random.Chance(1, 8)) {
      absl::StatusOr<std::vector<KeyValue>> all = co_await store->List("job/");
      all.status().IgnoreError();
    }
    const auto pause = static_cast<int64_t>(random.Below(400));
    co_await loop->Sleep(std::chrono::microseconds(pause));
  }
}

struct Recorded {
  StoreRecorder recorder;
  uint64_t unknown = 0;
};

Recorded Record(uint64_t seed, uint32_t unknown_permille) {
  SimScheduler scheduler;
  SimLoop loop(&scheduler);
  SimStoreState state;
  state.random = Random(seed);
  state.unknown_permille = unknown_permille;
  Recorded recorded;
  std::vector<std::unique_ptr<SimStore>> inner;
  std::vector<std::unique_ptr<RecordingStore>> stores;
  for (uint32_t process = 0; process < 5; ++process) {
    inner.push_back(std::make_unique<SimStore>(&loop, &state));
    stores.push_back(
        std::make_unique<RecordingStore>(inner.back().get(), &recorded.recorder, process));
    loop.Spawn(Use(stores.back().get(), &loop, Random(seed).Split(fmt::format("{}", process)), 40));
  }
  // Some calls never end: the clients are killed in the middle.
  scheduler.RunUntil([] { return false; }, scheduler.now() + 30ms);
  loop.Kill();
  for (const Operation<StoreCall>& operation : recorded.recorder.history()) {
    recorded.unknown += operation.outcome == Outcome::kUnknown ? 1 : 0;
  }
  return recorded;
}

TEST(RecordingStore, HistoriesOfConcurrentClientsWithUnknownOutcomesAreLinearisable) {
  size_t operations = 0;
  uint64_t unknown = 0;
  for (uint64_t seed = 1; seed <= 200; ++seed) {
    const Recorded recorded = Record(seed, seed % 2 == 0 ? 100 : 0);
    ASSERT_TRUE(recorded.recorder.whole());
    const Verdict verdict = CheckStore(recorded.recorder.history());
    ASSERT_EQ(verdict.answer, Linearisable::kYes) << "seed " << seed << ": " << verdict.text;
    operations += recorded.recorder.history().size();
    unknown += recorded.unknown;
  }
  EXPECT_GT(operations, 20'000U);
  EXPECT_GT(unknown, 500U);
}

TEST(RecordingStore, AnUnknownOutcomeTakenForFailedIsFound) {
  size_t found = 0;
  for (uint64_t seed = 2; seed <= 60; seed += 2) {
    History<StoreCall> history = Record(seed, 100).recorder.history();
    for (Operation<StoreCall>& operation : history) {
      if (operation.call.kind == StoreCall::Kind::kCommit &&
          operation.outcome == Outcome::kUnknown) {
        operation.outcome = Outcome::kRefused;
        operation.returned = operation.invoked + 1;
      }
    }
    found += CheckStore(history).answer == Linearisable::kNo ? 1 : 0;
  }
  EXPECT_GT(found, 25U);
}

TEST(RecordingStore, AHistoryOfAStoreThatLosesAnUpdateIsRefused) {
  SimScheduler scheduler;
  SimLoop loop(&scheduler);
  SimStoreState state;
  SimStore inner(&loop, &state);
  StoreRecorder recorder;
  RecordingStore store(&inner, &recorder, 0);
  loop.Spawn(Use(&store, &loop, Random(3), 20));
  scheduler.RunUntil([&] { return state.transactions == 10; }, kTimeNever);
  const auto lost = state.values.lower_bound("job/");
  ASSERT_TRUE(lost != state.values.end());
  state.values.erase(lost);
  scheduler.RunUntil([] { return false; }, scheduler.now() + 100ms);
  loop.Kill();
  const Verdict verdict = CheckStore(recorder.history());
  EXPECT_EQ(verdict.answer, Linearisable::kNo);
}

}  // namespace
}  // namespace gemel::sim

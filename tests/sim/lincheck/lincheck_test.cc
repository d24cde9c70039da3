// SPDX-License-Identifier: Apache-2.0
//
// The checker is checked: by histories that are right by construction, by mutated ones that are
// wrong for a known reason, and by a search of all orders of small ones.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <span>

#include "common/epoll_loop.h"
#include "tests/sim/lincheck/job_model.h"
#include "tests/sim/lincheck/random_jobs.h"
#include "tests/sim/lincheck/random_stores.h"
#include "tests/sim/lincheck/store_model.h"

namespace gemel::sim {
namespace {

using ::testing::HasSubstr;

constexpr size_t kHistories = 1500;
constexpr uint64_t kBruteHistories = 4000;

// All orders, without any of the checker's shortcuts.
template <typename Model>
class BruteForce {
 public:
  using Call = typename Model::Call;
  using State = typename Model::State;

  BruteForce(const Model& model, const History<Call>& history)
      : model_(model), history_(history), placed_(history.size(), false) {}

  bool Linearisable() { return Try(model_.Initial()); }

 private:
  bool MayBeNext(size_t index) const {
    for (size_t i = 0; i < history_.size(); ++i) {
      if (!placed_[i] && i != index && history_[i].outcome != Outcome::kUnknown &&
          history_[i].returned < history_[index].invoked) {
        return false;
      }
    }
    return !placed_[index];
  }

  bool Try(const State& state) {
    bool done = true;
    for (size_t i = 0; i < history_.size(); ++i) {
      done = done && (placed_[i] || history_[i].outcome == Outcome::kUnknown);
    }
    if (done) {
      return true;
    }
    for (size_t i = 0; i < history_.size(); ++i) {
      if (!MayBeNext(i)) {
        continue;
      }
      std::vector<State> after;
      model_.Step(state, history_[i], &after);
      placed_[i] = true;
      for (const State& next : after) {
        if (Try(next)) {
          return true;
        }
      }
      placed_[i] = false;
    }
    return false;
  }

  const Model& model_;
  const History<Call>& history_;
  std::vector<bool> placed_;
};

TEST(Lincheck, AcceptsEveryValidHistoryOfAStore) {
  Random random(11);
  for (size_t i = 0; i < kHistories; ++i) {
    const StoreShape shape{.processes = 2 + static_cast<uint32_t>(random.Below(6)),
                           .keys = 1 + static_cast<uint32_t>(random.Below(5))};
    const History<StoreCall> history = RandomStoreHistory(shape, &random);
    const Verdict verdict = CheckStore(history);
    ASSERT_EQ(verdict.answer, Linearisable::kYes) << "history " << i << ": " << verdict.text;
  }
}

TEST(Lincheck, AcceptsEveryValidHistoryOfJobs) {
  Random random(12);
  for (size_t i = 0; i < kHistories; ++i) {
    const JobShape shape{.processes = 2 + static_cast<uint32_t>(random.Below(6)),
                         .jobs = 1 + static_cast<uint32_t>(random.Below(3)),
                         .operations = 120,
                         .removals = i % 3 == 0};
    const History<JobCall> history = RandomJobHistory(shape, &random);
    const Verdict verdict = CheckJobs(history);
    ASSERT_EQ(verdict.answer, Linearisable::kYes) << "history " << i << ": " << verdict.text;
  }
}

template <typename Mutation, typename Make, typename Judge>
void RefusesAll(std::span<const Mutation> mutations, const Make& make, const Judge& judge,
                Random* random) {
  std::map<std::string, size_t> made;
  size_t all = 0;
  for (size_t i = 0; i < kHistories; ++i) {
    auto history = make(random);
    const Mutation mutation = mutations[i % mutations.size()];
    if (!Mutate(mutation, &history, random)) {
      continue;
    }
    const Verdict verdict = judge(history);
    ASSERT_EQ(verdict.answer, Linearisable::kNo) << NameOf(mutation) << ", history " << i;
    EXPECT_FALSE(verdict.text.empty());
    made[std::string(NameOf(mutation))] += 1;
    all += 1;
  }
  for (const Mutation mutation : mutations) {
    EXPECT_GE(made[std::string(NameOf(mutation))], 20U) << NameOf(mutation);
  }
  EXPECT_GE(all, 1000U);
  std::printf("%zu mutated histories of %zu kinds, all refused\n", all, mutations.size());
}

TEST(Lincheck, RefusesEveryMutatedHistoryOfAStore) {
  Random random(13);
  RefusesAll<StoreMutation>(
      kStoreMutations,
      [](Random* stream) { return RandomStoreHistory({.operations = 100}, stream); },
      [](const History<StoreCall>& history) { return CheckStore(history); }, &random);
}

TEST(Lincheck, RefusesEveryMutatedHistoryOfAJob) {
  Random random(14);
  RefusesAll<JobMutation>(
      kJobMutations,
      [](Random* stream) {
        const uint32_t unknown = stream->Chance(1, 3) ? 0 : 30;
        return RandomJobHistory({.operations = 120, .unknown_permille = unknown}, stream);
      },
      [](const History<JobCall>& history) { return CheckJobs(history); }, &random);
}

// Small histories, valid ones and ones with answers that may be wrong: the verdict of the search is
// that of trying all orders.
TEST(Lincheck, AgreesWithTryingAllOrdersOfSmallStoreHistories) {
  Random random(15);
  std::map<bool, size_t> answers;
  for (uint64_t i = 0; i < kBruteHistories; ++i) {
    History<StoreCall> history = RandomStoreHistory(
        {.processes = 4, .keys = 2, .operations = 8, .unknown_permille = 250}, &random);
    for (Operation<StoreCall>& operation : history) {
      if (random.Chance(1, 12) && !operation.call.found.empty()) {
        operation.call.found.begin()->second.version = 1 + random.Below(6);
      } else if (random.Chance(1, 12) && !operation.call.compares.empty()) {
        operation.call.compares.front().version = 1 + random.Below(6);
      } else if (random.Chance(1, 20)) {
        operation.call.result.applied = !operation.call.result.applied;
      }
    }
    const StoreModel model;
    const bool expected = BruteForce<StoreModel>(model, history).Linearisable();
    const Verdict verdict = Check(model, history);
    ASSERT_EQ(verdict.answer == Linearisable::kYes, expected) << "history " << i << verdict.text;
    answers[expected] += 1;
  }
  EXPECT_GT(answers[true], 500U);
  EXPECT_GT(answers[false], 500U);
}

TEST(Lincheck, AgreesWithTryingAllOrdersOfSmallJobHistories) {
  Random random(16);
  std::map<bool, size_t> answers;
  for (uint64_t i = 0; i < kBruteHistories; ++i) {
    History<JobCall> history = RandomJobHistory(
        {.processes = 3, .operations = 9, .unknown_permille = 200, .removals = true}, &random);
    for (Operation<JobCall>& operation : history) {
      if (random.Chance(1, 16)) {
        operation.call.sequence = random.Below(4);
      } else if (random.Chance(1, 16)) {
        operation.call.epoch.counter = 1 + random.Below(3);
      }
    }
    const JobModel model;
    const bool expected = BruteForce<JobModel>(model, history).Linearisable();
    const Verdict verdict = Check(model, history);
    ASSERT_EQ(verdict.answer == Linearisable::kYes, expected) << "history " << i << verdict.text;
    answers[expected] += 1;
  }
  EXPECT_GT(answers[true], 500U);
  EXPECT_GT(answers[false], 500U);
}

TEST(Lincheck, NamesTheCallThatCannotBePlacedAndAnOrderOfThoseBefore) {
  JobRecorder recorder;
  EpochToken token;
  token.bytes[0] = 7;
  const EpochId epoch{.generation = 1, .counter = 1};
  recorder.Acquired(recorder.AcquireEpoch(0, "gpt", token), epoch);
  const SnapshotId snapshot{.job = "gpt", .epoch = epoch, .sequence = 1, .name = "10"};
  recorder.Opened(recorder.Open(0, "gpt", epoch, "10", 0), snapshot);
  recorder.Committed(recorder.Commit(0, "gpt", epoch, 1), absl::OkStatus());
  recorder.Ended(recorder.Latest(1, "gpt"), absl::OkStatus(), 0);
  EXPECT_EQ(recorder.Check().answer, Linearisable::kNo);
  const Verdict verdict = Check(JobModel(), recorder.recorder().history());
  EXPECT_EQ(verdict.culprit, 3U);
  EXPECT_THAT(verdict.prefix, testing::ElementsAre(0U, 1U, 2U));
  EXPECT_THAT(verdict.text, HasSubstr("Latest(): sequence 0"));
  EXPECT_THAT(verdict.text, HasSubstr("Commit(epoch 1.1, sequence 1): told"));
  EXPECT_THAT(verdict.text, HasSubstr("latest 1"));
}

TEST(Lincheck, AnUnknownCommitMayHaveHappenedOrNotButNotBoth) {
  for (const bool seen_twice : {false, true}) {
    JobRecorder recorder;
    const EpochId epoch{.generation = 1, .counter = 1};
    recorder.Acquired(recorder.AcquireEpoch(0, "gpt", EpochToken{.bytes = {1}}), epoch);
    recorder.Opened(recorder.Open(0, "gpt", epoch, "10", 0),
                    SnapshotId{.job = "gpt", .epoch = epoch, .sequence = 1});
    recorder.Committed(recorder.Commit(0, "gpt", epoch, 1), absl::DeadlineExceededError("late"));
    recorder.Ended(recorder.Latest(1, "gpt"), absl::OkStatus(), 0);
    recorder.Ended(recorder.Latest(1, "gpt"), absl::OkStatus(), 1);
    EXPECT_EQ(recorder.Check().answer, Linearisable::kYes);
    recorder.Ended(recorder.Latest(1, "gpt"), absl::OkStatus(), seen_twice ? 1 : 0);
    EXPECT_EQ(recorder.Check().answer, seen_twice ? Linearisable::kYes : Linearisable::kNo);
  }
}

TEST(Lincheck, ARefusedAcquireMayHaveTakenEffectBefore) {
  JobRecorder recorder;
  const OperationIndex first = recorder.AcquireEpoch(0, "gpt", EpochToken{.bytes = {1}});
  recorder.Acquired(recorder.AcquireEpoch(1, "gpt", EpochToken{.bytes = {2}}),
                    EpochId{.generation = 1, .counter = 2});
  recorder.Acquired(first, absl::FailedPreconditionError("superseded"));
  EXPECT_EQ(recorder.Check().answer, Linearisable::kYes);
  recorder.Acquired(recorder.AcquireEpoch(2, "gpt", EpochToken{.bytes = {3}}),
                    absl::FailedPreconditionError("superseded, though nothing came after"));
  EXPECT_EQ(recorder.Check().answer, Linearisable::kNo);
}

// It was asked for while there was nothing to remove, and did not take effect then.
TEST(Lincheck, ARemovalMayTakeEffectLongAfterItFoundNothing) {
  JobRecorder recorder;
  const auto epoch = [](uint64_t counter) { return EpochId{.generation = 1, .counter = counter}; };
  recorder.Acquired(recorder.AcquireEpoch(0, "gpt", EpochToken{.bytes = {1}}), epoch(1));
  recorder.Ended(recorder.Remove(9, "gpt"), absl::OkStatus());
  const OperationIndex late = recorder.Remove(8, "gpt");
  recorder.Ended(recorder.Latest(1, "gpt"), absl::OkStatus(), 0);
  recorder.Acquired(recorder.AcquireEpoch(0, "gpt", EpochToken{.bytes = {2}}), epoch(2));
  recorder.Opened(recorder.Open(0, "gpt", epoch(2), "10", 0),
                  SnapshotId{.job = "gpt", .epoch = epoch(2), .sequence = 1});
  recorder.Committed(recorder.Commit(0, "gpt", epoch(2), 1), absl::OkStatus());
  recorder.Ended(late, absl::OkStatus());
  recorder.Ended(recorder.Latest(1, "gpt"), absl::OkStatus(), 0);
  EXPECT_EQ(recorder.Check().answer, Linearisable::kYes) << recorder.Check().text;
}

TEST(Lincheck, BeyondItsBoundItIsUndecidedAndNeverGuesses) {
  Random random(17);
  History<StoreCall> history = RandomStoreHistory({.operations = 400}, &random);
  const Verdict verdict = CheckStore(history, {.steps_max = 50});
  EXPECT_EQ(verdict.answer, Linearisable::kUndecided);
  EXPECT_THAT(verdict.text, HasSubstr("steps"));
}

// In histories as long as those of a seed: the rate is printed. With --long only.
TEST(Lincheck, DISABLED_ChecksAMillionOperations) {
  constexpr size_t kOperations = 1'000'000;
  constexpr size_t kOfOneHistory = 1000;
  const std::unique_ptr<EpollLoop> loop = *EpollLoop::Create();
  Random random(18);
  size_t checked = 0;
  size_t undecided = 0;
  uint64_t steps = 0;
  Duration spent{};
  while (checked < kOperations) {
    const StoreShape store_shape{
        .processes = 8, .keys = 6, .operations = kOfOneHistory, .unknown_permille = 20};
    const JobShape job_shape{
        .processes = 16, .jobs = 8, .operations = kOfOneHistory, .unknown_permille = 20};
    const History<StoreCall> store = RandomStoreHistory(store_shape, &random);
    const History<JobCall> jobs = RandomJobHistory(job_shape, &random);
    const TimePoint began = loop->Now();
    for (const Verdict& verdict : {CheckStore(store), CheckJobs(jobs)}) {
      ASSERT_NE(verdict.answer, Linearisable::kNo) << verdict.text;
      undecided += verdict.answer == Linearisable::kUndecided ? 1 : 0;
      steps += verdict.steps;
    }
    spent += loop->Now() - began;
    checked += store.size() + jobs.size();
  }
  const double seconds = std::chrono::duration<double>(spent).count();
  std::printf("%zu operations, %llu steps, %zu undecided, %.1f s: %.0f operations a second\n",
              checked, static_cast<unsigned long long>(steps), undecided, seconds,
              static_cast<double>(checked) / seconds);
  loop->Shutdown();
  EXPECT_LT(seconds, 300.0);
  EXPECT_EQ(undecided, 0U);
}

}  // namespace
}  // namespace gemel::sim

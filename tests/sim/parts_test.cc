// SPDX-License-Identifier: Apache-2.0
//
// The parts of the simulator by themselves: what a campaign reports and what replaying stands on.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ctime>
#include <string>
#include <vector>

#include "tests/sim/campaign.h"
#include "tests/sim/plan.h"
#include "tests/sim/report.h"
#include "tests/sim/sim_points.h"
#include "tests/sim/timeline.h"
#include "tests/sim/traps.h"

namespace gemel::sim {
namespace {

using ::testing::HasSubstr;

TEST(SimLedger, ACountGoesToThePhaseAndTheEmptyCellsAreSeen) {
  FaultLedger ledger;
  FaultCounts before{};
  FaultCounts now{};
  now[static_cast<size_t>(Fault::kClog)] = 3;
  ledger.AddGrowth(before, now, Phase::kRepair);
  EXPECT_EQ(ledger.at(Fault::kClog, Phase::kRepair), 3U);
  EXPECT_EQ(ledger.at(Fault::kClog, Phase::kSave), 0U);
  EXPECT_EQ(ledger.Total(), 3U);
  EXPECT_EQ(ledger.EmptyCells(), kFaultCount * kPhaseCount - 1);
}

TEST(SimReport, TotalsComeBackFromAWorkersWords) {
  CampaignTotals totals;
  totals.seeds = 7;
  totals.mismatches = 1;
  totals.counts.events = uint64_t{1} << 60;
  totals.counts.faults.Add(Fault::kMemoryRot, Phase::kOverkill, 5);
  totals.counts.situations.back() = 9;
  const absl::StatusOr<CampaignTotals> back = DecodeTotals(EncodeTotals(totals));
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(EncodeTotals(*back), EncodeTotals(totals));
  EXPECT_FALSE(DecodeTotals(EncodeTotals(totals) + "1 ").ok());
  EXPECT_FALSE(DecodeTotals("1 2 x").ok());
  EXPECT_FALSE(DecodeTotals("").ok());
}

TEST(SimReport, WhatWasNeverHitIsNamed) {
  CampaignTotals totals;
  for (uint64_t& count : totals.counts.situations) {
    count = 1;
  }
  totals.counts.situations[1] = 0;
  const std::string text = TextOf(totals);
  EXPECT_THAT(text, HasSubstr("situations never met: " + std::string(kSituationNames[1]) + "\n"));
  EXPECT_THAT(text, HasSubstr(std::string(kBuggifyNames[0])));
  EXPECT_GT(totals.Uncovered(), 0U);
  EXPECT_THAT(JsonOf(totals, "abc", 1), HasSubstr("\"commit\": \"abc\""));
}

TEST(SimPlan, TakingOneThingAwayLeavesTheOthersAsTheyWere) {
  for (uint64_t seed = 1; seed <= 200; ++seed) {
    ScenarioOptions options;
    options.seed = seed;
    const RunPlan whole = DrawPlan(options);
    options.disabled = {Fault::kClog};
    options.knobs = false;
    options.jobs_max = 1;
    const RunPlan less = DrawPlan(options);
    std::set<Fault> expected = whole.enabled;
    expected.erase(Fault::kClog);
    EXPECT_EQ(less.enabled, expected) << seed;
    EXPECT_EQ(less.strength, whole.strength) << seed;
    EXPECT_EQ(less.shape.servers, whole.shape.servers) << seed;
    EXPECT_EQ(less.jobs[0].copies, whole.jobs[0].copies) << seed;
  }
}

TEST(SimPlan, EveryClassAndEveryShapeIsDrawn) {
  std::set<Fault> faults;
  std::set<uint32_t> servers;
  std::set<size_t> jobs;
  size_t overkills = 0;
  for (uint64_t seed = 1; seed <= 500; ++seed) {
    ScenarioOptions options;
    options.seed = seed;
    const RunPlan plan = DrawPlan(options);
    faults.insert(plan.enabled.begin(), plan.enabled.end());
    servers.insert(plan.shape.servers);
    jobs.insert(plan.jobs.size());
    overkills += plan.overkill ? 1 : 0;
    for (const JobPlan& job : plan.jobs) {
      EXPECT_LE(job.copies, plan.shape.servers);
      EXPECT_LE(job.ranks_max, 16U);
    }
  }
  EXPECT_EQ(faults.size(), kFaultCount);
  EXPECT_EQ(servers.size(), 9U);
  EXPECT_EQ(jobs.size(), 3U);
  EXPECT_GT(overkills, 40U);
}

TEST(SimPoints, WhoWaitsForAPointIsToldOfEachThatIsReached) {
  SimPoints points(Random(1), false);
  std::vector<CrashPoint> told;
  points.OnReached([&told](CrashPoint point) { told.push_back(point); });
  Reach(CrashPoint::kCommitDurable);
  Reach(CrashPoint::kCommitDurable);
  points.OnReached({});
  Reach(CrashPoint::kOpenDurable);
  EXPECT_EQ(told, std::vector<CrashPoint>(2, CrashPoint::kCommitDurable));
  EXPECT_EQ(points.reached()[static_cast<size_t>(CrashPoint::kOpenDurable)], 1U);
}

TEST(SimPoints, ASiteFiresFromItsOwnStreamAndNotWhenCalm) {
  std::vector<bool> alone;
  std::vector<bool> beside;
  const auto site = static_cast<BuggifySite>(0);
  for (uint64_t seed = 1; seed <= 50; ++seed) {
    {
      SimPoints points(Random(seed), true);
      for (int i = 0; i < 20; ++i) {
        alone.push_back(Buggify(site));
      }
    }
    SimPoints points(Random(seed), true);
    for (int i = 0; i < 20; ++i) {
      Buggify(static_cast<BuggifySite>(1));
      beside.push_back(Buggify(site));
    }
    points.Calm();
    for (int i = 0; i < 20; ++i) {
      EXPECT_FALSE(Buggify(site));
    }
  }
  EXPECT_EQ(alone, beside);
  EXPECT_GT(std::count(alone.begin(), alone.end(), true), 20);
  EXPECT_FALSE(Buggify(site)) << "no hooks, no rare turns";
}

TEST(SimReplay, TheLineNamesWhatWasTakenAway) {
  ScenarioOptions options;
  options.seed = 17;
  options.disabled = {Fault::kClog, Fault::kSlow};
  options.overkill = false;
  options.servers_max = 3;
  options.fault_phase = 1500ms;
  EXPECT_EQ(ReplayLine(options),
            "gemel-sim --seed 17 --disable clog,slow,overkill --servers-max 3 --fault-phase 1.500");
}

TEST(SimTimeline, AColumnANode) {
  Timeline timeline;
  SimScheduler scheduler;
  NodeEvents(&scheduler, "host-3", &timeline).Emit(Severity::kInfo, "joined", "text");
  NodeEvents(&scheduler, "placement", &timeline).Emit(Severity::kInfo, "member_joined", "other");
  const std::vector<std::string> columns = timeline.Columns();
  ASSERT_EQ(columns.size(), 3U);
  EXPECT_THAT(columns[0], HasSubstr("pla h3"));
  EXPECT_THAT(columns[1], HasSubstr(".   *    joined: text"));
  EXPECT_THAT(columns[2], HasSubstr("*   .    member_joined: other"));
}

TEST(SimTimeline, ARetryWithoutAPauseIsNoise) {
  Timeline timeline;
  const auto tell = [&timeline](size_t times, Duration at) {
    for (size_t i = 0; i < times; ++i) {
      timeline.Add({TimePoint(at), "host-3", "refused", "text"});
    }
  };
  tell(Timeline::kSameInASecondMax, 1900ms);
  tell(Timeline::kSameInASecondMax, 2100ms);
  EXPECT_EQ(timeline.noise(), "");
  tell(1, 2200ms);
  EXPECT_THAT(timeline.noise(), HasSubstr("host-3 tells refused more than 400 times"));
}

TEST(SimTrapsDeathTest, AStrayCallEndsTheProcessWithItsName) {
  if (!HasTraps()) {
    GTEST_SKIP() << "a sanitizer's interceptors stand there";
  }
  timespec now{};
  EXPECT_EQ(clock_gettime(CLOCK_MONOTONIC, &now), 0);
  EXPECT_GT(now.tv_sec, 0);
  EXPECT_DEATH(
      {
        ArmTraps();
        clock_gettime(CLOCK_MONOTONIC, &now);
      },
      "trapped a call of clock_gettime");
  EXPECT_DEATH(
      {
        ArmTraps();
        static_cast<void>(std::rand());
      },
      "trapped a call of rand");
}

}  // namespace
}  // namespace gemel::sim

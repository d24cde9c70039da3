// SPDX-License-Identifier: Apache-2.0
//
// Seeds of the simulator, each in a worker of its own kind (campaign.h); every tenth twice, to the
// same hash.
#include "tests/sim/scenario.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/sim/campaign.h"

namespace gemel::sim {
namespace {

constexpr uint64_t kSeedsPerCase = 25;
constexpr uint64_t kCases = 4;

class SimulatedCluster : public testing::TestWithParam<uint64_t> {};

TEST_P(SimulatedCluster, LosesAndTearsNothing) {
  CampaignOptions campaign;
  campaign.scenario.seed = GetParam() * kSeedsPerCase + 1;
  campaign.seeds = kSeedsPerCase;
  const CampaignTotals totals = RunCampaign(campaign);
  EXPECT_EQ(totals.failed, 0U) << "the lines above replay them";
  EXPECT_EQ(totals.mismatches, 0U);
  EXPECT_EQ(totals.seeds, kSeedsPerCase);
  EXPECT_GT(totals.counts.commits, kSeedsPerCase);
  EXPECT_GT(totals.counts.faults.Total(), kSeedsPerCase);
}

INSTANTIATE_TEST_SUITE_P(Seeds, SimulatedCluster, testing::Range<uint64_t>(0, kCases));

}  // namespace
}  // namespace gemel::sim

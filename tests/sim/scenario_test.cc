// SPDX-License-Identifier: Apache-2.0
//
// 500 seeds of the simulator; every tenth twice, to the same hash.
#include "tests/sim/scenario.h"

#include <gtest/gtest.h>

#include <string>

namespace gemel::sim {
namespace {

constexpr uint64_t kSeedsPerCase = 25;
constexpr uint64_t kCases = 20;

class SimulatedCluster : public testing::TestWithParam<uint64_t> {};

TEST_P(SimulatedCluster, LosesAndTearsNothing) {
  for (uint64_t i = 0; i < kSeedsPerCase; ++i) {
    ScenarioOptions options;
    options.seed = GetParam() * kSeedsPerCase + i + 1;
    const ScenarioResult result = RunScenario(options);
    for (const std::string& violation : result.violations) {
      ADD_FAILURE() << violation << "\n  replay: gemel-sim --seed " << options.seed;
    }
    EXPECT_GT(result.commits, 0U) << "gemel-sim --seed " << options.seed;
    if (options.seed % 10 == 0) {
      EXPECT_EQ(RunScenario(options).history_hash, result.history_hash)
          << "not deterministic: gemel-sim --seed " << options.seed;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Seeds, SimulatedCluster, testing::Range<uint64_t>(0, kCases));

}  // namespace
}  // namespace gemel::sim

// SPDX-License-Identifier: Apache-2.0
#include "tests/sim/sim_points.h"

#include "common/check.h"

namespace gemel::sim {
namespace {

// FoundationDB's two coins.
constexpr uint64_t kActivePercent = 25;
constexpr uint64_t kFiresPercent = 25;

}  // namespace

SimPoints::SimPoints(const Random& random, bool buggify) {
  GEMEL_CHECK(internal::point_hooks == nullptr) << "two runs at once";
  for (size_t site = 0; site < kBuggifyCount; ++site) {
    Random& stream = streams_.emplace_back(random.Split(kBuggifyNames[site]));
    active_[site] = stream.Chance(kActivePercent, 100) && buggify;
  }
  SetPointHooks(this);
}

SimPoints::~SimPoints() { SetPointHooks(nullptr); }

bool SimPoints::Fires(BuggifySite site) {
  const auto index = static_cast<size_t>(site);
  if (calm_ || !active_.at(index) || !streams_[index].Chance(kFiresPercent, 100)) {
    return false;
  }
  fired_[index] += 1;
  fired_total_ += 1;
  return true;
}

}  // namespace gemel::sim

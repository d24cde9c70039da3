// SPDX-License-Identifier: Apache-2.0
//
// SimPoints: the simulator's PointHooks of one run. A Buggify site is active in a quarter of the
// runs and fires a quarter of the times it is then asked; every site draws from a stream of its
// own, so a new one shifts nobody else's draws. Situations are counted. Who waits for a crash point
// is told of each that is reached.
//
// Thread safety: one thread.
// Ownership: installs itself and takes itself away; one at a time.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "common/points.h"
#include "common/random.h"

namespace gemel::sim {

inline constexpr size_t kBuggifyCount = std::size(kBuggifyNames);
inline constexpr size_t kSituationCount = std::size(kSituationNames);
inline constexpr size_t kCrashPointCount = std::size(kCrashPointNames);

using BuggifyCounts = std::array<uint64_t, kBuggifyCount>;
using SituationCounts = std::array<uint64_t, kSituationCount>;
using CrashPointCounts = std::array<uint64_t, kCrashPointCount>;

class SimPoints final : public PointHooks {
 public:
  SimPoints(const Random& random, bool buggify);
  ~SimPoints() override;
  SimPoints(const SimPoints&) = delete;
  SimPoints& operator=(const SimPoints&) = delete;

  void Reached(CrashPoint point) override {
    reached_[static_cast<size_t>(point)] += 1;
    if (on_reached_) {
      on_reached_(point);
    }
  }

  // Called within the event that reaches a point: what it kills, it kills afterwards.
  void OnReached(std::function<void(CrashPoint)> on_reached) {
    on_reached_ = std::move(on_reached);
  }

  void Met(Situation situation) override { met_[static_cast<size_t>(situation)] += 1; }

  bool Fires(BuggifySite site) override;

  // From here on no site fires.
  void Calm() { calm_ = true; }

  const BuggifyCounts& fired() const { return fired_; }

  const SituationCounts& met() const { return met_; }

  const CrashPointCounts& reached() const { return reached_; }

  uint64_t fired_total() const { return fired_total_; }

 private:
  std::vector<Random> streams_;  // by site
  std::array<bool, kBuggifyCount> active_{};
  bool calm_ = false;
  uint64_t fired_total_ = 0;
  BuggifyCounts fired_{};
  SituationCounts met_{};
  CrashPointCounts reached_{};
  std::function<void(CrashPoint)> on_reached_;
};

}  // namespace gemel::sim

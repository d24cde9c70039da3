// SPDX-License-Identifier: Apache-2.0
#include "tests/sim/shrink.h"

#include <cstdio>
#include <string>
#include <vector>

#include "common/check.h"
#include "tests/sim/campaign.h"

namespace gemel::sim {
namespace {

constexpr Duration kPhaseStep = 250ms;

// "not lost: …" is of the kind "not lost"; empty: there is no violation.
std::string KindOf(const ScenarioOptions& options) {
  CampaignOptions campaign;
  campaign.scenario = options;
  std::vector<std::string> violations;
  RunCampaign(campaign, &violations);
  return violations.empty() ? "" : violations[0].substr(0, violations[0].find(':'));
}

class Shrinker {
 public:
  Shrinker(ScenarioOptions options, std::string kind)
      : best_(std::move(options)), kind_(std::move(kind)) {
    GEMEL_CHECK(!kind_.empty());
  }

  const ScenarioOptions& best() const { return best_; }

  void TakeFaultsAway();
  void MakeSmaller();
  void CutShort();

 private:
  bool Try(const ScenarioOptions& candidate);
  void Lower(uint32_t ScenarioOptions::* bound, uint32_t from);

  ScenarioOptions best_;
  const std::string kind_;
};

bool Shrinker::Try(const ScenarioOptions& candidate) {
  if (KindOf(candidate) != kind_) {
    return false;
  }
  best_ = candidate;
  std::printf("still there: %s\n", ReplayLine(best_).c_str());
  std::fflush(stdout);
  return true;
}

void Shrinker::TakeFaultsAway() {
  ScenarioOptions bare = best_;
  bare.knobs = false;
  Try(bare);
  bare = best_;
  bare.overkill = false;
  Try(bare);
  // Half of what is left at once, then a quarter, then one by one.
  for (size_t share = 2; share <= kFaultCount * 2; share *= 2) {
    const std::set<Fault> enabled = DrawPlan(best_).enabled;
    const std::vector<Fault> left(enabled.begin(), enabled.end());
    const size_t piece = std::max<size_t>(1, left.size() / share);
    for (size_t at = 0; at < left.size(); at += piece) {
      ScenarioOptions candidate = best_;
      for (size_t i = at; i < std::min(left.size(), at + piece); ++i) {
        candidate.disabled.insert(left[i]);
      }
      Try(candidate);
    }
    if (piece == 1) {
      break;
    }
  }
}

void Shrinker::Lower(uint32_t ScenarioOptions::* bound, uint32_t from) {
  for (uint32_t lower = 1; lower < from; ++lower) {
    ScenarioOptions candidate = best_;
    candidate.*bound = lower;
    if (Try(candidate)) {
      return;
    }
  }
}

void Shrinker::MakeSmaller() {
  const RunPlan plan = DrawPlan(best_);
  uint32_t ranks = 1;
  for (const JobPlan& job : plan.jobs) {
    ranks = std::max(ranks, job.ranks_max);
  }
  Lower(&ScenarioOptions::jobs_max, static_cast<uint32_t>(plan.jobs.size()));
  Lower(&ScenarioOptions::servers_max, plan.shape.servers);
  Lower(&ScenarioOptions::ranks_max, ranks);
}

void Shrinker::CutShort() {
  for (Duration phase = kPhaseStep; phase < best_.fault_phase; phase += kPhaseStep) {
    ScenarioOptions candidate = best_;
    candidate.fault_phase = phase;
    if (Try(candidate)) {
      return;
    }
  }
}

}  // namespace

std::optional<ScenarioOptions> Shrink(const ScenarioOptions& options) {
  std::string kind = KindOf(options);
  if (kind.empty()) {
    return std::nullopt;
  }
  Shrinker shrinker(options, std::move(kind));
  shrinker.TakeFaultsAway();
  shrinker.MakeSmaller();
  shrinker.CutShort();
  return shrinker.best();
}

}  // namespace gemel::sim

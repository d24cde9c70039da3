// SPDX-License-Identifier: Apache-2.0
//
// SimJob: a job of the simulation and its launcher: starts it anew when a launch fails or is
// killed, and keeps the incarnations that were left behind, some of which wake again.
//
// Thread safety: one thread. Ownership: cluster and oracle outlive it.
#pragma once

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "tests/sim/oracle.h"
#include "tests/sim/trainer.h"

namespace gemel::sim {

class SimJob {
 public:
  SimJob(Cluster* cluster, Oracle* oracle, JobPlan plan, Random random);

  // Starts what is due, on servers that are up.
  void Tick();

  // Nothing begins before `when`.
  void WaitUntil(TimePoint when) { not_before_ = when; }

  // A new incarnation takes the place of the present one after `after`.
  void KillTrainers(Duration after);

  // A rank and the server of its host lose each other. False when there is none.
  bool CutOff(uint64_t draw) { return launch_ != nullptr && launch_->CutOff(draw); }

  // What ran on the host of this server dies with it.
  void HostDied(uint32_t server, Duration after);
  // The present incarnation stops, and a new one begins beside it.
  void LeaveZombie();
  // A second incarnation begins beside the first, which goes on.
  void Race();
  void ResumeAll();
  // Every incarnation ends, and none begins any more.
  void EndAll();

  const JobPlan& plan() const { return plan_; }

  // Restored, and saving; one that learned that it is superseded is not.
  bool saving() const {
    return launch_ != nullptr && launch_->alive() && !launch_->failed() && launch_->saving();
  }

  // So is each incarnation beside it that has not learned that it is superseded: one of them may
  // have the newest epoch, and pins what it restores from.
  bool settled() const {
    return saving() && std::all_of(old_.begin(), old_.end(), [](const auto& old) {
             return !old->alive() || old->failed() || old->saving();
           });
  }

  // Why the present incarnation failed; OK while it did not.
  absl::Status failure() const {
    return launch_ == nullptr ? absl::OkStatus() : launch_->failure();
  }

  // What its incarnations are about, for a report.
  std::string At() const;

  // A person says that it starts over.
  bool lost() const { return data_losses_ >= kPatience; }

  void StartOver() { data_losses_ = 0; }

  uint64_t launches() const { return launches_; }

 private:
  // Launches in a row that were told DATA_LOSS before a person gives up.
  static constexpr uint32_t kPatience = 3;
  static constexpr size_t kOldMax = 6;

  void Begin();
  void RelaunchAt(TimePoint when);

  Cluster* const cluster_;
  Oracle* const oracle_;
  const JobPlan plan_;
  Random random_;
  std::unique_ptr<Launch> launch_;
  std::vector<std::unique_ptr<Launch>> old_;
  TimePoint relaunch_at_;
  TimePoint not_before_{};
  bool failure_seen_ = false;
  bool ended_ = false;
  uint32_t data_losses_ = 0;
  uint64_t launches_ = 0;
};

}  // namespace gemel::sim

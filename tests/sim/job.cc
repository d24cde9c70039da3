// SPDX-License-Identifier: Apache-2.0
#include "tests/sim/job.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "common/check.h"

namespace gemel::sim {
namespace {

constexpr Duration kRelaunchAfter = 150ms;
constexpr uint64_t kFirstLaunchWithinMs = 200;

}  // namespace

SimJob::SimJob(Cluster* cluster, Oracle* oracle, JobPlan plan, Random random)
    : cluster_(cluster), oracle_(oracle), plan_(std::move(plan)), random_(random) {
  const auto after = std::chrono::milliseconds(random_.Below(kFirstLaunchWithinMs));
  relaunch_at_ = cluster->scheduler()->now() + after;
}

void SimJob::RelaunchAt(TimePoint when) {
  relaunch_at_ = ended_ ? kTimeNever : std::min(relaunch_at_, when);
}

void SimJob::Tick() {
  const TimePoint now = cluster_->scheduler()->now();
  // A trainer that learned that it is superseded exits, after it has tried all the same.
  for (std::unique_ptr<Launch>& old : old_) {
    if (old->failed() && !old->stubborn()) {
      old->Kill();
    }
  }
  std::erase_if(old_, [](const auto& old) { return !old->alive(); });
  if (launch_ != nullptr && launch_->failed() && !failure_seen_) {
    failure_seen_ = true;
    const bool lost = launch_->failure().code() == absl::StatusCode::kDataLoss;
    data_losses_ = lost && !launch_->saving() ? data_losses_ + 1 : 0;
    RelaunchAt(now + kRelaunchAfter);
  }
  if (now >= relaunch_at_ && now >= not_before_ && !ended_) {
    relaunch_at_ = kTimeNever;
    if (launch_ != nullptr) {
      launch_->Kill();
    }
    Begin();
  }
}

void SimJob::Begin() {
  std::vector<uint32_t> live;
  for (uint32_t i = 0; i < cluster_->shape().slots(); ++i) {
    if (cluster_->server_up(i)) {
      live.push_back(i);
    }
  }
  if (live.empty()) {
    RelaunchAt(cluster_->scheduler()->now() + kRelaunchAfter);
    return;
  }
  const uint64_t world = 1 + random_.Below(plan_.ranks_max);
  std::vector<uint32_t> hosts;
  hosts.reserve(world);
  for (uint64_t i = 0; i < world; ++i) {
    hosts.push_back(live[random_.Below(live.size())]);
  }
  if (launch_ != nullptr && launch_->alive()) {
    GEMEL_CHECK_LE(old_.size(), kOldMax);
    old_.push_back(std::move(launch_));
  }
  launches_ += 1;
  failure_seen_ = false;
  const uint64_t seed = random_.Next();
  launch_ = std::make_unique<Launch>(cluster_, oracle_, plan_, hosts, Random(seed));
  cluster_->Note(fmt::format("launch {} of {}: {} ranks", launches_, plan_.name, world));
}

void SimJob::KillTrainers(Duration after) {
  if (launch_ != nullptr) {
    launch_->Kill();
  }
  RelaunchAt(cluster_->scheduler()->now() + after);
}

void SimJob::HostDied(uint32_t server, Duration after) {
  for (std::unique_ptr<Launch>& old : old_) {
    if (old->IsOn(server)) {
      old->Kill();
    }
  }
  if (launch_ != nullptr && launch_->IsOn(server)) {
    KillTrainers(after);
  }
}

void SimJob::LeaveZombie() {
  const bool may_begin = old_.size() < kOldMax && cluster_->now() >= not_before_;
  if (launch_ == nullptr || !launch_->alive() || launch_->failed() || !may_begin) {
    return;
  }
  launch_->Pause();
  Begin();
}

void SimJob::Race() {
  if (!ended_ && old_.size() < kOldMax && cluster_->now() >= not_before_) {
    Begin();
  }
}

void SimJob::ResumeAll() {
  for (std::unique_ptr<Launch>& old : old_) {
    old->Resume();
  }
  if (launch_ != nullptr) {
    launch_->Resume();
  }
}

std::string SimJob::At() const {
  std::string at = launch_ == nullptr ? "no launch" : launch_->At();
  for (const std::unique_ptr<Launch>& old : old_) {
    at += old->alive() ? "; beside it " + old->At() : "";
  }
  return at;
}

void SimJob::EndAll() {
  ended_ = true;
  relaunch_at_ = kTimeNever;
  for (std::unique_ptr<Launch>& old : old_) {
    old->Kill();
  }
  if (launch_ != nullptr) {
    launch_->Kill();
  }
}

}  // namespace gemel::sim

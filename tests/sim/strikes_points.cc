// SPDX-License-Identifier: Apache-2.0
//
// Strikes at a moment that matters: a process is killed, or the power goes, just after a named
// point of its work was reached (common/points.h).
#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <utility>

#include "common/check.h"
#include "tests/sim/strikes.h"

namespace gemel::sim {
namespace {

constexpr uint64_t kReachedBeforeMax = 4;  // of the point, since it is waited for
constexpr uint64_t kWaitMs = 1500;
constexpr uint32_t kStallPpm = 800'000;

// Those of a persist, from its first byte to what is told of it.
constexpr CrashPoint kPersistPoints[] = {
    CrashPoint::kPersistChunkWritten, CrashPoint::kPersistRenamed,   CrashPoint::kPersistIngested,
    CrashPoint::kPersistRecorded,     CrashPoint::kShardPersisted,   CrashPoint::kPersistMarked,
    CrashPoint::kPersistedDurable,    CrashPoint::kPersistUnrecorded};

}  // namespace

// Any of those that this run has come past, each as likely as the others however seldom it is.
std::optional<CrashPoint> Strikes::PickPoint() {
  std::vector<CrashPoint> known;
  for (size_t i = 0; i < kCrashPointCount; ++i) {
    if (points_->reached()[i] > 0) {
      known.push_back(static_cast<CrashPoint>(i));
    }
  }
  if (known.empty()) {
    return std::nullopt;
  }
  return known[random_->Below(known.size())];
}

void Strikes::WaitFor(CrashPoint point, PointAct act) {
  waiting_ = Waiting{.point = point,
                     .before = random_->Below(kReachedBeforeMax),
                     .until = After(kWaitMs, kWaitMs),
                     .act = act};
}

// Within the event that reaches it: what is to happen happens right after that event.
void Strikes::PointReached(CrashPoint point) {
  if (!striking_ || !waiting_.has_value() || waiting_->point != point ||
      cluster_->now() > waiting_->until) {
    return;
  }
  if (waiting_->before > 0) {
    waiting_->before -= 1;
    return;
  }
  const SimLoop* loop = cluster_->scheduler()->running();
  if (loop == nullptr) {
    return;
  }
  const PointAct act = waiting_->act;
  waiting_.reset();
  cluster_->scheduler()->At(cluster_->now(), [this, act, point, loop] {
    if (!striking_) {
      return;
    }
    random_ = &at_points_;
    (this->*act)(point, loop);
    random_ = nullptr;
  });
}

void Strikes::AtPoint() {
  if (const std::optional<CrashPoint> point = PickPoint(); point.has_value()) {
    WaitFor(*point, &Strikes::KillAt);
  }
}

// Whose loop it was; a server only as far as it may be lost.
void Strikes::KillAt(CrashPoint point, const SimLoop* loop) {
  const auto name = std::string(kCrashPointNames[static_cast<size_t>(point)]);
  for (uint32_t manager = 0; manager < cluster_->managers(); ++manager) {
    if (cluster_->placement_up(manager) && cluster_->placement_loop(manager) == loop) {
      Note("at point " + name);
      Struck(Fault::kAtPoint);
      KillManager(manager, After(20, 800));
      return;
    }
  }
  for (const uint32_t server : Members()) {
    if (!cluster_->server_up(server) || cluster_->server_loop(server) != loop ||
        (!oracle_->overkill() && !oracle_->CanLose(server))) {
      continue;
    }
    const bool with_host = random_->Chance(1, 2);
    Note(fmt::format("at point {}: kill {} of {}", name, with_host ? "all" : "the server",
                     Cluster::HostOf(server)));
    Struck(Fault::kAtPoint);
    Down(server, After(50, 500) - cluster_->now(), with_host);
    slots_[server].restart_at = After(30, 1500);
    return;
  }
}

// When reads begin, or are under way: what one source sends may land when its read's deadline is
// over, and another source was asked.
void Strikes::StallReads() {
  WaitFor(random_->Chance(1, 2) ? CrashPoint::kRestoreDurable : CrashPoint::kChunkFetched,
          &Strikes::StallAt);
}

void Strikes::StallAt(CrashPoint /*point*/, const SimLoop* /*loop*/) {
  const std::optional<uint32_t> victim = PickUp();
  if (!victim.has_value()) {
    return;
  }
  const std::string source = Cluster::HostOf(*victim);
  Note("what " + source + " sends stalls");
  const TimePoint until = After(20, 500);
  SimWorld* world = cluster_->world();
  for (const std::string& node : Nodes()) {
    if (node == source) {
      continue;
    }
    const uint32_t before = std::exchange(world->Faults(source, node).stall_ppm, kStallPpm);
    Later(until, [world, source, node, before] { world->Faults(source, node).stall_ppm = before; });
  }
}

void Strikes::PowerCut() {
  if (random_->Chance(1, 2)) {
    CutPower();
    return;
  }
  const CrashPoint point = kPersistPoints[random_->Below(std::size(kPersistPoints))];
  const bool shard_done =
      point == CrashPoint::kPersistRecorded || point == CrashPoint::kShardPersisted;
  WaitFor(point, shard_done ? &Strikes::CutPowerWhenWhole : &Strikes::CutPowerAt);
}

// With the last shard: what is newest is whole on the disks, and nobody has said so.
void Strikes::CutPowerWhenWhole(CrashPoint point, const SimLoop* loop) {
  if (std::any_of(jobs_->begin(), jobs_->end(),
                  [this](const auto& job) { return oracle_->IsToBePersisted(job->plan().name); })) {
    CutPowerAt(point, loop);
  } else {
    WaitFor(point, &Strikes::CutPowerWhenWhole);
  }
}

void Strikes::CutPowerAt(CrashPoint point, const SimLoop* /*loop*/) {
  Note("at point " + std::string(kCrashPointNames[static_cast<size_t>(point)]));
  CutPower();
}

}  // namespace gemel::sim

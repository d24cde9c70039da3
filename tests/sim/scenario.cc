// SPDX-License-Identifier: Apache-2.0
#include "tests/sim/scenario.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <map>
#include <memory>
#include <set>

#include "common/check.h"
#include "placement/model/records.h"
#include "tests/sim/trainer.h"

namespace gemel::sim {
namespace {

constexpr Duration kFaultPhase = 6s;
constexpr Duration kHealWithin = 90s;
constexpr Duration kTick = 20ms;
constexpr Duration kRelaunchAfter = 150ms;
constexpr uint64_t kPowerCutsMax = 2;  // of one run

class Run {
 public:
  explicit Run(const ScenarioOptions& options)
      : random_(Random(options.seed).Split("scenario")),
        enabled_(PickFaults(options)),
        cluster_(options.seed, PickShape()),
        restart_server_at_(cluster_.shape().servers, kTimeNever) {}

  ScenarioResult Go();

 private:
  std::vector<Fault> PickFaults(const ScenarioOptions& options);
  Cluster::Shape PickShape();
  void SetLinkFaults();
  void Tick();
  void Strike();
  void StrikeServer();
  void CutPower();
  uint64_t NewestWholeOnDisks();
  void TroubleTier();
  void Recover();
  void Relaunch();
  void HealAll();
  bool Redundant() const;
  void PauseFor(SimLoop* loop, uint64_t milliseconds_max);
  void PartitionServer();
  void ClogLink();
  std::vector<uint32_t> LiveServers() const;
  TimePoint After(uint64_t milliseconds_min, uint64_t milliseconds_max);

  Random random_;
  std::vector<Fault> enabled_;
  Cluster cluster_;
  Oracle oracle_;
  std::unique_ptr<Launch> launch_;
  std::vector<std::unique_ptr<Launch>> old_launches_;
  TimePoint next_strike_{};
  TimePoint relaunch_at_ = kTimeNever;
  TimePoint all_back_at_{};  // after a power cut
  TimePoint restart_placement_at_ = kTimeNever;
  std::vector<TimePoint> restart_server_at_;
  TimePoint heal_at_ = kTimeNever;
  bool waits_for_redundancy_ = true;
  uint64_t kills_ = 0;
  uint64_t power_cuts_ = 0;
  uint64_t launches_ = 0;
};

std::vector<Fault> Run::PickFaults(const ScenarioOptions& options) {
  std::vector<Fault> picked;
  for (Fault fault : kAllFaults) {
    const bool wanted = random_.Chance(1, 2);
    const bool disabled = std::find(options.disabled.begin(), options.disabled.end(), fault) !=
                          options.disabled.end();
    if (wanted && !disabled) {
      picked.push_back(fault);
    }
  }
  return picked;
}

Cluster::Shape Run::PickShape() {
  Cluster::Shape shape;
  shape.servers = 3 + static_cast<uint32_t>(random_.Below(3));
  shape.slab_bytes = kMiB << random_.Below(2);
  return shape;
}

TimePoint Run::After(uint64_t milliseconds_min, uint64_t milliseconds_max) {
  const uint64_t spread = random_.Below(milliseconds_max - milliseconds_min + 1);
  return cluster_.scheduler()->now() + std::chrono::milliseconds(milliseconds_min + spread);
}

std::vector<uint32_t> Run::LiveServers() const {
  std::vector<uint32_t> live;
  for (uint32_t i = 0; i < cluster_.shape().servers; ++i) {
    if (cluster_.server_up(i)) {
      live.push_back(i);
    }
  }
  return live;
}

void Run::SetLinkFaults() {
  LinkFaults faults;
  for (Fault fault : enabled_) {
    const auto ppm = static_cast<uint32_t>(random_.Below(3000)) + 100;
    faults.lose_request_ppm = fault == Fault::kLossyCalls ? ppm : faults.lose_request_ppm;
    faults.lose_reply_ppm = fault == Fault::kLossyCalls ? ppm : faults.lose_reply_ppm;
    faults.reset_ppm = fault == Fault::kResets ? ppm : faults.reset_ppm;
    faults.late_write_ppm = fault == Fault::kLateWrites ? 20 * ppm : faults.late_write_ppm;
    faults.duplicate_ppm = fault == Fault::kLateWrites ? 20 * ppm : faults.duplicate_ppm;
    faults.corrupt_ppm = fault == Fault::kCorruption ? ppm : faults.corrupt_ppm;
    if (fault == Fault::kStoreTrouble) {
      cluster_.store()->unknown_permille = ppm / 30;
    }
  }
  cluster_.world()->SetDefaultFaults(faults);
}

void Run::Relaunch() {
  if (cluster_.scheduler()->now() < all_back_at_) {
    // Until then a server's disk may be missing, and what only it has is lost, honestly.
    relaunch_at_ = all_back_at_;
    return;
  }
  const std::vector<uint32_t> live = LiveServers();
  if (live.empty()) {
    relaunch_at_ = cluster_.scheduler()->now() + kRelaunchAfter;
    return;
  }
  const uint64_t world = 1 + random_.Below(4);
  std::vector<uint32_t> hosts;
  hosts.reserve(world);
  for (uint64_t i = 0; i < world; ++i) {
    hosts.push_back(live[random_.Below(live.size())]);
  }
  if (launch_ != nullptr) {
    old_launches_.push_back(std::move(launch_));
  }
  launches_ += 1;
  const uint64_t seed = random_.Next();
  launch_ = std::make_unique<Launch>(&cluster_, &oracle_, hosts, Random(seed));
  cluster_.Note(fmt::format("launch {} of {} ranks", launches_, world));
}

bool Run::Redundant() const {
  return launch_ != nullptr && launch_->full_step() > 0 &&
         LiveServers().size() == cluster_.shape().servers;
}

void Run::PauseFor(SimLoop* loop, uint64_t milliseconds_max) {
  if (loop == nullptr || loop->paused()) {
    return;
  }
  loop->Pause();
  heal_at_ = std::min(heal_at_, After(50, milliseconds_max));
}

void Run::PartitionServer() {
  const auto victim = static_cast<uint32_t>(random_.Below(cluster_.shape().servers));
  std::vector<std::string> others = {"placement"};
  for (uint32_t i = 0; i < cluster_.shape().servers; ++i) {
    if (i != victim) {
      others.push_back(Cluster::HostOf(i));
    }
  }
  const std::vector<std::string> alone = {Cluster::HostOf(victim)};
  const uint64_t kind = random_.Below(3);
  cluster_.Note(fmt::format("partition of {} kind {}", alone[0], kind));
  if (kind == 0) {
    cluster_.world()->Partition(alone, others);
  } else {
    cluster_.world()->PartitionOneWay(kind == 1 ? alone : others, kind == 1 ? others : alone);
  }
  heal_at_ = std::min(heal_at_, After(100, 2500));
}

void Run::ClogLink() {
  const uint32_t servers = cluster_.shape().servers;
  const auto from = static_cast<uint32_t>(random_.Below(servers));
  const auto to = static_cast<uint32_t>((from + 1 + random_.Below(servers - 1)) % servers);
  cluster_.Note(fmt::format("clog {} > {}", Cluster::HostOf(from), Cluster::HostOf(to)));
  LinkFaults& faults = cluster_.world()->Faults(Cluster::HostOf(from), Cluster::HostOf(to));
  faults.clogged_until = After(100, 1500);
}

void Run::StrikeServer() {
  // Within tolerance: one memory at a time, the next after a commit at full redundancy.
  if (!Redundant() || waits_for_redundancy_) {
    return;
  }
  const auto victim = static_cast<uint32_t>(random_.Below(cluster_.shape().servers));
  cluster_.Note(fmt::format("kill server {} and the trainers", victim));
  cluster_.KillServer(victim);
  launch_->Kill();
  kills_ += 1;
  waits_for_redundancy_ = true;
  restart_server_at_[victim] = After(50, 3000);
  relaunch_at_ = After(50, 800);
}

// Sequence of the newest snapshot that is committed and that the disks together have whole; 0:
// none.
uint64_t Run::NewestWholeOnDisks() {
  std::map<SnapshotId, std::set<uint32_t>> ranks;
  uint64_t newest = 0;
  for (uint32_t i = 0; i < cluster_.shape().servers; ++i) {
    for (const auto& [shard, bytes] : cluster_.tier(i)->Durable()) {
      const SnapshotId& id = shard.snapshot;
      const absl::StatusOr<model::CommitRecord> record = model::DecodeCommitRecord(bytes);
      GEMEL_CHECK(record.ok()) << shard.ToString();
      ranks[id].insert(shard.rank);
      const bool whole = ranks[id].size() == record->world_size;
      const std::string key = StoredSnapshotKey(id.job, id.epoch, id.sequence);
      if (whole && cluster_.store()->values.contains(key)) {
        newest = std::max(newest, id.sequence);
      }
    }
  }
  return newest;
}

// Only when something is on disk: otherwise everything that was told would be lost, honestly.
void Run::CutPower() {
  if (oracle_.newest_persisted() == 0 || LiveServers().size() < cluster_.shape().servers ||
      power_cuts_ >= kPowerCutsMax) {
    return;
  }
  cluster_.Note("power cut");
  power_cuts_ += 1;
  for (uint32_t i = 0; i < cluster_.shape().servers; ++i) {
    cluster_.KillServer(i);
    restart_server_at_[i] = After(50, 2000);
  }
  launch_->Kill();
  for (std::unique_ptr<Launch>& old : old_launches_) {
    old->Kill();
  }
  if (random_.Chance(1, 2) && cluster_.placement_up()) {
    cluster_.KillPlacement();
    restart_placement_at_ = After(20, 1500);
  }
  oracle_.PowerCut(NewestWholeOnDisks());
  waits_for_redundancy_ = true;
  all_back_at_ = After(2300, 2800);
  relaunch_at_ = all_back_at_;
}

void Run::TroubleTier() {
  SimPersistState* tier =
      cluster_.tier(static_cast<uint32_t>(random_.Below(cluster_.shape().servers)));
  switch (random_.Below(4)) {
    case 0:
      cluster_.Note("a tier is slow");
      tier->set_slowness(1 + static_cast<uint32_t>(random_.Below(50)));
      break;
    case 1:
      cluster_.Note("a tier hangs");
      tier->set_hung(true);
      heal_at_ = std::min(heal_at_, After(100, 2500));
      break;
    case 2:
      cluster_.Note("a tier fails");
      tier->FailNextStep();
      break;
    default:
      cluster_.Note("a tier is full");
      tier->set_capacity_bytes(tier->occupied_bytes() + random_.Below(2 * kMiB));
      heal_at_ = std::min(heal_at_, After(500, 2500));
      break;
  }
}

void Run::Strike() {
  if (enabled_.empty()) {
    return;
  }
  switch (enabled_[random_.Below(enabled_.size())]) {
    case Fault::kKillServer:
      StrikeServer();
      break;
    case Fault::kKillPlacement:
      if (cluster_.placement_up()) {
        cluster_.Note("kill placement");
        cluster_.KillPlacement();
        restart_placement_at_ = After(20, 1500);
      }
      break;
    case Fault::kKillTrainers:
      cluster_.Note("kill the trainers");
      launch_->Kill();
      relaunch_at_ = After(50, 500);
      break;
    case Fault::kPauseServer:
      PauseFor(cluster_.server_loop(static_cast<uint32_t>(random_.Below(cluster_.shape().servers))),
               2500);
      break;
    case Fault::kPausePlacement:
      PauseFor(cluster_.placement_loop(), 2500);
      break;
    case Fault::kZombieLaunch:
      if (!launch_->failed()) {
        cluster_.Note("the launch stops, a new one begins");
        launch_->Pause();
        Relaunch();
        heal_at_ = std::min(heal_at_, After(200, 2500));
      }
      break;
    case Fault::kPartition:
      PartitionServer();
      break;
    case Fault::kEpochRace:
      cluster_.Note("a second launch beside the first");
      Relaunch();
      break;
    case Fault::kPowerCut:
      CutPower();
      break;
    case Fault::kTierTrouble:
      TroubleTier();
      break;
    case Fault::kClog:
      ClogLink();
      break;
    default:
      break;  // link and store faults hold for the whole phase
  }
}

void Run::HealAll() {
  cluster_.Note("heal");
  cluster_.world()->Heal();
  for (uint32_t i = 0; i < cluster_.shape().servers; ++i) {
    if (SimLoop* loop = cluster_.server_loop(i); loop != nullptr && loop->paused()) {
      loop->Resume();
    }
  }
  if (SimLoop* loop = cluster_.placement_loop(); loop != nullptr && loop->paused()) {
    loop->Resume();
  }
  for (std::unique_ptr<Launch>& old : old_launches_) {
    old->Resume();
  }
  for (uint32_t i = 0; i < cluster_.shape().servers; ++i) {
    cluster_.tier(i)->set_slowness(1);
    cluster_.tier(i)->set_hung(false);
    cluster_.tier(i)->set_capacity_bytes(std::numeric_limits<uint64_t>::max());
  }
  heal_at_ = kTimeNever;
}

void Run::Recover() {
  const TimePoint now = cluster_.scheduler()->now();
  if (now >= heal_at_) {
    HealAll();
  }
  if (now >= restart_placement_at_) {
    restart_placement_at_ = kTimeNever;
    cluster_.StartPlacement();
  }
  // A trainer that learned that it is superseded exits.
  for (std::unique_ptr<Launch>& old : old_launches_) {
    if (old->failed()) {
      old->Kill();
    }
  }
  for (uint32_t i = 0; i < cluster_.shape().servers; ++i) {
    if (now >= restart_server_at_[i]) {
      restart_server_at_[i] = kTimeNever;
      cluster_.StartServer(i);
    }
  }
  if (launch_ != nullptr && launch_->failed() && relaunch_at_ == kTimeNever) {
    relaunch_at_ = now + kRelaunchAfter;
  }
  if (now >= relaunch_at_) {
    relaunch_at_ = kTimeNever;
    if (launch_ != nullptr) {
      launch_->Kill();
    }
    Relaunch();
  }
}

void Run::Tick() {
  Recover();
  if (waits_for_redundancy_ && Redundant()) {
    waits_for_redundancy_ = false;
  }
  if (cluster_.scheduler()->now() >= next_strike_) {
    next_strike_ = After(50, 900);
    Strike();
  }
}

ScenarioResult Run::Go() {
  SimScheduler* scheduler = cluster_.scheduler();
  oracle_.Watch(cluster_.store());
  cluster_.StartPlacement();
  for (uint32_t i = 0; i < cluster_.shape().servers; ++i) {
    cluster_.StartServer(i);
  }
  SetLinkFaults();
  relaunch_at_ = After(0, 200);
  next_strike_ = After(300, 1200);
  const auto never = [] { return false; };
  const TimePoint faults_end = scheduler->now() + kFaultPhase;
  while (scheduler->now() < faults_end && oracle_.violations().empty()) {
    scheduler->RunUntil(never, scheduler->now() + kTick);
    Tick();
  }
  HealAll();
  cluster_.world()->SetDefaultFaults(LinkFaults());
  cluster_.store()->unknown_permille = 0;
  const uint64_t told_before = oracle_.newest_told();
  const TimePoint give_up = scheduler->now() + kHealWithin;
  while (oracle_.newest_told() <= told_before && oracle_.violations().empty()) {
    scheduler->RunUntil(never, scheduler->now() + kTick);
    Recover();
    if (scheduler->now() > give_up) {
      oracle_.Violation(
          fmt::format("no new commit within {} s after everything healed; the launch: {}",
                      std::chrono::duration_cast<std::chrono::seconds>(kHealWithin).count(),
                      launch_ == nullptr ? "none" : launch_->failure()));
    }
  }
  ScenarioResult result;
  result.violations = oracle_.violations();
  result.history_hash = scheduler->history_hash();
  result.events = scheduler->events_run();
  result.commits = oracle_.commits();
  result.restores = oracle_.restores();
  result.kills = kills_;
  result.persists = oracle_.persists();
  result.power_cuts = power_cuts_;
  result.launches = launches_;
  result.timeline.assign(cluster_.lines().begin(), cluster_.lines().end());
  return result;
}

}  // namespace

std::string NameOf(Fault fault) {
  static constexpr const char* kNames[] = {
      "kill-server",     "kill-placement", "kill-trainers", "pause-server",
      "pause-placement", "zombie",         "partition",     "lossy-calls",
      "resets",          "late-writes",    "corruption",    "store-trouble",
      "epoch-race",      "power-cut",      "tier-trouble",  "clog"};
  static_assert(std::size(kNames) == std::size(kAllFaults));
  return kNames[static_cast<size_t>(fault)];
}

ScenarioResult RunScenario(const ScenarioOptions& options) { return Run(options).Go(); }

}  // namespace gemel::sim

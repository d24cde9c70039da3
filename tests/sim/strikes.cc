// SPDX-License-Identifier: Apache-2.0
#include "tests/sim/strikes.h"

#include <fmt/format.h>

#include <algorithm>

#include "common/check.h"
#include "common/errors.h"

namespace gemel::sim {
namespace {

constexpr uint32_t kStrengthMax = 100;
constexpr uint64_t kGapMinMs = 250;
constexpr uint64_t kGapPerStrengthMs = 45;

// Quadratic: most runs are mild, few are harsh.
uint32_t Ppm(uint32_t strength, uint32_t max) {
  return static_cast<uint32_t>(uint64_t{max} * strength * strength /
                               (uint64_t{kStrengthMax} * kStrengthMax)) +
         50;
}

}  // namespace

Strikes::Strikes(const RunPlan& plan, Cluster* cluster, Oracle* oracle, Jobs* jobs,
                 SimPoints* points)
    : plan_(plan),
      cluster_(cluster),
      oracle_(oracle),
      jobs_(jobs),
      points_(points),
      own_(Random(cluster->seed()).Split("strikes")),
      at_points_(own_.Split("at points")),
      slots_(plan.shape.slots()),
      restart_manager_at_(plan.shape.managers, kTimeNever) {
  for (uint32_t i = 0; i < plan.shape.servers; ++i) {
    slots_[i].member = true;
  }
  for (const Fault fault : plan.enabled) {
    if (const Strike strike = StrikeOf(fault); strike != nullptr) {
      schedules_.emplace(fault, Schedule{strike, own_.Split(NameOf(fault))});
    }
  }
  points->OnReached([this](CrashPoint point) { PointReached(point); });
}

Strikes::~Strikes() { points_->OnReached({}); }

// Null: it holds for the whole phase, or production code fires it.
Strikes::Strike Strikes::StrikeOf(Fault fault) {
  static const std::map<Fault, Strike> strikes = {
      {Fault::kKillServer, &Strikes::KillServer},
      {Fault::kKillPlacement, &Strikes::KillPlacement},
      {Fault::kKillTrainers, &Strikes::KillTrainers},
      {Fault::kRestartStorm, &Strikes::RestartStorm},
      {Fault::kPauseServer, &Strikes::PauseServer},
      {Fault::kPausePlacement, &Strikes::PausePlacement},
      {Fault::kPauseStorm, &Strikes::PauseStorm},
      {Fault::kZombieLaunch, &Strikes::Zombie},
      {Fault::kEpochRace, &Strikes::EpochRace},
      {Fault::kPowerCut, &Strikes::PowerCut},
      {Fault::kReformat, &Strikes::Reformat},
      {Fault::kAtPoint, &Strikes::AtPoint},
      {Fault::kRackDown, &Strikes::RackDown},
      {Fault::kHungKeeper, &Strikes::HangKeeper},
      {Fault::kRemoval, &Strikes::Removal},
      {Fault::kDrain, &Strikes::Drain},
      {Fault::kRotEverywhere, &Strikes::RotEverywhere},
      {Fault::kSlowDisks, &Strikes::SlowDisks},
      {Fault::kSlowLanding, &Strikes::StallReads},
      {Fault::kStoreOutage, &Strikes::StoreOutage},
      {Fault::kStoreLost, &Strikes::LoseStore},
      {Fault::kRollBack, &Strikes::RollBack},
      {Fault::kMembers, &Strikes::ChangeMembers},
      {Fault::kUpgrade, &Strikes::Upgrade},
      {Fault::kPartition, &Strikes::Partition},
      {Fault::kBridge, &Strikes::Bridge},
      {Fault::kClog, &Strikes::Clog},
      {Fault::kSwizzle, &Strikes::Swizzle},
      {Fault::kMemoryRot, &Strikes::MemoryRot},
      {Fault::kDiskRot, &Strikes::DiskRot},
      {Fault::kTornWrites, &Strikes::TornWrites},
      {Fault::kFsyncErrors, &Strikes::FsyncErrors},
      {Fault::kFullDisk, &Strikes::FullDisk},
      {Fault::kHungDisk, &Strikes::HungDisk},
      {Fault::kSlow, &Strikes::Slow},
      {Fault::kResets, &Strikes::CutOffTrainer},
      {Fault::kClockRate, &Strikes::ClockRate},
      {Fault::kClockJump, &Strikes::ClockJump},
  };
  const auto found = strikes.find(fault);
  return found == strikes.end() ? nullptr : found->second;
}

TimePoint Strikes::After(uint64_t ms_min, uint64_t ms_max) {
  Random* random = random_ == nullptr ? &own_ : random_;
  const uint64_t drawn = ms_min + random->Below(ms_max - ms_min + 1);
  return cluster_->scheduler()->now() + std::chrono::milliseconds(drawn);
}

void Strikes::ScheduleNext(Fault fault, Schedule* schedule) {
  const uint64_t mildness = kStrengthMax + 10 - plan_.StrengthOf(fault);
  random_ = &schedule->random;
  schedule->next = After(kGapMinMs, kGapMinMs + mildness * kGapPerStrengthMs);
  random_ = nullptr;
}

void Strikes::Later(TimePoint when, std::function<void()> heal) {
  heals_.emplace_back(when, std::move(heal));
}

void Strikes::Soon(TimePoint when, std::function<void()> strike) {
  soon_.emplace_back(when, std::move(strike));
}

void Strikes::RunDue(Timed* timed, TimePoint now) {
  Timed due;
  std::erase_if(*timed, [&due, now](auto& one) {
    const bool is_due = one.first <= now;
    if (is_due) {
      due.push_back(std::move(one));
    }
    return is_due;
  });
  for (const auto& [when, act] : due) {
    act();
  }
}

void Strikes::Begin() {
  striking_ = true;
  SetLinkFaults();
  for (auto& [fault, schedule] : schedules_) {
    ScheduleNext(fault, &schedule);
  }
}

void Strikes::SetLinkFaults() {
  LinkFaults faults;
  const auto ppm = [this](Fault fault, uint32_t max) {
    return plan_.Has(fault) ? Ppm(plan_.StrengthOf(fault), max) : 0;
  };
  faults.lose_request_ppm = ppm(Fault::kLossyCalls, 30'000);
  faults.lose_reply_ppm = ppm(Fault::kLossyCalls, 30'000);
  faults.duplicate_ppm = ppm(Fault::kDuplicates, 100'000);
  faults.duplicate_call_ppm = ppm(Fault::kDuplicates, 60'000);
  faults.straggle_ppm = ppm(Fault::kStragglers, 25'000);
  faults.reset_ppm = ppm(Fault::kResets, 4'000);
  faults.late_write_ppm = ppm(Fault::kLateWrites, 150'000);
  faults.corrupt_ppm = ppm(Fault::kCorruption, 4'000);
  faults.late_call_ppm = ppm(Fault::kLateCalls, 200'000);
  if (plan_.Has(Fault::kSlowLanding)) {
    faults.landing_max += std::chrono::microseconds(plan_.StrengthOf(Fault::kSlowLanding) * 500);
    faults.stall_ppm = ppm(Fault::kSlowLanding, 3'000);
  }
  cluster_->world()->SetDefaultFaults(faults);
  if (plan_.Has(Fault::kStoreTrouble)) {
    const uint32_t strength = plan_.StrengthOf(Fault::kStoreTrouble);
    SimStoreState* store = cluster_->store();
    store->unknown_permille = 5 + strength;
    store->unknown_late_permille = 500;  // of those not applied at once
    store->stale_permille = 3 * strength;
    store->unavailable_permille = strength / 4;
  }
}

std::optional<uint32_t> Strikes::PickUp() {
  std::vector<uint32_t> up;
  for (uint32_t i = 0; i < slots_.size(); ++i) {
    if (slots_[i].member && cluster_->server_up(i)) {
      up.push_back(i);
    }
  }
  if (up.empty()) {
    return std::nullopt;
  }
  return up[random_->Below(up.size())];
}

std::optional<uint32_t> Strikes::PickToLose() {
  const std::optional<uint32_t> victim = PickUp();
  if (!victim.has_value() || (!oracle_->overkill() && !oracle_->CanLose(*victim))) {
    return std::nullopt;
  }
  return victim;
}

// What is on disks may go only while memory has it all, and the store what servers know.
bool Strikes::MayHurtDisks() const {
  return !cluster_->IsRecovering() && !cluster_->LacksGeneration() &&
         (oracle_->overkill() || !oracle_->OnDisksOnly());
}

void Strikes::Down(uint32_t server, Duration relaunch_after, bool with_host) {
  if (with_host) {
    cluster_->KillHost(server);
  } else {
    cluster_->KillServer(server);
  }
  oracle_->MemoryLost(server);
  servers_killed_ += 1;
  for (const std::unique_ptr<SimJob>& job : *jobs_) {
    if (with_host) {
      job->HostDied(server, relaunch_after);
    }
  }
}

std::vector<uint32_t> Strikes::Members() const {
  std::vector<uint32_t> members;
  for (uint32_t i = 0; i < slots_.size(); ++i) {
    if (slots_[i].member) {
      members.push_back(i);
    }
  }
  return members;
}

std::vector<std::string> Strikes::Nodes() const {
  std::vector<std::string> nodes;
  for (uint32_t manager = 0; manager < cluster_->managers(); ++manager) {
    nodes.push_back(Cluster::ManagerNode(manager));
  }
  for (const uint32_t server : Members()) {
    nodes.push_back(Cluster::HostOf(server));
  }
  return nodes;
}

bool Strikes::Degraded() const {
  const std::vector<uint32_t> members = Members();
  return std::any_of(members.begin(), members.end(),
                     [this](uint32_t server) { return !cluster_->IsMember(server); });
}

// Services start again what ended; a person replaces a disk that cannot be read.
void Strikes::Restart() {
  const TimePoint now = cluster_->scheduler()->now();
  for (uint32_t manager = 0; manager < cluster_->managers(); ++manager) {
    if (now >= restart_manager_at_[manager]) {
      restart_manager_at_[manager] = kTimeNever;
      cluster_->StartPlacement(manager);
    }
  }
  for (uint32_t i = 0; i < slots_.size(); ++i) {
    Slot& slot = slots_[i];
    const absl::Status end = cluster_->EndOf(i);
    if (!end.ok()) {
      Note(fmt::format("{} ended: {}", Cluster::HostOf(i), ToText(end)));
      cluster_->KillServer(i);
      oracle_->MemoryLost(i);
      if (MessageOf(end).find("recover --from-servers") != std::string_view::npos) {
        EmptyStore();  // as it says
      }
      if (end.code() == absl::StatusCode::kDataLoss ||
          end.code() == absl::StatusCode::kInvalidArgument) {
        Note(fmt::format("a new disk for {}", Cluster::HostOf(i)));
        cluster_->ReplaceDisk(i);
        oracle_->DiskLost(i);
      } else if (MessageOf(end).find("End this gemel-keeper") != std::string_view::npos) {
        cluster_->EndKeeper(i);  // its disk lied about the identity that the keeper knows
      }
      slot.restart_at = slot.gone ? kTimeNever : After(50, 400);
    }
    if (now >= slot.restart_at && !cluster_->server_up(i)) {
      slot.restart_at = kTimeNever;
      cluster_->StartServer(i);
    }
  }
}

// Counts of links that cannot tell whose they are go to the class that struck last.
void Strikes::Attribute() {
  const LinkStats links = cluster_->world()->TotalStats();
  Struck(cut_,
         links.held + links.closes_lost - std::exchange(held_, links.held + links.closes_lost));
  Struck(clog_, links.clogged - std::exchange(clogged_, links.clogged));
}

void Strikes::Tick() {
  const TimePoint now = cluster_->scheduler()->now();
  Attribute();
  RunDue(&heals_, now);
  RunDue(&soon_, now);
  Restart();
  WatchRecovery();
  for (auto& [fault, schedule] : schedules_) {
    if (!striking_ || now < schedule.next) {
      continue;
    }
    random_ = &schedule.random;
    (this->*schedule.strike)();
    random_ = nullptr;
    ScheduleNext(fault, &schedule);
  }
}

void Strikes::BeginOverkill() {
  Note("overkill");
  oracle_->Overkill();
  Random random = own_.Split("overkill");
  random_ = &random;
  const std::vector<uint32_t> members = Members();
  const uint64_t spared = random.Below(members.size());
  for (const uint32_t server : members) {
    if (!cluster_->server_up(server) || (random.Chance(1, 4) && server == spared)) {
      continue;
    }
    Down(server, 300ms, true);
    if (random.Chance(1, 3) && !cluster_->IsRecovering()) {
      cluster_->ReplaceDisk(server);
      oracle_->DiskLost(server);
    }
    slots_[server].restart_at = After(50, 1500);
  }
  random_ = nullptr;
}

void Strikes::HealAll() {
  Note("heal");
  striking_ = false;
  soon_.clear();
  waiting_.reset();
  RunDue(&heals_, kTimeNever);
  cluster_->world()->Heal();
  cluster_->world()->SetDefaultFaults(LinkFaults());
  cluster_->store()->unknown_permille = 0;
  cluster_->store()->stale_permille = 0;
  cluster_->store()->unavailable_permille = 0;
  cluster_->store()->unavailable = false;
  cluster_->store()->full = false;
  Attribute();
  for (uint32_t i = 0; i < slots_.size(); ++i) {
    cluster_->tier(i)->Calm();
    cluster_->disk(i)->Calm();
  }
  for (const std::unique_ptr<SimJob>& job : *jobs_) {
    job->ResumeAll();
  }
}

FaultCounts Strikes::Counts() const {
  FaultCounts counts = struck_;
  cluster_->CountInjected(&counts);
  counts[static_cast<size_t>(Fault::kOddRank)] = oracle_->odd_tries();
  counts[static_cast<size_t>(Fault::kBuggify)] = points_->fired_total();
  counts[static_cast<size_t>(Fault::kStoreTrouble)] =
      points_->met()[static_cast<size_t>(Situation::kStoreOutcomeUnknown)];
  return counts;
}

}  // namespace gemel::sim

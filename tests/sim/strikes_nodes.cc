// SPDX-License-Identifier: Apache-2.0
//
// Faults of processes, hosts, clocks and of the cluster's members.
#include <fmt/format.h>

#include <algorithm>

#include "common/check.h"
#include "common/control_protocol.h"
#include "placement/manager/wire.h"
#include "tests/sim/strikes.h"

namespace gemel::sim {
namespace {

constexpr uint64_t kPowerCutsMax = 2;  // of one run
constexpr int64_t kDayS = 86'400;

}  // namespace

void Strikes::KillServer() {
  const std::optional<uint32_t> victim = PickToLose();
  if (!victim.has_value()) {
    return;
  }
  const bool with_host = random_->Chance(2, 3);
  Note(fmt::format("kill {} of {}", with_host ? "all" : "the server", Cluster::HostOf(*victim)));
  Struck(Fault::kKillServer);
  const Duration relaunch = After(50, 800) - cluster_->scheduler()->now();
  Down(*victim, relaunch, with_host);
  slots_[*victim].restart_at = After(50, 3000);
}

uint32_t Strikes::PickManager() {
  return static_cast<uint32_t>(random_->Below(cluster_->managers()));
}

void Strikes::KillManager(uint32_t manager, TimePoint restart_at) {
  GEMEL_CHECK(cluster_->placement_up(manager) && restart_at != kTimeNever);
  Note("kill " + Cluster::ManagerNode(manager));
  cluster_->KillPlacement(manager);
  restart_manager_at_[manager] = restart_at;
}

void Strikes::KillPlacement() {
  const uint32_t manager = PickManager();
  if (cluster_->placement_up(manager)) {
    Struck(Fault::kKillPlacement);
    KillManager(manager, After(20, 1500));
    // A job that restores while the next one does not yet know what servers hold.
    if (random_->Chance(1, 3)) {
      (*jobs_)[random_->Below(jobs_->size())]->KillTrainers(10ms);
    }
  }
}

// It lives, and may write what it was given; its server hears no more of it on that connection.
void Strikes::CutOffTrainer() {
  const std::unique_ptr<SimJob>& job = (*jobs_)[random_->Below(jobs_->size())];
  if (job->CutOff(random_->Next())) {
    Note("a rank of " + job->plan().name + " is cut off from its server");
    Struck(Fault::kResets);
  }
}

void Strikes::KillTrainers() {
  const std::unique_ptr<SimJob>& job = (*jobs_)[random_->Below(jobs_->size())];
  Note("kill the trainers of " + job->plan().name);
  Struck(Fault::kKillTrainers);
  job->KillTrainers(After(50, 500) - cluster_->scheduler()->now());
}

// One process after the other, before it has come to anything.
void Strikes::RestartStorm() {
  const uint64_t what = random_->Below(3);
  const std::optional<uint32_t> victim = what == 0 ? PickToLose() : std::nullopt;
  const uint32_t manager = PickManager();
  const uint64_t times = 2 + random_->Below(3);
  for (uint64_t i = 0; i < times; ++i) {
    Soon(After(20 + i * 100, 120 + i * 100), [this, what, victim, manager] {
      Struck(Fault::kRestartStorm);
      if (what == 0 && victim.has_value() && cluster_->server_up(*victim) &&
          (oracle_->overkill() || oracle_->CanLose(*victim))) {
        Note("storm: kill " + Cluster::HostOf(*victim));
        Down(*victim, 100ms, false);
        slots_[*victim].restart_at = cluster_->scheduler()->now() + 30ms;
      } else if (what == 1 && cluster_->placement_up(manager)) {
        KillManager(manager, cluster_->scheduler()->now() + 20ms);
      } else {
        Note("storm: kill the trainers");
        jobs_->front()->KillTrainers(50ms);
      }
    });
  }
}

void Strikes::PauseFor(const std::function<SimLoop*()>& loop_of, uint64_t ms_max) {
  SimLoop* loop = loop_of();
  if (loop == nullptr || loop->paused()) {
    return;
  }
  loop->Pause();
  Later(After(50, ms_max), [loop_of] {
    // It may have been killed and started again meanwhile: then there is nothing to resume.
    if (SimLoop* again = loop_of(); again != nullptr && again->paused()) {
      again->Resume();
    }
  });
}

void Strikes::PauseServer() {
  if (const std::optional<uint32_t> victim = PickUp(); victim.has_value()) {
    Note("pause " + Cluster::HostOf(*victim));
    Struck(Fault::kPauseServer);
    PauseFor([this, server = *victim] { return cluster_->server_loop(server); }, 2500);
  }
}

void Strikes::PausePlacement() {
  const uint32_t manager = PickManager();
  Note("pause " + Cluster::ManagerNode(manager));
  Struck(Fault::kPausePlacement);
  PauseFor([this, manager] { return cluster_->placement_loop(manager); }, 2500);
}

void Strikes::PauseStorm() {
  Note("short pauses everywhere");
  for (const uint32_t server : Members()) {
    Soon(After(0, 600), [this, server] {
      Struck(Fault::kPauseStorm);
      PauseFor([this, server] { return cluster_->server_loop(server); }, 300);
    });
  }
  for (uint32_t manager = 0; manager < cluster_->managers(); ++manager) {
    Soon(After(0, 600), [this, manager] {
      Struck(Fault::kPauseStorm);
      PauseFor([this, manager] { return cluster_->placement_loop(manager); }, 300);
    });
  }
}

// Trainers come and go that it does not hear of; then their server is killed while they stand
// still, and its next life has of the keeper what that knew.
void Strikes::HangKeeper() {
  const std::optional<uint32_t> victim = PickUp();
  if (!victim.has_value() || cluster_->keeper_loop(*victim) == nullptr) {
    return;
  }
  Note("the keeper hangs: " + Cluster::HostOf(*victim));
  Struck(Fault::kHungKeeper);
  PauseFor([this, server = *victim] { return cluster_->keeper_loop(server); }, 3500);
  for (const TimePoint when : {After(0, 100), After(1100, 1500)}) {
    Soon(when, [this] {
      for (const std::unique_ptr<SimJob>& job : *jobs_) {
        job->KillTrainers(20ms);
      }
    });
  }
  const TimePoint killed = After(1200, 2500);
  const TimePoint awake = Add(killed, std::chrono::milliseconds(200 + random_->Below(1500)));
  Soon(killed, [this, server = *victim, awake] {
    if (cluster_->server_up(server) && (oracle_->overkill() || oracle_->CanLose(server))) {
      for (const std::unique_ptr<SimJob>& job : *jobs_) {
        job->LeaveZombie();
        Later(awake, [&one = *job] { one.ResumeAll(); });
      }
      Note("kill the server of a hung keeper: " + Cluster::HostOf(server));
      Down(server, 100ms, false);
      slots_[server].restart_at = cluster_->now() + 30ms;
    }
  });
}

void Strikes::Zombie() {
  const std::unique_ptr<SimJob>& job = (*jobs_)[random_->Below(jobs_->size())];
  Note("a launch stops, a new one begins");
  Struck(Fault::kZombieLaunch);
  job->LeaveZombie();
  // It wakes just as the new one takes over, or later.
  const TimePoint wakes = random_->Chance(1, 2) ? After(0, 60) : After(200, 2500);
  Later(wakes, [&job = *job] { job.ResumeAll(); });
}

void Strikes::EpochRace() {
  Note("a second launch beside the first");
  Struck(Fault::kEpochRace);
  const std::unique_ptr<SimJob>& job = (*jobs_)[random_->Below(jobs_->size())];
  job->Race();
  // Both new: ranks of one acquire their epoch after ranks of the other.
  if (random_->Chance(1, 2)) {
    Soon(After(0, 40), [&job = *job] { job.Race(); });
  }
}

// Without power nobody says that connections end: until its server starts again, it is silent.
void Strikes::GoDark(uint32_t server) {
  const std::string dark = Cluster::HostOf(server);
  std::vector<std::string> others = Nodes();
  std::erase(others, dark);
  cluster_->world()->Partition({dark}, others);
  Later(slots_[server].restart_at, [this, dark, others] {
    for (const std::string& other : others) {
      cluster_->world()->Heal(dark, other);
    }
  });
}

// Only when something is on disk: otherwise everything that was told would be lost, honestly.
void Strikes::CutPower() {
  const std::vector<uint32_t> members = Members();
  const bool all_up = std::all_of(members.begin(), members.end(),
                                  [this](uint32_t i) { return cluster_->server_up(i); });
  const bool on_disk = std::any_of(jobs_->begin(), jobs_->end(), [this](const auto& job) {
    return oracle_->IsOnDisk(job->plan().name);
  });
  if (!on_disk || !all_up || power_cuts_ >= kPowerCutsMax || !MayHurtDisks()) {
    return;
  }
  Note("power cut");
  Struck(Fault::kPowerCut);
  power_cuts_ += 1;
  cut_ = Fault::kPowerCut;
  for (const uint32_t server : members) {
    slots_[server].restart_at = After(50, 2000);
    GoDark(server);
    cluster_->KillHost(server);
  }
  // Until then a disk may be missing, and what only it has would be lost, honestly.
  const TimePoint all_back_at = After(2300, 2800);
  for (const std::unique_ptr<SimJob>& job : *jobs_) {
    for (const uint32_t server : members) {
      job->HostDied(server, 0s);
    }
    job->KillTrainers(0s);
    job->WaitUntil(all_back_at);
  }
  for (uint32_t manager = 0; manager < cluster_->managers(); ++manager) {
    if (random_->Chance(1, 2) && cluster_->placement_up(manager)) {
      KillManager(manager, After(20, 1500));
    }
  }
  if (random_->Chance(1, 3)) {
    HangADisk();
  }
  oracle_->PowerCut();
}

// Its server comes back, joins, and cannot say what is there while the jobs restore.
void Strikes::HangADisk() {
  const std::vector<uint32_t> members = Members();
  const uint32_t server = members[random_->Below(members.size())];
  Note("its tier hangs: " + Cluster::HostOf(server));
  SimPersistState* tier = cluster_->tier(server);
  tier->set_hung(true);
  Later(After(2300, 4000), [tier] { tier->set_hung(false); });
}

bool Strikes::CanLoseRack(const std::vector<uint32_t>& rack) const {
  return oracle_->overkill() ||
         (MayHurtDisks() && oracle_->CanLose(rack.front()) && oracle_->IsKeptBeside(rack));
}

void Strikes::RackDown() {
  const std::optional<uint32_t> victim = PickUp();
  const uint32_t racks = plan_.shape.racks;
  if (!victim.has_value() || racks < 2) {
    return;
  }
  std::vector<uint32_t> rack;
  for (const uint32_t server : Members()) {
    if (server % racks == *victim % racks && cluster_->server_up(server)) {
      rack.push_back(server);
    }
  }
  GEMEL_CHECK(!rack.empty());
  if (!CanLoseRack(rack)) {
    return;
  }
  Note(fmt::format("rack {} goes, with {} servers", *victim % racks, rack.size()));
  Struck(Fault::kRackDown);
  const TimePoint back = After(50, 2500);
  const bool with_hosts = random_->Chance(1, 2);
  cut_ = with_hosts ? Fault::kRackDown : cut_;
  for (const uint32_t server : rack) {
    slots_[server].restart_at = back;
    if (with_hosts) {
      GoDark(server);
    }
    Down(server, 100ms, with_hosts);
  }
}

void Strikes::Reformat() {
  const std::optional<uint32_t> victim = PickToLose();
  if (!victim.has_value() || !MayHurtDisks()) {
    return;
  }
  Note("a new disk for " + Cluster::HostOf(*victim));
  Struck(Fault::kReformat);
  Down(*victim, 300ms, true);
  cluster_->ReplaceDisk(*victim);
  oracle_->DiskLost(*victim);
  slots_[*victim].restart_at = After(50, 1500);
}

// First a picture is taken, later it is put back.
void Strikes::RollBack() {
  const std::optional<uint32_t> victim = PickUp();
  if (!victim.has_value()) {
    return;
  }
  Slot& slot = slots_[*victim];
  if (!slot.has_picture) {
    slot.disk_picture = cluster_->disk(*victim)->contents();
    slot.tier_picture = cluster_->tier(*victim)->Picture();
    slot.has_picture = true;
    return;
  }
  if (!MayHurtDisks() || (!oracle_->overkill() && !oracle_->CanLose(*victim))) {
    return;
  }
  Note(fmt::format("{} comes back with an older disk", Cluster::HostOf(*victim)));
  Struck(Fault::kRollBack);
  Down(*victim, 300ms, true);
  cluster_->disk(*victim)->RollBackTo(slot.disk_picture);
  cluster_->tier(*victim)->RollBackTo(*slot.tier_picture);
  oracle_->DiskLost(*victim);
  slot.has_picture = false;
  slot.restart_at = After(50, 1500);
}

// One process at a time, a server's memory kept where there is a keeper; now and then back again.
void Strikes::Upgrade() {
  const uint32_t manager = PickManager();
  const bool of_server = random_->Chance(2, 3);
  const std::optional<uint32_t> victim = of_server ? PickToLose() : std::nullopt;
  if (of_server ? !victim.has_value() : !cluster_->placement_up(manager)) {
    return;
  }
  Struck(Fault::kUpgrade);
  const uint32_t release = random_->Chance(1, 4) ? kControlProtocolOldest : kControlProtocolVersion;
  Note(fmt::format("{} speaks control protocol {} from now on",
                   of_server ? Cluster::HostOf(*victim) : Cluster::ManagerNode(manager), release));
  if (of_server) {
    cluster_->SetServerProtocol(*victim, release);
    Down(*victim, 300ms, false);
    slots_[*victim].restart_at = After(30, 300);
  } else {
    cluster_->SetPlacementProtocol(manager, release);
    KillManager(manager, After(20, 300));
  }
}

void Strikes::ChangeMembers() {
  const uint64_t what = random_->Below(3);
  const auto spare = std::find_if(slots_.begin(), slots_.end(),
                                  [](const Slot& slot) { return !slot.member && !slot.gone; });
  uint32_t copies_max = 1;
  for (const std::unique_ptr<SimJob>& job : *jobs_) {
    copies_max = std::max(copies_max, job->plan().copies);
  }
  if (what == 0 && spare != slots_.end()) {
    const auto index = static_cast<uint32_t>(spare - slots_.begin());
    Note(Cluster::HostOf(index) + " joins for good");
    Struck(Fault::kMembers);
    spare->member = true;
    cluster_->StartServer(index);
    return;
  }
  const std::optional<uint32_t> victim = PickToLose();
  if (!victim.has_value() || !MayHurtDisks()) {
    return;
  }
  Struck(Fault::kMembers);
  Down(*victim, 300ms, true);
  if (what == 1 && Members().size() > copies_max) {
    Note(Cluster::HostOf(*victim) + " leaves for good");
    slots_[*victim].member = false;
    slots_[*victim].gone = true;
    cluster_->ReplaceDisk(*victim);
    oracle_->DiskLost(*victim);
    return;
  }
  const uint64_t percent = 80 + random_->Below(60);
  Note(fmt::format("{} comes back with {} % of its memory", Cluster::HostOf(*victim), percent));
  cluster_->SetMemory(*victim, plan_.shape.memory_bytes * percent / 100);
  slots_[*victim].restart_at = After(50, 1500);
}

void Strikes::Slow() {
  const std::optional<uint32_t> victim = PickUp();
  if (!victim.has_value()) {
    return;
  }
  const uint32_t server = *victim;
  const uint32_t manager = PickManager();
  const uint64_t what = random_->Below(4);
  const TimePoint until = After(300, 2500);
  if (what == 0) {
    Note("a slow CPU at " + Cluster::HostOf(server));
    SimLoop* loop = cluster_->server_loop(server);
    loop->set_turn_cost(std::chrono::microseconds(20 + random_->Below(250)));
    Later(until, [this, server, pid = cluster_->PidOfServer(server)] {
      if (cluster_->server_up(server) && cluster_->PidOfServer(server) == pid) {
        cluster_->server_loop(server)->set_turn_cost(Duration::zero());
      }
    });
  } else if (what == 1) {
    Note("slow disks at " + Cluster::HostOf(server));
    cluster_->disk(server)->set_slowness(2 + static_cast<uint32_t>(random_->Below(40)));
    cluster_->tier(server)->set_slowness(2 + static_cast<uint32_t>(random_->Below(40)));
    Later(until, [this, server] {
      cluster_->disk(server)->set_slowness(1);
      cluster_->tier(server)->set_slowness(1);
    });
  } else if (what == 2 && cluster_->placement_up(manager)) {
    Note("a slow CPU at " + Cluster::ManagerNode(manager));
    SimLoop* loop = cluster_->placement_loop(manager);
    loop->set_turn_cost(std::chrono::microseconds(20 + random_->Below(250)));
    Later(until, [this, manager, pid = cluster_->PidOfPlacement(manager)] {
      if (cluster_->placement_up(manager) && cluster_->PidOfPlacement(manager) == pid) {
        cluster_->placement_loop(manager)->set_turn_cost(Duration::zero());
      }
    });
  } else {
    Note("slow links at " + Cluster::HostOf(server));
    for (const std::string& other : Nodes()) {
      if (other != Cluster::HostOf(server)) {
        LinkFaults& faults = cluster_->world()->Faults(Cluster::HostOf(server), other);
        faults.delay_max = std::chrono::milliseconds(1 + random_->Below(40));
        faults.transmit_per_mib = std::chrono::milliseconds(1 + random_->Below(30));
      }
    }
  }
  Struck(Fault::kSlow);
}

// As far apart as the liveness of the cluster allows; managers by less than serve_for and
// takeover_after are (placement/manager/leadership.h).
void Strikes::ClockRate() {
  const auto rate = [this] { return 600 + static_cast<uint32_t>(random_->Below(1200)); };
  const uint32_t manager = PickManager();
  const uint64_t what = random_->Below(4);
  const std::optional<uint32_t> victim = PickUp();
  if (what == 0 && cluster_->placement_up(manager)) {
    Struck(Fault::kClockRate);
    const uint32_t managers_rate = 750 + static_cast<uint32_t>(random_->Below(650));
    cluster_->placement_loop(manager)->SetClockRate(managers_rate);
  } else if (victim.has_value()) {
    Struck(Fault::kClockRate);
    cluster_->server_loop(*victim)->SetClockRate(rate());
  }
}

void Strikes::ClockJump() {
  const auto days = static_cast<int64_t>(random_->Below(20)) - 10;
  if (const uint32_t manager = PickManager(); cluster_->placement_up(manager)) {
    Struck(Fault::kClockJump);
    cluster_->placement_loop(manager)->set_wall_offset_s(days * kDayS);
  }
  if (const std::optional<uint32_t> victim = PickUp(); victim.has_value()) {
    Struck(Fault::kClockJump);
    cluster_->server_loop(*victim)->set_wall_offset_s(-days * kDayS);
  }
}

}  // namespace gemel::sim

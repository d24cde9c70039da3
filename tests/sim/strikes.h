// SPDX-License-Identifier: Apache-2.0
//
// Strikes: injects the faults of a run and undoes them. Each class has a stream and a clock of its
// own, so that taking one away does not move the others.
//
// Within tolerance: a server's memory goes only when Oracle::CanLose() says so, a disk's content
// only while memory has everything. In overkill nothing is held back.
//
// Thread safety: one thread. Ownership: everything given outlives it.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "tests/sim/cluster.h"
#include "tests/sim/job.h"
#include "tests/sim/oracle.h"
#include "tests/sim/plan.h"
#include "tests/sim/sim_points.h"

namespace gemel::sim {

class Strikes {
 public:
  using Jobs = std::vector<std::unique_ptr<SimJob>>;

  Strikes(const RunPlan& plan, Cluster* cluster, Oracle* oracle, Jobs* jobs, SimPoints* points);
  ~Strikes();
  Strikes(const Strikes&) = delete;
  Strikes& operator=(const Strikes&) = delete;

  // From here on faults strike.
  void Begin();
  // Many servers at once, disks with them, and nothing is held back any more.
  void BeginOverkill();
  // Restarts and heals what is due; strikes what is due.
  void Tick();
  // All that can be healed is, and nothing strikes any more.
  void HealAll();

  // A server that is to be up is not, or is not counted.
  bool Degraded() const;
  // Slots whose server is part of the cluster.
  std::vector<uint32_t> Members() const;

  // By class, what links, disks and production code counted and what was struck from here.
  FaultCounts Counts() const;

  uint64_t servers_killed() const { return servers_killed_; }

  uint64_t power_cuts() const { return power_cuts_; }

 private:
  using Strike = void (Strikes::*)();
  // After `loop` came past a point.
  using PointAct = void (Strikes::*)(CrashPoint, const SimLoop*);

  struct Waiting {
    CrashPoint point{};
    uint64_t before = 0;  // so often it is let pass
    TimePoint until{};
    PointAct act = nullptr;
  };

  struct Schedule {
    Strike strike;
    Random random;
    TimePoint next{};
  };

  struct Slot {
    bool member = false;
    bool gone = false;  // for good
    TimePoint restart_at = kTimeNever;
    std::shared_ptr<const SimPersistState::Contents> tier_picture;
    SimDiskState::Contents disk_picture;
    bool has_picture = false;
  };

  // A server that a person drains.
  struct Emptying {
    uint32_t server = 0;
    ServerId id;
    bool force = false;
    bool takes_away = false;  // when it is ready
    TimePoint until{};
    Duration back_after{};
  };

  static Strike StrikeOf(Fault fault);
  void ScheduleNext(Fault fault, Schedule* schedule);
  TimePoint After(uint64_t ms_min, uint64_t ms_max);
  // Undoes something then, or when all heals.
  void Later(TimePoint when, std::function<void()> heal);
  // Strikes once more then, unless all has healed.
  void Soon(TimePoint when, std::function<void()> strike);

  void Note(const std::string& text) { cluster_->Note(text); }

  void Struck(Fault fault, uint64_t count = 1) { struck_[static_cast<size_t>(fault)] += count; }

  // A member that is up; none when there is none.
  std::optional<uint32_t> PickUp();
  std::optional<uint32_t> PickToLose();
  bool MayHurtDisks() const;
  // Every shard that was told has a copy in another rack.
  bool CanLoseRack(const std::vector<uint32_t>& rack) const;
  void Down(uint32_t server, Duration relaunch_after, bool with_host);
  void Restart();
  uint32_t PickManager();
  void KillManager(uint32_t manager, TimePoint restart_at);
  void PauseFor(const std::function<SimLoop*()>& loop_of, uint64_t ms_max);
  void Attribute();
  void EmptyStore();
  void WatchRecovery();
  void SetLinkFaults();
  std::vector<std::string> Nodes() const;

  // strikes_nodes.cc
  void KillServer();
  void KillPlacement();
  void KillTrainers();
  void CutOffTrainer();
  void RestartStorm();
  void PauseServer();
  void PausePlacement();
  void PauseStorm();
  void HangKeeper();
  void Zombie();
  void Upgrade();
  void EpochRace();
  void GoDark(uint32_t server);
  void CutPower();
  void HangADisk();
  void Reformat();
  void RackDown();
  void RollBack();
  void ChangeMembers();
  void Slow();
  void ClockRate();
  void ClockJump();

  // strikes_person.cc
  RpcChannel* Person();
  void Removal();
  void Drain();
  Task<void> Empty(Emptying emptying);
  void TakeAway(const Emptying& emptying);

  // strikes_points.cc
  std::optional<CrashPoint> PickPoint();
  void WaitFor(CrashPoint point, PointAct act);
  void PointReached(CrashPoint point);
  void AtPoint();
  void KillAt(CrashPoint point, const SimLoop* loop);
  void PowerCut();
  void CutPowerAt(CrashPoint point, const SimLoop* loop);
  void CutPowerWhenWhole(CrashPoint point, const SimLoop* loop);
  void StallReads();
  void StallAt(CrashPoint point, const SimLoop* loop);

  // strikes_media.cc
  void Partition();
  void Bridge();
  void Clog();
  void Swizzle();
  void MemoryRot();
  void DiskRot();
  void TornWrites();
  void FsyncErrors();
  void FullDisk();
  void HungDisk();
  void FlipBitOf(const std::shared_ptr<Object>& object);
  void RotEverywhere();
  void RotAt(CrashPoint point, const SimLoop* loop);
  void SlowDisks();
  void StoreOutage();
  void CutStore(uint32_t manager);
  void KillSoon();
  void LoseStore();

  const RunPlan& plan_;
  Cluster* const cluster_;
  Oracle* const oracle_;
  Jobs* const jobs_;
  SimPoints* const points_;
  std::map<Fault, Schedule> schedules_;
  Random* random_ = nullptr;  // of the strike under way
  Random own_;
  Random at_points_;
  std::optional<Waiting> waiting_;
  std::string rotting_;  // the job whose copies RotAt() damages
  std::vector<Slot> slots_;
  using Timed = std::vector<std::pair<TimePoint, std::function<void()>>>;
  static void RunDue(Timed* timed, TimePoint now);

  Timed heals_;
  Timed soon_;
  std::vector<TimePoint> restart_manager_at_;
  TimePoint accept_loss_at_ = kTimeNever;
  std::unique_ptr<Node> person_;
  std::unique_ptr<RpcChannel> placement_;  // of the person
  bool draining_ = false;                  // a person does
  bool striking_ = false;
  FaultCounts struck_{};
  uint64_t held_ = 0;  // of the links, as far as it was attributed
  uint64_t clogged_ = 0;
  Fault cut_ = Fault::kPartition;  // whose blackholes there are
  Fault clog_ = Fault::kClog;
  uint64_t servers_killed_ = 0;
  uint64_t power_cuts_ = 0;
  uint64_t stores_lost_ = 0;
};

}  // namespace gemel::sim

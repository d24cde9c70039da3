// SPDX-License-Identifier: Apache-2.0
//
// Cluster: a placement manager, servers and trainer processes of the production code on the
// simulated seams, all on one scheduler. Killing a node drops its loop and its objects; disks and
// the MetaStore stay. Servers have slots: those of the start, and spares that may join later.
//
// Thread safety: one thread.
// Invariants: (1) objects of a dead process are destroyed in the order: process, loop's tasks,
// parts, loop.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "client/core/client_core.h"
#include "common/events.h"
#include "common/random.h"
#include "common/sim_disk.h"
#include "common/sim_loop.h"
#include "placement/manager/manager.h"
#include "placement/store/sim_store.h"
#include "server/persist/sim_persist.h"
#include "server/server.h"
#include "tests/sim/plan.h"
#include "tests/sim/timeline.h"
#include "transport/sim/sim_host.h"
#include "transport/sim/sim_net.h"
#include "transport/sim/sim_rpc.h"
#include "transport/sim/sim_world.h"

namespace gemel::sim {

// What every kind of process has.
struct Node {
  Node(SimScheduler* scheduler, SimWorld* world, const std::string& name, Timeline* timeline);
  ~Node();

  SimLoop loop;
  SimWorld* const world;
  const std::shared_ptr<SimNodeProcess> process;
  SimNet net;
  SimHost host;
  NodeEvents events;
  MetricRegistry metrics;
};

class Cluster {
 public:
  Cluster(uint64_t seed, ClusterShape shape);
  ~Cluster();

  void StartPlacement(uint32_t manager);
  void StartServer(uint32_t index);
  void KillPlacement(uint32_t manager);
  // The MetaStore is lost with everything in it: a person gives an empty one and has the managers
  // that start from now on recover from the servers. REQUIRES: no manager is up.
  void LoseStore();
  // From LoseStore() until the store holds a cluster again.
  bool IsRecovering() const;
  // Of a recovered cluster: a majority of the last members may not have its generation yet.
  bool LacksGeneration() const;

  // In this recovery, managers that start from now on go on with whoever comes.
  void AcceptLoss() { accept_loss_ = true; }

  // Of the lives that begin from now on. Before, all speak what the plan says.
  void SetPlacementProtocol(uint32_t manager, uint32_t protocol);
  void SetServerProtocol(uint32_t index, uint32_t protocol);
  // Its process. The keeper beside it, if there is one, holds its memory until the host dies.
  void KillServer(uint32_t index);
  void KillHost(uint32_t index);
  void EndKeeper(uint32_t index);
  // A new disk, empty, by a person who ends the keeper, too. REQUIRES: the server is down.
  void ReplaceDisk(uint32_t index);

  uint32_t managers() const { return static_cast<uint32_t>(managers_.size()); }

  bool placement_up(uint32_t manager) const { return managers_[manager] != nullptr; }

  // How many managers would answer a call now.
  size_t Leaders() const;
  // One would, and what it writes is taken and answered.
  bool IsWritable() const;
  // A manager other than `name` would answer a call, and led before `term`.
  bool IsServedBefore(uint64_t term, const std::string& name) const;
  // What the manager that leads takes for true; nothing while none does.
  PlacementBeliefs Beliefs() const;

  // Null unless it runs and its Start() has returned OK.
  const Server* ServerAt(uint32_t index) const;
  // The present placement manager has taken its present incarnation in, and not declared it dead.
  bool IsMember(uint32_t index) const;
  // For a while now it is a member, answered when it calls placement, and not held up.
  bool IsHeard(uint32_t index) const;

  // The leading manager has heard it, in whatever life, since it was elected.
  bool IsListed(uint32_t index) const { return !servers_[index].members.empty(); }

  // It declared the server dead, and has not heard it since.
  bool IsDeclaredDead(uint32_t index) const { return servers_[index].declared_dead; }

  // Since when; in the past for good when it is none.
  TimePoint MemberSince(uint32_t index) const { return servers_[index].member_since; }

  // By server: whether the leading manager counted it, in any life. A set for each time that it
  // changed since `since`, and the one of then; at most kMemberSetsMax.
  std::vector<std::vector<bool>> MemberSetsSince(TimePoint since) const;

  // Called when placement declares a server dead.
  void OnMemberDead(std::function<void(uint32_t)> on_dead) { on_dead_ = std::move(on_dead); }

  // REQUIRES: it is up. Two lives never have the same.
  uint64_t PidOfServer(uint32_t index) const;
  uint64_t PidOfPlacement(uint32_t manager) const;
  // Why it ended by itself: its start failed, or its cluster refused it. OK: it did not.
  absl::Status EndOf(uint32_t index) const;

  // Of this life and later ones.
  void SetMemory(uint32_t index, uint64_t bytes) { servers_[index].memory_bytes = bytes; }

  bool server_up(uint32_t index) const { return servers_[index].life != nullptr; }

  // A trainer process on the host of server `index`.
  std::unique_ptr<Node> StartTrainer(uint32_t index);
  // What it has open to the server is reset. REQUIRES: both live.
  void CutOff(Node* trainer, uint32_t index);
  // A process beside the cluster, as a person's command line is.
  std::unique_ptr<Node> StartOperator();
  // To all managers: it finds the one that leads.
  std::unique_ptr<RpcChannel> ChannelToPlacement(Node* node) const;

  static std::string SocketOf(uint32_t index);
  static std::string KeeperOf(uint32_t index);
  static std::string HostOf(uint32_t index);
  static std::string NameOf(uint32_t index);
  static std::string ManagerNode(uint32_t manager);
  std::string DomainOf(uint32_t index) const;

  // For it alone the MetaStore is gone, or hangs, in this life. REQUIRES: it is up.
  void CutStore(uint32_t manager, bool gone, bool hangs);
  // Null when it is down.
  SimLoop* placement_loop(uint32_t manager);
  SimLoop* server_loop(uint32_t index);
  SimLoop* keeper_loop(uint32_t index);

  SimScheduler* scheduler() { return &scheduler_; }

  TimePoint now() const { return scheduler_.now(); }

  uint64_t seed() const { return seed_; }

  SimWorld* world() { return &world_; }

  SimStoreState* store() { return &store_state_; }

  SimDiskState* disk(uint32_t index) { return servers_[index].disk.get(); }

  SimPersistState* tier(uint32_t index) { return servers_[index].tier.get(); }

  const ClusterShape& shape() const { return shape_; }

  // What disks, tiers, links and slow CPUs did so far, by class.
  void CountInjected(FaultCounts* counts) const;
  // Mixes the state of all disks into the history.
  void MixDisks();

  void Note(std::string text);

  const Timeline& timeline() const { return timeline_; }

 private:
  struct PlacementLife;
  struct KeeperLife;
  struct ServerLife;

  struct MemberSet {
    TimePoint since{};
    std::vector<bool> members;  // by server
  };

  struct ServerSlot {
    std::unique_ptr<SimDiskState> disk;
    std::unique_ptr<SimPersistState> tier;
    std::unique_ptr<KeeperLife> keeper;
    std::unique_ptr<ServerLife> life;
    uint64_t memory_bytes = 0;
    uint32_t protocol = kControlProtocolVersion;  // of the control contract
    uint64_t busy_delays = 0;                     // of former lives
    std::map<std::string, std::string> members;   // incarnations that placement took in, by id
    std::string id;                               // of its last join
    TimePoint member_since{};
    bool answered = false;       // its last heartbeat
    bool declared_dead = false;  // by the leading manager, and not heard since
  };

  static constexpr size_t kMemberSetsMax = 256;

  // It would answer a call now.
  static bool Answers(const std::unique_ptr<PlacementLife>& life);
  void Follow(const Timeline::Event& event);
  void NoteMembers();
  static bool Leaves(ServerSlot* slot, const std::string& id, const std::string& incarnation);
  bool IsOfPresentLife(uint32_t index, const std::string& incarnation) const;
  void NobodyIsMember();
  static Task<void> RunPlacement(PlacementLife* life);
  static Task<void> RunServer(ServerLife* life);

  const ClusterShape shape_;
  const uint64_t seed_;
  Random random_;
  SimScheduler scheduler_;
  SimWorld world_;
  SimStoreState store_state_;
  Timeline timeline_;
  std::function<void(uint32_t)> on_dead_;
  std::string leader_;                  // node of the manager that was elected last
  std::vector<MemberSet> member_sets_;  // newest last
  std::vector<ServerSlot> servers_;
  std::vector<std::unique_ptr<PlacementLife>> managers_;
  std::vector<uint32_t> manager_protocols_;
  bool store_lost_ = false;  // ever
  bool accept_loss_ = false;
};

}  // namespace gemel::sim

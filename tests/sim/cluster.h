// SPDX-License-Identifier: Apache-2.0
//
// Cluster: a placement manager, servers and trainer processes of the production code on the
// simulated seams, all on one scheduler. Killing a node drops its loop and its objects; disks and
// the MetaStore stay.
//
// Thread safety: one thread.
// Invariants: (1) objects of a dead process are destroyed in the order: process, loop's tasks,
// parts, loop.
#pragma once

#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "client/core/client_core.h"
#include "common/events.h"
#include "common/metrics.h"
#include "common/random.h"
#include "common/sim_disk.h"
#include "common/sim_loop.h"
#include "placement/manager/manager.h"
#include "placement/store/sim_store.h"
#include "server/persist/sim_persist.h"
#include "server/server.h"
#include "transport/sim/sim_host.h"
#include "transport/sim/sim_net.h"
#include "transport/sim/sim_rpc.h"
#include "transport/sim/sim_world.h"

namespace gemel::sim {

// Keeps the last lines of every node: the time line that is printed with a violation.
class Timeline final : public EventSink {
 public:
  Timeline(SimScheduler* scheduler, std::string node, std::deque<std::string>* lines)
      : scheduler_(scheduler), node_(std::move(node)), lines_(lines) {}

  void Emit(Severity severity, std::string_view name, std::string text) override;

 private:
  SimScheduler* const scheduler_;
  const std::string node_;
  std::deque<std::string>* const lines_;
};

// What every kind of process has.
struct Node {
  Node(SimScheduler* scheduler, SimWorld* world, std::string name, std::deque<std::string>* lines);
  ~Node();

  SimLoop loop;
  SimWorld* const world;
  const std::shared_ptr<SimNodeProcess> process;
  SimNet net;
  SimHost host;
  Timeline events;
  MetricRegistry metrics;
};

class Cluster {
 public:
  struct Shape {
    uint32_t servers = 3;
    uint64_t memory_bytes = 48 * kMiB;
    uint64_t slab_bytes = kMiB;
  };

  Cluster(uint64_t seed, Shape shape);
  ~Cluster();

  void StartPlacement();
  void StartServer(uint32_t index);
  void KillPlacement();
  void KillServer(uint32_t index);

  bool placement_up() const { return placement_ != nullptr; }

  bool server_up(uint32_t index) const { return servers_[index].life != nullptr; }

  // A trainer process on the host of server `index`.
  std::unique_ptr<Node> StartTrainer(uint32_t index);
  static std::string SocketOf(uint32_t index);
  static std::string HostOf(uint32_t index);

  SimLoop* placement_loop();
  SimLoop* server_loop(uint32_t index);

  SimScheduler* scheduler() { return &scheduler_; }

  SimWorld* world() { return &world_; }

  SimStoreState* store() { return &store_state_; }

  SimDiskState* disk(uint32_t index) { return servers_[index].disk.get(); }

  SimPersistState* tier(uint32_t index) { return servers_[index].tier.get(); }

  const Shape& shape() const { return shape_; }

  void Note(std::string text);

  const std::deque<std::string>& lines() const { return lines_; }

 private:
  struct PlacementLife;
  struct ServerLife;

  struct ServerSlot {
    std::unique_ptr<SimDiskState> disk;
    std::unique_ptr<SimPersistState> tier;
    std::unique_ptr<ServerLife> life;
  };

  static Task<void> RunPlacement(PlacementLife* life, SimStoreState* state);
  static Task<void> RunServer(ServerLife* life);

  const Shape shape_;
  Random random_;
  SimScheduler scheduler_;
  SimWorld world_;
  SimStoreState store_state_;
  std::deque<std::string> lines_;
  std::vector<ServerSlot> servers_;
  std::unique_ptr<PlacementLife> placement_;
};

}  // namespace gemel::sim

// SPDX-License-Identifier: Apache-2.0
//
// SimWorld: the nodes, processes and links of a simulated cluster, the faults between them and what
// listens where. SimNet, SimHost and SimRpc* are the seams a process sees; all of them move things
// through Transmit(), so one fault model holds for frames and for calls.
//
// Thread safety: one thread.
// Ownership: borrows the scheduler. Must outlive the last run of the scheduler; processes' objects
// may be destroyed before or after it. Invariants:
//   (1) all randomness comes from the Random given, split by link and by process: a run is a
//   function
//       of its seed;
//   (2) every delivery of a frame or a call is mixed into the scheduler's history hash.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"

#include "common/bytes.h"
#include "common/random.h"
#include "common/sim_loop.h"
#include "transport/sim/sim_address.h"
#include "transport/sim/sim_link.h"
#include "transport/sim/sim_machine.h"
#include "transport/sim/sim_node_process.h"

namespace gemel {

// What listens at an address: a Listener of SimNet or a SimRpcServer.
class SimBinding {
 public:
  virtual ~SimBinding() = default;
  virtual SimNodeProcess* process() const = 0;
};

class SimWorld {
 public:
  // What becomes of something that arrives at a blackhole.
  enum class InBlackhole { kHeld, kLost };

  SimWorld(SimScheduler* scheduler, Random random);
  ~SimWorld();
  SimWorld(const SimWorld&) = delete;
  SimWorld& operator=(const SimWorld&) = delete;

  // A process whose parts run on `loop`, which must outlive Kill() of it.
  std::shared_ptr<SimNodeProcess> StartProcess(const std::string& node, SimLoop* loop);
  // kill -9 as the rest of the world sees it: connections close, calls break, exit watches fire.
  // The caller also kills the loop. A second time: nothing.
  void Kill(const std::shared_ptr<SimNodeProcess>& process);

  // Faults of the link from one node to another. The default holds for links that were never set.
  void SetLink(const std::string& from, const std::string& to, const LinkFaults& faults);

  void SetDefaultFaults(const LinkFaults& faults);

  // To change one knob. End a blackhole with SetLink() or Heal(), which release what is held.
  LinkFaults& Faults(const std::string& from, const std::string& to);

  // No traffic between the groups, either way. Nodes in neither are a bridge: they see both.
  void Partition(const std::vector<std::string>& left, const std::vector<std::string>& right);
  // What `from` sends does not reach `to`; the other way works.
  void PartitionOneWay(const std::vector<std::string>& from, const std::vector<std::string>& to);
  // Ends all partitions; what was held is on its way again.
  void Heal();
  void Heal(const std::string& a, const std::string& b);
  // Resets every connection and call between two nodes, both sides hear of it.
  void BreakConnections(const std::string& a, const std::string& b);
  // The same for what runs between two processes. REQUIRES: both are alive.
  void CutOff(SimNodeProcess* a, SimNodeProcess* b);

  // Called with each part of a payload, when it is where it was placed.
  using OnLanded = std::function<void(const std::string& node, ByteSpan landed)>;

  void SetOnLanded(OnLanded on_landed) { on_landed_ = std::move(on_landed); }

  LinkStats Stats(const std::string& from, const std::string& to);
  LinkStats TotalStats() const;

  SimMachine* machine(const std::string& node);

  SimScheduler* scheduler() const { return scheduler_; }

  TimePoint now() const { return scheduler_->now(); }

  // For the seams.

  SimLink& Link(const Route& route);
  // Runs `arrive` at the far end after the link's delay. The callback must own nothing of a
  // process.
  void Transmit(const Route& route, InBlackhole fate, Loop::Callback arrive);
  void Landed(const std::string& node, ByteSpan landed) const;
  // A process that began there after that one lives.
  bool StartedSince(const std::string& node, uint64_t pid) const;
  // Mixes a delivery into the history.
  void Record(std::string_view kind, uint64_t from_pid, uint64_t to_pid, std::string_view content);
  // AlreadyExists when a living process has the address. Fills in the port when it is 0.
  absl::Status Bind(SimAddress* address, const std::shared_ptr<SimBinding>& binding);
  void Unbind(const SimAddress& address, const SimBinding* binding);
  // Null when nobody living listens there.
  std::shared_ptr<SimBinding> Find(const SimAddress& address) const;

 private:
  void Arrive(const Route& route, InBlackhole fate, Loop::Callback arrive);
  void Release(const Route& route, SimLink* link);

  SimScheduler* const scheduler_;
  const Random random_;
  LinkFaults default_faults_;
  LinkFaults default_local_faults_;
  uint64_t next_pid_ = 1;
  uint16_t next_port_;
  std::map<uint64_t, std::shared_ptr<SimNodeProcess>> processes_;
  std::vector<std::weak_ptr<SimNodeProcess>> all_processes_;
  std::map<Route, SimLink> links_;
  std::map<std::string, std::unique_ptr<SimMachine>> machines_;
  std::map<std::string, std::weak_ptr<SimBinding>> bindings_;
  OnLanded on_landed_;
};

}  // namespace gemel

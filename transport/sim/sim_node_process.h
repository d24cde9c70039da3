// SPDX-License-Identifier: Apache-2.0
//
// SimNodeProcess: one life of a process on a simulated node, and SimPart: what the world keeps for
// it.
//
// Thread safety: one thread.
// Ownership: shared, because connections' ends, calls and handles on other nodes name the process
// after its death. The SimLoop is the owner's. Order of a kill -9: SimWorld::Kill(process),
// loop->Kill(), then the owner destroys the process's objects, at last the loop. Invariants:
//   (1) after SimWorld::Kill() nothing of the world calls into an object of the process;
//   (2) a dead process never lives again: a restart is another SimNodeProcess on another SimLoop.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "common/process.h"
#include "common/random.h"
#include "common/sim_loop.h"
#include "transport/sim/sim_link.h"

namespace gemel {

class SimWorld;

// Something of the world that belongs to one process: the end of a connection, a server, a call.
class SimPart {
 public:
  virtual ~SimPart() = default;
  // The process was killed: tell the other side as its kernel would; let go of all that is the
  // process's.
  virtual void OnOwnerKilled() = 0;
  // Whatever runs between the two nodes is reset, on both sides.
  virtual void OnLinkBroken(const std::string& a, const std::string& b) = 0;

  // The same for what runs to one process.
  virtual void OnCutFrom(uint64_t /*pid*/) {}
};

class SimNodeProcess final : public Process {
 public:
  // Made by SimWorld::StartProcess().
  SimNodeProcess(SimWorld* world, SimLoop* loop, std::string node, uint64_t pid, Random random);

  uint64_t Entropy64() override { return random_.Next(); }

  uint64_t pid() const override { return pid_; }

  const std::string& node() const { return node_; }

  // "server-1 (process 12)"
  std::string ToString() const;

  bool alive() const { return alive_; }

  // REQUIRES: alive() and the world is still there.
  SimWorld* world() const;
  // REQUIRES: alive().
  SimLoop* loop() const;

  bool in_world() const { return world_ != nullptr; }

  // Runs `callback` from the process's queue; dropped when it is dead, waits while it is paused.
  void Post(Loop::Callback callback);

  void Attach(const std::shared_ptr<SimPart>& part);
  // Parts that still exist, oldest first.
  std::vector<std::shared_ptr<SimPart>> Parts();

 private:
  friend class SimWorld;

  SimWorld* world_;
  SimLoop* const loop_;
  const std::string node_;
  const uint64_t pid_;
  bool alive_ = true;
  Random random_;
  uint64_t next_part_ = 1;
  size_t prune_at_;
  std::map<uint64_t, std::weak_ptr<SimPart>> parts_;
};

}  // namespace gemel

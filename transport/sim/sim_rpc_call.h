// SPDX-License-Identifier: Apache-2.0
//
// The two halves of one simulated call: SimCall at the caller, ServedCall at the handler, and
// SimCallSink, where requests arrive.
//
// Thread safety: one thread.
// Ownership: SimCall is shared by the caller's coroutine, the server's list and what is on the way.
// The served half holds the handler's callback, so it is only ever held on the server's own loop.
// Invariants:
//   (1) a SimCall gets one answer; later ones are ignored;
//   (2) a callback given to OnCallerGone runs at most once, never after the reply.
#pragma once

#include <memory>
#include <string>
#include <utility>

#include "absl/status/statusor.h"

#include "common/sync.h"
#include "transport/control/served_call.h"
#include "transport/sim/sim_world.h"

namespace gemel {

class SimCall final : public SimPart, public std::enable_shared_from_this<SimCall> {
 public:
  SimCall(std::shared_ptr<SimNodeProcess> caller, SimAddress target, TimePoint deadline);

  void OnOwnerKilled() override { GiveUp(); }

  void OnLinkBroken(const std::string& a, const std::string& b) override;

  // The caller waits no more: tells the server, over the link.
  void GiveUp();
  // Sends an answer back from the server's node to the caller.
  void Answer(SimWorld::InBlackhole fate, absl::StatusOr<std::string> answer);
  // A request or reply was lost: the caller hears Unavailable, or nothing.
  void LoseOutcome(const Route& route);

  const std::shared_ptr<SimNodeProcess>& caller() const { return caller_; }

  const SimAddress& target() const { return target_; }

  Route route() const { return {caller_->node(), target_.node}; }

  TimePoint deadline() const { return deadline_; }

  // The same moment on the world's clock: what travels is how long is left.
  TimePoint world_deadline() const { return world_deadline_; }

  bool given_up() const { return given_up_; }

  OneShot<absl::StatusOr<std::string>>& result() { return result_; }

  // Set when a handler begins.
  void ServeBy(const std::shared_ptr<SimNodeProcess>& server,
               const std::shared_ptr<ServedCall>& served);
  // Posts a cancellation to the handler, if there is one.
  void CancelServed();

 private:
  const std::shared_ptr<SimNodeProcess> caller_;
  const SimAddress target_;
  const TimePoint deadline_;  // on the caller's clock
  const TimePoint world_deadline_;
  OneShot<absl::StatusOr<std::string>> result_;
  bool given_up_ = false;
  std::shared_ptr<SimNodeProcess> server_;
  std::weak_ptr<ServedCall> served_;
};

struct SimRequest {
  std::string method;
  std::string body;
};

// A server's address, where requests arrive.
class SimCallSink : public SimBinding {
 public:
  // At the server's node, as an event of the world.
  virtual void ArriveRequest(const std::shared_ptr<SimCall>& call, SimRequest request) = 0;
};

}  // namespace gemel

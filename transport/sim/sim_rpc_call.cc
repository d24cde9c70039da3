// SPDX-License-Identifier: Apache-2.0
#include "transport/sim/sim_rpc_call.h"

#include "common/check.h"
#include "common/errors.h"

namespace gemel {

SimCall::SimCall(std::shared_ptr<SimNodeProcess> caller, SimAddress target, TimePoint deadline)
    : caller_(std::move(caller)),
      target_(std::move(target)),
      deadline_(deadline),
      world_deadline_(caller_->loop()->ToWorld(deadline)),
      result_(caller_->loop()) {}

void SimCall::OnLinkBroken(const std::string& a, const std::string& b) {
  const Route mine = route();
  if (given_up_ || result_.is_set() || (mine != Route{a, b} && mine != Route{b, a})) {
    return;
  }
  CancelServed();
  caller_->Post([self = shared_from_this()] {
    self->result_.Set(error::Unavailable("the connection to {} broke; the outcome is unknown",
                                         self->target_.ToString()));
  });
}

void SimCall::GiveUp() {
  if (given_up_) {
    return;
  }
  given_up_ = true;
  if (caller_->in_world()) {
    caller_->world()->Transmit(route(), SimWorld::InBlackhole::kLost,
                               [self = shared_from_this()] { self->CancelServed(); });
  }
}

void SimCall::ServeBy(const std::shared_ptr<SimNodeProcess>& server,
                      const std::shared_ptr<ServedCall>& served) {
  GEMEL_CHECK(server_ == nullptr) << "a call is served once";
  server_ = server;
  served_ = served;
}

void SimCall::CancelServed() {
  if (server_ != nullptr) {
    server_->Post([weak = served_] {
      if (std::shared_ptr<ServedCall> served = weak.lock()) {
        served->Cancel();
      }
    });
  }
}

void SimCall::Answer(SimWorld::InBlackhole fate, absl::StatusOr<std::string> answer) {
  SimWorld* world = caller_->world();
  world->Transmit(route().Reverse(), fate,
                  [world, self = shared_from_this(), answer = std::move(answer)]() mutable {
                    world->Record("reply", 0, self->caller_->pid(),
                                  answer.ok() ? *answer : answer.status().ToString());
                    self->caller_->Post([self, answer = std::move(answer)]() mutable {
                      self->result_.Set(std::move(answer));
                    });
                  });
}

void SimCall::LoseOutcome(const Route& route) {
  if (caller_->world()->Link(route).Below(2) == 0) {
    Answer(SimWorld::InBlackhole::kLost,
           error::Unavailable("the connection to {} broke; the outcome is unknown",
                              target_.ToString()));
  }
}

}  // namespace gemel

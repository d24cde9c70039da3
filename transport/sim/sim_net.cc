// SPDX-License-Identifier: Apache-2.0
#include "transport/sim/sim_net.h"

#include <utility>

#include "common/check.h"
#include "common/errors.h"
#include "common/sync.h"
#include "transport/sim/sim_endpoint.h"
#include "transport/sim/sim_world.h"

namespace gemel {
namespace {

// The user's handle of an endpoint.
class SimConnection final : public Connection {
 public:
  explicit SimConnection(std::shared_ptr<SimEndpoint> end) : end_(std::move(end)) {}

  ~SimConnection() override { end_->Release(); }

  void Start(ConnectionEvents* events) override { end_->Start(events); }

  Task<absl::Status> Send(OutgoingFrame frame) override;

  void Close(absl::Status why) override { end_->Close(std::move(why)); }

  std::string peer() const override { return end_->peer(); }

 private:
  const std::shared_ptr<SimEndpoint> end_;  // shared with frames under way
};

// Tells the endpoint when a Send() is destroyed before LOCAL.
struct SendGuard {
  std::shared_ptr<SimEndpoint> end;
  std::shared_ptr<SimEndpoint::Outgoing> outgoing;
  Loop* loop;

  SendGuard(std::shared_ptr<SimEndpoint> end, std::shared_ptr<SimEndpoint::Outgoing> outgoing,
            Loop* loop)
      : end(std::move(end)), outgoing(std::move(outgoing)), loop(loop) {}

  SendGuard(const SendGuard&) = delete;
  SendGuard& operator=(const SendGuard&) = delete;

  ~SendGuard() {
    if (!outgoing->done.is_set() && !loop->is_shut_down()) {
      end->Abandon(*outgoing);
    }
  }
};

Task<absl::Status> SimConnection::Send(OutgoingFrame frame) {
  std::shared_ptr<SimEndpoint> end = end_;  // the connection may go while this waits
  std::shared_ptr<SimEndpoint::Outgoing> outgoing = end->Enqueue(std::move(frame));
  SendGuard guard(end, outgoing, end->loop());
  const bool done = co_await outgoing->done.WaitUntil(kTimeNever);
  GEMEL_CHECK(done);
  co_return outgoing->done.value();
}

// A listening address. Shared: an accept may be under way when the listener goes.
class ListenerBinding final : public SimBinding {
 public:
  ListenerBinding(std::shared_ptr<SimNodeProcess> process, Net::AcceptCallback accept)
      : process_(std::move(process)),
        accept_(std::make_shared<Net::AcceptCallback>(std::move(accept))) {}

  SimNodeProcess* process() const override { return process_.get(); }

  const std::shared_ptr<SimNodeProcess>& owner() const { return process_; }

  void Accept(const std::shared_ptr<SimEndpoint>& end) {
    if (accept_ == nullptr) {
      end->Release();
      return;
    }
    std::shared_ptr<Net::AcceptCallback> accept = accept_;  // it may destroy the listener
    (*accept)(std::make_unique<SimConnection>(end));
  }

  void Stop() { accept_ = nullptr; }

 private:
  const std::shared_ptr<SimNodeProcess> process_;
  std::shared_ptr<Net::AcceptCallback> accept_;
};

class SimListener final : public Listener {
 public:
  SimListener(SimAddress address, std::shared_ptr<ListenerBinding> binding)
      : address_(std::move(address)), binding_(std::move(binding)) {}

  ~SimListener() override {
    binding_->Stop();
    if (binding_->process()->in_world()) {
      binding_->process()->world()->Unbind(address_, binding_.get());
    }
  }

  std::string address() const override { return address_.ToString(); }

 private:
  const SimAddress address_;
  const std::shared_ptr<ListenerBinding> binding_;
};

// One Connect(). Shared by its coroutine and what is on the way.
struct Attempt {
  Attempt(std::shared_ptr<SimNodeProcess> process, SimAddress address)
      : process(std::move(process)), address(std::move(address)), result(this->process->loop()) {}

  const std::shared_ptr<SimNodeProcess> process;
  const SimAddress address;
  OneShot<absl::StatusOr<std::shared_ptr<SimEndpoint>>> result;
  bool over = false;  // nobody waits any more
};

void ReleaseEnd(const absl::StatusOr<std::shared_ptr<SimEndpoint>>& end) {
  if (end.ok()) {
    (*end)->Release();
  }
}

// On the caller's loop.
void Finish(const std::shared_ptr<Attempt>& attempt,
            const absl::StatusOr<std::shared_ptr<SimEndpoint>>& result) {
  GEMEL_CHECK(attempt->process->alive());
  if (attempt->over) {
    ReleaseEnd(result);
  } else {
    attempt->result.Set(result);
  }
}

// The caller's first packet has arrived at the other node.
void ArriveAtListener(SimWorld* world, const std::shared_ptr<Attempt>& attempt) {
  const Route back{attempt->address.node, attempt->process->node()};
  absl::StatusOr<std::shared_ptr<SimEndpoint>> result = error::Unavailable(
      "nobody listens at {}; is that server running?", attempt->address.ToString());
  auto listener = std::dynamic_pointer_cast<ListenerBinding>(world->Find(attempt->address));
  if (!attempt->process->alive() || attempt->over) {
    return;
  }
  if (listener != nullptr) {
    SimEndpoint::Pair ends =
        SimEndpoint::Make(attempt->process, listener->owner(), attempt->address);
    listener->owner()->Post([listener, end = ends.server] { listener->Accept(end); });
    result = ends.client;
  }
  world->Record("connect", attempt->process->pid(), result.ok() ? 1 : 0,
                attempt->address.ToString());
  world->Transmit(back, SimWorld::InBlackhole::kHeld, [attempt, result] {
    attempt->process->Post([attempt, result] { Finish(attempt, result); });
  });
}

struct AttemptGuard {
  std::shared_ptr<Attempt> attempt;

  explicit AttemptGuard(std::shared_ptr<Attempt> attempt) : attempt(std::move(attempt)) {}

  AttemptGuard(const AttemptGuard&) = delete;
  AttemptGuard& operator=(const AttemptGuard&) = delete;

  ~AttemptGuard() {
    if (!attempt->over && attempt->result.is_set()) {
      ReleaseEnd(attempt->result.value());
    }
    attempt->over = true;
  }
};

}  // namespace

SimNet::SimNet(std::shared_ptr<SimNodeProcess> process) : process_(std::move(process)) {
  GEMEL_CHECK(process_ != nullptr);
}

Task<absl::StatusOr<std::unique_ptr<Connection>>> SimNet::Connect(std::string address,
                                                                  TimePoint deadline) {
  absl::StatusOr<SimAddress> target = ParseSimAddress(process_->node(), address);
  if (!target.ok()) {
    co_return target.status();
  }
  auto attempt = std::make_shared<Attempt>(process_, *std::move(target));
  AttemptGuard guard(attempt);
  SimWorld* world = process_->world();
  const Route route{process_->node(), attempt->address.node};
  world->Transmit(route, SimWorld::InBlackhole::kHeld,
                  [world, attempt] { ArriveAtListener(world, attempt); });
  const bool answered = co_await attempt->result.WaitUntil(deadline);
  if (!answered) {
    co_return error::DeadlineExceeded("{} does not answer; is its host reachable?", address);
  }
  if (!attempt->result.value().ok()) {
    co_return attempt->result.value().status();
  }
  attempt->over = true;
  std::unique_ptr<Connection> connection =
      std::make_unique<SimConnection>(*attempt->result.value());
  co_return std::move(connection);
}

absl::StatusOr<std::unique_ptr<Listener>> SimNet::Listen(std::string address,
                                                         AcceptCallback accept) {
  GEMEL_CHECK(accept != nullptr);
  absl::StatusOr<SimAddress> own = ParseSimAddress(process_->node(), address);
  if (!own.ok()) {
    return own.status();
  }
  auto binding = std::make_shared<ListenerBinding>(process_, std::move(accept));
  absl::Status bound = process_->world()->Bind(&*own, binding);
  if (!bound.ok()) {
    return bound;
  }
  return std::make_unique<SimListener>(*std::move(own), std::move(binding));
}

}  // namespace gemel

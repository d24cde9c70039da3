// SPDX-License-Identifier: Apache-2.0
#include "transport/sim/sim_rpc.h"

#include <map>
#include <utility>

#include "common/check.h"
#include "common/errors.h"
#include "common/sync.h"
#include "transport/sim/sim_rpc_call.h"
#include "transport/sim/sim_world.h"

namespace gemel {
namespace {

using InBlackhole = SimWorld::InBlackhole;

constexpr Duration kLateLook = 20ms;
constexpr Duration kLateInNextLife = 100ms;

absl::Status CheckSize(std::string_view what, std::string_view method, size_t bytes) {
  if (bytes <= kRpcMessageBytesMax) {
    return absl::OkStatus();
  }
  return error::ResourceExhausted("{} of {} has {} bytes; at most {} fit in one message", what,
                                  method, bytes, kRpcMessageBytesMax);
}

// The request has crossed the link.
void ArriveAtNode(SimWorld* world, const std::shared_ptr<SimCall>& call, SimRequest request) {
  // A request that was held back is executed as often as not after its caller gave up.
  if (call->given_up() && world->Link(call->route()).Below(2) == 0) {
    return;
  }
  world->Record("request", call->caller()->pid(), 0, request.method + " " + request.body);
  auto sink = std::dynamic_pointer_cast<SimCallSink>(world->Find(call->target()));
  if (sink == nullptr) {
    call->Answer(InBlackhole::kHeld,
                 NotExecuted(error::Unavailable("nobody listens at {}; is it running?",
                                                call->target().ToString())));
    return;
  }
  sink->ArriveRequest(call, std::move(request));
}

void Carry(SimWorld* world, std::shared_ptr<SimCall> call, SimRequest request) {
  const Route route = call->route();
  world->Transmit(route, InBlackhole::kHeld,
                  [world, call = std::move(call), request = std::move(request)]() mutable {
                    ArriveAtNode(world, call, std::move(request));
                  });
}

// A request that lies in some queue.
struct LateRequest {
  std::shared_ptr<SimCall> ghost;
  SimRequest request;
  std::weak_ptr<SimBinding> listener;
  TimePoint until{};  // so long, at most, it is held for the next life of its sender
};

// A connection ends with its listener: no other process gets what was sent to this one.
void SetOff(SimWorld* world, LateRequest late) {
  const std::shared_ptr<SimBinding> listener = late.listener.lock();
  if (listener != nullptr && listener == world->Find(late.ghost->target())) {
    Carry(world, std::move(late.ghost), std::move(late.request));
  }
}

// Comes when its sender is dead and the next life has begun, on the same node.
void HoldForNextLife(SimWorld* world, LateRequest late) {
  const SimNodeProcess& sender = *late.ghost->caller();
  if (world->now() >= late.until) {
    SetOff(world, std::move(late));
    return;
  }
  const bool again = !sender.alive() && world->StartedSince(sender.node(), sender.pid());
  const Duration wait =
      again ? world->Link(late.ghost->route()).Between(Duration::zero(), kLateInNextLife)
            : kLateLook;
  world->scheduler()->At(Add(world->now(), wait), [world, again, late = std::move(late)]() mutable {
    again ? SetOff(world, std::move(late)) : HoldForNextLife(world, std::move(late));
  });
}

// As it would come out of a queue that outlived its sender, with the time that it was given.
void CarryLate(SimWorld* world, const std::shared_ptr<SimCall>& call, SimRequest request) {
  SimLink& link = world->Link(call->route());
  link.stats.late_calls += 1;
  const Duration late = link.Between(Duration::zero(), link.faults.late_max);
  const TimePoint deadline = Add(call->deadline(), late);
  LateRequest held{std::make_shared<SimCall>(call->caller(), call->target(), deadline),
                   std::move(request), world->Find(call->target()),
                   Add(world->now(), 2 * link.faults.late_max)};
  if (link.Below(2) == 0) {
    HoldForNextLife(world, std::move(held));
    return;
  }
  world->scheduler()->At(Add(world->now(), late), [world, held = std::move(held)]() mutable {
    SetOff(world, std::move(held));
  });
}

void SendRequest(const std::shared_ptr<SimCall>& call, SimRequest request) {
  SimWorld* world = call->caller()->world();
  SimLink& link = world->Link(call->route());
  link.stats.requests += 1;
  if (link.Happens(link.faults.lose_request_ppm)) {
    link.stats.requests_lost += 1;
    call->LoseOutcome(call->route());
    return;
  }
  if (link.Happens(link.faults.duplicate_call_ppm)) {
    link.stats.duplicate_calls += 1;
    auto ghost = std::make_shared<SimCall>(call->caller(), call->target(), call->deadline());
    Carry(world, std::move(ghost), request);
  }
  if (link.Happens(link.faults.late_call_ppm)) {
    CarryLate(world, call, request);
  }
  Carry(world, call, std::move(request));
}

struct GiveUpGuard {
  std::shared_ptr<SimCall> call;

  explicit GiveUpGuard(std::shared_ptr<SimCall> call) : call(std::move(call)) {}

  GiveUpGuard(const GiveUpGuard&) = delete;
  GiveUpGuard& operator=(const GiveUpGuard&) = delete;

  ~GiveUpGuard() {
    if (!call->result().is_set()) {
      call->GiveUp();
    }
  }
};

}  // namespace

// A server, as long as anything refers to it.
class SimRpcServer::State final : public SimPart,
                                  public SimCallSink,
                                  public std::enable_shared_from_this<State> {
 public:
  State(std::shared_ptr<SimNodeProcess> process, RpcService* service, size_t calls_max)
      : process_(std::move(process)),
        service_(service),
        calls_max_(calls_max),
        drained_(process_->loop()) {}

  SimNodeProcess* process() const override { return process_.get(); }

  void ArriveRequest(const std::shared_ptr<SimCall>& call, SimRequest request) override;
  void OnOwnerKilled() override;

  // The callers' halves speak for both.
  void OnLinkBroken(const std::string& /*a*/, const std::string& /*b*/) override {}

  void StopAccepting() { accepting_ = false; }

  void CancelAll();

  size_t calls_in_flight() const { return calls_.size(); }

  Task<void> Drain();

 private:
  void Begin(uint64_t number, SimRequest request);
  static Task<void> Serve(std::shared_ptr<State> self, uint64_t number, SimRequest request);
  void End(uint64_t number, absl::StatusOr<std::string> result);

  const std::shared_ptr<SimNodeProcess> process_;
  RpcService* const service_;
  const size_t calls_max_;
  WaitQueue drained_;
  bool accepting_ = true;
  uint64_t next_call_ = 1;
  std::map<uint64_t, std::shared_ptr<SimCall>> calls_;
};

void SimRpcServer::State::ArriveRequest(const std::shared_ptr<SimCall>& call, SimRequest request) {
  if (calls_.size() >= calls_max_) {
    call->Answer(InBlackhole::kHeld,
                 error::ResourceExhausted("{} already handles {} calls; try again later",
                                          process_->ToString(), calls_max_));
    return;
  }
  const uint64_t number = next_call_++;
  calls_.emplace(number, call);
  process_->Post([self = shared_from_this(), number, request = std::move(request)]() mutable {
    self->Begin(number, std::move(request));
  });
}

void SimRpcServer::State::Begin(uint64_t number, SimRequest request) {
  if (!accepting_) {
    End(number, error::Unavailable("{} is stopping", process_->ToString()));
    return;
  }
  process_->loop()->Spawn(Serve(shared_from_this(), number, std::move(request)));
}

Task<void> SimRpcServer::State::Serve(std::shared_ptr<State> self, uint64_t number,
                                      SimRequest request) {
  const std::shared_ptr<SimCall> call = self->calls_.at(number);
  SimLoop* loop = self->process_->loop();
  auto served = std::make_shared<ServedCall>(loop);
  call->ServeBy(self->process_, served);
  if (call->given_up()) {
    served->Cancel();
  }
  const TimePoint deadline = loop->ToLocal(call->world_deadline());
  const Loop::TimerId timer = loop->RunAt(deadline, [weak = std::weak_ptr(served)] {
    if (std::shared_ptr<ServedCall> late = weak.lock()) {
      late->Cancel();
    }
  });
  std::string method = request.method;
  absl::StatusOr<std::string> result =
      co_await self->service_->Handle(served, std::move(method), std::move(request.body));
  loop->CancelTimer(timer);
  served->Finish();
  if (result.ok()) {
    absl::Status fits = CheckSize("the reply", request.method, result->size());
    if (!fits.ok()) {
      result = fits;
    }
  }
  self->End(number, std::move(result));
}

void SimRpcServer::State::End(uint64_t number, absl::StatusOr<std::string> result) {
  auto found = calls_.find(number);
  GEMEL_CHECK(found != calls_.end());
  if (!result.ok()) {
    result = FromPeer(result.status());
  }
  const std::shared_ptr<SimCall> call = std::move(found->second);
  calls_.erase(found);
  if (calls_.empty()) {
    drained_.NotifyAll();
  }
  const Route back = call->route().Reverse();
  SimLink& link = process_->world()->Link(back);
  link.stats.replies += 1;
  if (link.Happens(link.faults.lose_reply_ppm)) {
    link.stats.replies_lost += 1;
    call->LoseOutcome(back);
    return;
  }
  call->Answer(InBlackhole::kHeld, std::move(result));
}

void SimRpcServer::State::OnOwnerKilled() {
  GEMEL_CHECK(!process_->alive());
  accepting_ = false;
  for (const auto& [number, call] : std::exchange(calls_, {})) {
    call->Answer(InBlackhole::kLost,
                 error::Unavailable("{} at {} died; the outcome is unknown", process_->ToString(),
                                    call->target().ToString()));
  }
}

void SimRpcServer::State::CancelAll() {
  for (const auto& [number, call] : calls_) {
    call->CancelServed();
  }
}

Task<void> SimRpcServer::State::Drain() {
  while (!calls_.empty()) {
    co_await drained_.WaitUntil(kTimeNever);
  }
}

absl::StatusOr<std::unique_ptr<SimRpcChannel>> SimRpcChannel::Create(
    std::shared_ptr<SimNodeProcess> process, const std::string& address) {
  GEMEL_CHECK(process != nullptr);
  absl::StatusOr<SimAddress> target = ParseSimAddress(process->node(), address);
  if (!target.ok()) {
    return target.status();
  }
  return std::unique_ptr<SimRpcChannel>(new SimRpcChannel(std::move(process), *std::move(target)));
}

Task<absl::StatusOr<std::string>> SimRpcChannel::Call(std::string method, std::string request,
                                                      TimePoint deadline) {
  GEMEL_CHECK(deadline != kTimeNever) << method << " without a deadline";
  auto call = std::make_shared<SimCall>(process_, target_, deadline);
  return RunCall(std::move(call), std::move(method), std::move(request));
}

Task<absl::StatusOr<std::string>> SimRpcChannel::RunCall(std::shared_ptr<SimCall> call,
                                                         std::string method, std::string request) {
  absl::Status fits = CheckSize("the request", method, request.size());
  if (!fits.ok()) {
    co_return fits;
  }
  call->caller()->Attach(call);
  GiveUpGuard guard(call);
  SimRequest message{method, std::move(request)};
  SendRequest(call, std::move(message));
  const bool answered = co_await call->result().WaitUntil(call->deadline());
  if (!answered) {
    co_return error::DeadlineExceeded("{} at {}: no answer by the deadline, the outcome is unknown",
                                      method, call->target().ToString());
  }
  co_return std::move(call->result().value());
}

absl::StatusOr<std::unique_ptr<SimRpcServer>> SimRpcServer::Start(
    std::shared_ptr<SimNodeProcess> process, const std::string& address, RpcService* service,
    size_t calls_in_flight_max) {
  GEMEL_CHECK(process != nullptr && service != nullptr && calls_in_flight_max > 0);
  absl::StatusOr<SimAddress> own = ParseSimAddress(process->node(), address);
  if (!own.ok()) {
    return own.status();
  }
  auto state = std::make_shared<State>(process, service, calls_in_flight_max);
  absl::Status bound = process->world()->Bind(&*own, state);
  if (!bound.ok()) {
    return bound;
  }
  process->Attach(state);
  return std::unique_ptr<SimRpcServer>(new SimRpcServer(*std::move(own), std::move(state)));
}

SimRpcServer::SimRpcServer(SimAddress address, std::shared_ptr<State> state)
    : address_(std::move(address)), state_(std::move(state)) {}

SimRpcServer::~SimRpcServer() {
  SimNodeProcess* process = state_->process();
  state_->StopAccepting();
  if (process->in_world()) {
    process->world()->Unbind(address_, state_.get());
  }
  GEMEL_CHECK(state_->calls_in_flight() == 0 || !process->alive() ||
              process->loop()->is_shut_down())
      << address() << " is destroyed with " << state_->calls_in_flight() << " calls: Stop() first";
}

Task<void> SimRpcServer::Stop() {
  const std::shared_ptr<State> state = state_;
  state->StopAccepting();
  state->process()->world()->Unbind(address_, state.get());
  state->CancelAll();
  co_await state->Drain();
}

size_t SimRpcServer::calls_in_flight() const { return state_->calls_in_flight(); }

}  // namespace gemel

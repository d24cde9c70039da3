// SPDX-License-Identifier: Apache-2.0
//
// What a person does beside the faults: removes a job that goes on, and empties a server to take it
// away.
#include <fmt/format.h>

#include "common/check.h"
#include "common/control_protocol.h"
#include "placement/manager/wire.h"
#include "tests/sim/strikes.h"

namespace gemel::sim {
namespace {

constexpr uint32_t kPersonStrengthMin = 60;  // seldom: what was told before counts no more
constexpr Duration kRemoveWithin = 5s;
constexpr Duration kDrainCall = 1s;
constexpr Duration kDrainPoll = 15ms;
constexpr const char* kPerson = "operator";

Task<void> Remove(Oracle* oracle, RpcChannel* placement, std::string job, TimePoint deadline) {
  pb::RemoveSnapshotsRequest request;
  request.mutable_caller()->set_protocol_version(kControlProtocolOldest);
  request.set_job(job);
  const OperationIndex call = oracle->calls()->Remove(oracle->NextProcess(), job);
  std::string method = "RemoveSnapshots";
  std::string body = request.SerializeAsString();
  const absl::StatusOr<std::string> told =
      co_await placement->Call(std::move(method), std::move(body), deadline);
  oracle->RemovalEnded(job);
  oracle->calls()->Ended(call, told.status());
}

Task<absl::StatusOr<pb::DrainReply>> CallDrain(RpcChannel* placement, std::string server,
                                               pb::DrainRequest::Action action, bool force,
                                               TimePoint deadline) {
  pb::DrainRequest request;
  request.mutable_caller()->set_protocol_version(kControlProtocolOldest);
  request.set_server(server);
  request.set_action(action);
  request.set_force(force);
  std::string method = "Drain";
  std::string body = request.SerializeAsString();
  const absl::StatusOr<std::string> told =
      co_await placement->Call(std::move(method), std::move(body), deadline);
  GEMEL_CO_RETURN_IF_ERROR(told.status());
  pb::DrainReply reply;
  GEMEL_CHECK(reply.ParseFromString(*told));
  co_return reply;
}

// The manager has decided: nothing else comes of asking again. A full store takes it later.
bool IsRefusal(const absl::Status& status) {
  return !status.ok() && status.code() != absl::StatusCode::kUnavailable &&
         status.code() != absl::StatusCode::kDeadlineExceeded &&
         status.code() != absl::StatusCode::kResourceExhausted;
}

}  // namespace

// Twice is another thing than once: the network of a person repeats nothing.
RpcChannel* Strikes::Person() {
  if (person_ == nullptr) {
    person_ = cluster_->StartOperator();
    placement_ = cluster_->ChannelToPlacement(person_.get());
    for (uint32_t manager = 0; manager < cluster_->managers(); ++manager) {
      const std::string other = Cluster::ManagerNode(manager);
      cluster_->world()->SetLink(kPerson, other, LinkFaults());
      cluster_->world()->SetLink(other, kPerson, LinkFaults());
    }
  }
  return placement_.get();
}

// Now and then while its ranks restore. A refusal is an answer, too.
void Strikes::Removal() {
  const std::unique_ptr<SimJob>& job = (*jobs_)[random_->Below(jobs_->size())];
  const std::string name = job->plan().name;
  if (plan_.StrengthOf(Fault::kRemoval) < kPersonStrengthMin || oracle_->IsRemoving(name)) {
    return;
  }
  RpcChannel* placement = Person();
  if (random_->Chance(1, 2)) {
    job->KillTrainers(20ms);
  }
  Soon(After(0, 80), [this, name, placement] {
    if (oracle_->IsRemoving(name)) {
      return;
    }
    Note("a person removes " + name);
    Struck(Fault::kRemoval);
    oracle_->Removing(name);
    person_->loop.Spawn(Remove(oracle_, placement, name, Add(person_->loop.Now(), kRemoveWithin)));
  });
}

// Often with a manager that goes meanwhile: the next one has to hear who has what.
void Strikes::Drain() {
  const std::optional<uint32_t> victim = PickUp();
  if (plan_.StrengthOf(Fault::kDrain) < kPersonStrengthMin || !victim.has_value() || draining_ ||
      cluster_->ServerAt(*victim) == nullptr) {
    return;
  }
  Note("a person drains " + Cluster::HostOf(*victim));
  Struck(Fault::kDrain);
  Person();
  draining_ = true;
  Emptying emptying;
  emptying.server = *victim;
  emptying.id = cluster_->ServerAt(*victim)->id();
  emptying.force = random_->Chance(1, 4);
  emptying.takes_away = random_->Chance(2, 3);
  emptying.until = After(200, 2500);
  emptying.back_after = std::chrono::milliseconds(50 + random_->Below(1500));
  person_->loop.Spawn(Empty(emptying));
  if (const uint32_t manager = PickManager(); random_->Chance(1, 2)) {
    Soon(After(0, 150), [this, manager] {
      if (cluster_->placement_up(manager)) {
        KillManager(manager, cluster_->scheduler()->now() + 20ms);
      }
    });
  }
}

// Until it may be stopped, she loses patience, or all has healed; after that it takes work again.
Task<void> Strikes::Empty(Emptying emptying) {
  const std::string name = emptying.id.ToHex();
  Loop* loop = &person_->loop;
  pb::DrainRequest::Action action = pb::DrainRequest::BEGIN;
  bool over = false;
  while (!over && striking_) {
    const absl::StatusOr<pb::DrainReply> reply = co_await CallDrain(
        placement_.get(), name, action, emptying.force, Add(loop->Now(), kDrainCall));
    if (reply.ok() && reply->ready()) {
      oracle_->Drained(emptying.server, emptying.id);
      TakeAway(emptying);
    }
    over = IsRefusal(reply.status()) || (reply.ok() && reply->ready()) ||
           cluster_->scheduler()->now() >= emptying.until;
    action = reply.ok() ? pb::DrainRequest::STATUS : action;
    co_await loop->Sleep(kDrainPoll);
  }
  absl::Status cancelled = error::Unavailable("not asked yet");
  while (!cancelled.ok() && !IsRefusal(cancelled)) {
    const absl::StatusOr<pb::DrainReply> reply = co_await CallDrain(
        placement_.get(), name, pb::DrainRequest::CANCEL, false, Add(loop->Now(), kDrainCall));
    cancelled = reply.status();
    co_await loop->Sleep(kDrainPoll);
  }
  draining_ = false;
}

// With its disk, and another machine takes its place.
void Strikes::TakeAway(const Emptying& emptying) {
  const Server* server = cluster_->ServerAt(emptying.server);
  const bool may = oracle_->overkill() || (MayHurtDisks() && oracle_->CanLose(emptying.server));
  if (!emptying.takes_away || !may || server == nullptr || server->id() != emptying.id) {
    return;
  }
  Note("it is ready, and taken away: " + Cluster::HostOf(emptying.server));
  Struck(Fault::kDrain);
  Down(emptying.server, 300ms, true);
  cluster_->ReplaceDisk(emptying.server);
  oracle_->DiskLost(emptying.server);
  slots_[emptying.server].restart_at = cluster_->scheduler()->now() + emptying.back_after;
}

}  // namespace gemel::sim

// SPDX-License-Identifier: Apache-2.0
#include "transport/sim/sim_world.h"

#include <algorithm>
#include <utility>

#include "common/check.h"
#include "common/errors.h"
#include "common/xxh3.h"

namespace gemel {
namespace {

constexpr uint16_t kFirstChosenPort = 49152;

void AddUp(LinkStats* total, const LinkStats& one) {
  total->frames += one.frames;
  total->frame_bytes += one.frame_bytes;
  total->requests += one.requests;
  total->replies += one.replies;
  total->held += one.held;
  total->clogged += one.clogged;
  total->stragglers += one.stragglers;
  total->closes_lost += one.closes_lost;
  total->resets += one.resets;
  total->corruptions += one.corruptions;
  total->duplicates += one.duplicates;
  total->duplicate_calls += one.duplicate_calls;
  total->late_writes += one.late_writes;
  total->late_calls += one.late_calls;
  total->slow_landings += one.slow_landings;
  total->requests_lost += one.requests_lost;
  total->replies_lost += one.replies_lost;
}

}  // namespace

SimWorld::SimWorld(SimScheduler* scheduler, Random random)
    : scheduler_(scheduler), random_(random), next_port_(kFirstChosenPort) {
  GEMEL_CHECK(scheduler != nullptr);
  default_local_faults_.delay_min = 5us;
  default_local_faults_.delay_max = 50us;
}

SimWorld::~SimWorld() {
  for (const std::weak_ptr<SimNodeProcess>& weak : all_processes_) {
    if (std::shared_ptr<SimNodeProcess> process = weak.lock()) {
      process->world_ = nullptr;
    }
  }
}

std::shared_ptr<SimNodeProcess> SimWorld::StartProcess(const std::string& node, SimLoop* loop) {
  GEMEL_CHECK(!node.empty());
  const uint64_t pid = next_pid_++;
  Random random = random_.Split(fmt::format("process {} of {}", pid, node));
  auto process = std::make_shared<SimNodeProcess>(this, loop, node, pid, random);
  processes_.emplace(pid, process);
  std::erase_if(all_processes_, [](const auto& weak) { return weak.expired(); });
  all_processes_.push_back(process);
  return process;
}

void SimWorld::Kill(const std::shared_ptr<SimNodeProcess>& process) {
  GEMEL_CHECK(process->world_ == this);
  if (!process->alive_) {
    return;
  }
  process->alive_ = false;
  Record("kill", process->pid(), 0, process->node());
  for (const std::shared_ptr<SimPart>& part : process->Parts()) {
    part->OnOwnerKilled();
  }
  process->parts_.clear();
  processes_.erase(process->pid());
}

LinkFaults& SimWorld::Faults(const std::string& from, const std::string& to) {
  return Link({from, to}).faults;
}

void SimWorld::SetLink(const std::string& from, const std::string& to, const LinkFaults& faults) {
  const Route route{from, to};
  SimLink& link = Link(route);
  link.faults = faults;
  link.own_faults = true;
  Release(route, &link);
}

void SimWorld::SetDefaultFaults(const LinkFaults& faults) {
  default_faults_ = faults;
  for (auto& [route, link] : links_) {
    if (route.from == route.to || link.own_faults) {
      continue;
    }
    const LinkFaults before = std::exchange(link.faults, faults);
    link.faults.blackhole = before.blackhole;  // Partition() and Heal() decide that
    link.faults.clogged_until = before.clogged_until;
  }
}

void SimWorld::Partition(const std::vector<std::string>& left,
                         const std::vector<std::string>& right) {
  PartitionOneWay(left, right);
  PartitionOneWay(right, left);
}

void SimWorld::PartitionOneWay(const std::vector<std::string>& from,
                               const std::vector<std::string>& to) {
  for (const std::string& source : from) {
    for (const std::string& target : to) {
      GEMEL_CHECK_NE(source, target) << "a node cannot be cut off from itself";
      Faults(source, target).blackhole = true;
    }
  }
}

void SimWorld::Heal() {
  for (auto& [route, link] : links_) {
    link.faults.blackhole = false;
    Release(route, &link);
  }
}

void SimWorld::Heal(const std::string& a, const std::string& b) {
  for (const Route& route : {Route{a, b}, Route{b, a}}) {
    SimLink& link = Link(route);
    link.faults.blackhole = false;
    Release(route, &link);
  }
}

void SimWorld::BreakConnections(const std::string& a, const std::string& b) {
  Record("break", 0, 0, a + " " + b);
  std::vector<std::shared_ptr<SimNodeProcess>> there;
  there.reserve(processes_.size());
  for (const auto& [pid, process] : processes_) {
    there.push_back(process);
  }
  for (const std::shared_ptr<SimNodeProcess>& process : there) {
    for (const std::shared_ptr<SimPart>& part : process->Parts()) {
      part->OnLinkBroken(a, b);
    }
  }
}

void SimWorld::CutOff(SimNodeProcess* a, SimNodeProcess* b) {
  GEMEL_CHECK(a->alive() && b->alive() && a != b);
  Record("cut off", a->pid(), b->pid(), "");
  for (const auto& [one, other] : {std::pair(a, b), std::pair(b, a)}) {
    for (const std::shared_ptr<SimPart>& part : one->Parts()) {
      part->OnCutFrom(other->pid());
    }
  }
}

void SimWorld::Landed(const std::string& node, ByteSpan landed) const {
  if (on_landed_) {
    on_landed_(node, landed);
  }
}

bool SimWorld::StartedSince(const std::string& node, uint64_t pid) const {
  return std::any_of(processes_.upper_bound(pid), processes_.end(),
                     [&node](const auto& one) { return one.second->node() == node; });
}

LinkStats SimWorld::Stats(const std::string& from, const std::string& to) {
  return Link({from, to}).stats;
}

LinkStats SimWorld::TotalStats() const {
  LinkStats total;
  for (const auto& [route, link] : links_) {
    AddUp(&total, link.stats);
  }
  return total;
}

SimMachine* SimWorld::machine(const std::string& node) {
  std::unique_ptr<SimMachine>& machine = machines_[node];
  if (machine == nullptr) {
    machine = std::make_unique<SimMachine>(node);
  }
  return machine.get();
}

SimLink& SimWorld::Link(const Route& route) {
  auto found = links_.find(route);
  if (found == links_.end()) {
    const LinkFaults& faults = route.from == route.to ? default_local_faults_ : default_faults_;
    Random random = random_.Split(fmt::format("link {} > {}", route.from, route.to));
    found = links_.emplace(route, SimLink(faults, random)).first;
  }
  return found->second;
}

void SimWorld::Transmit(const Route& route, InBlackhole fate, Loop::Callback arrive) {
  SimLink& link = Link(route);
  GEMEL_CHECK(arrive != nullptr);
  Duration delay = link.DrawDelay();
  if (link.Happens(link.faults.straggle_ppm)) {
    link.stats.stragglers += 1;
    delay += link.Between(Duration::zero(), link.faults.straggle_max);
  }
  const TimePoint start = std::max(now(), link.faults.clogged_until);
  link.stats.clogged += start > now() ? 1 : 0;
  scheduler_->At(Add(start, delay), [this, route, fate, arrive = std::move(arrive)]() mutable {
    Arrive(route, fate, std::move(arrive));
  });
}

void SimWorld::Arrive(const Route& route, InBlackhole fate, Loop::Callback arrive) {
  SimLink& link = Link(route);
  if (link.faults.blackhole && fate == InBlackhole::kLost) {
    link.stats.closes_lost += 1;
    return;
  }
  if (link.faults.blackhole) {
    link.stats.held += 1;
    link.held.push_back(std::move(arrive));
    return;
  }
  if (link.faults.clogged_until > now()) {
    Transmit(route, fate, std::move(arrive));
    return;
  }
  arrive();
}

void SimWorld::Release(const Route& route, SimLink* link) {
  if (link->faults.blackhole) {
    return;
  }
  for (Loop::Callback& arrive : std::exchange(link->held, {})) {
    Transmit(route, InBlackhole::kHeld, std::move(arrive));
  }
}

void SimWorld::Record(std::string_view kind, uint64_t from_pid, uint64_t to_pid,
                      std::string_view content) {
  scheduler_->MixIntoHistory(Xxh3_128(AsBytes(kind)).low);
  scheduler_->MixIntoHistory((from_pid << 32) ^ to_pid);
  scheduler_->MixIntoHistory(content.size());
  scheduler_->MixIntoHistory(Xxh3_128(AsBytes(content)).low);
}

absl::Status SimWorld::Bind(SimAddress* address, const std::shared_ptr<SimBinding>& binding) {
  GEMEL_CHECK(binding->process()->alive());
  if (address->node != binding->process()->node()) {
    return error::InvalidArgument("{} cannot listen at {}: that is another node's address",
                                  binding->process()->ToString(), address->ToString());
  }
  if (!address->local && address->port == 0) {
    address->port = next_port_++;
    GEMEL_CHECK_GE(next_port_, kFirstChosenPort) << "the world is out of ports";
  }
  if (std::shared_ptr<SimBinding> other = Find(*address)) {
    return error::AlreadyExists("{} is taken by {}; choose another address or stop that process",
                                address->ToString(), other->process()->ToString());
  }
  bindings_[address->Key()] = binding;
  return absl::OkStatus();
}

void SimWorld::Unbind(const SimAddress& address, const SimBinding* binding) {
  auto found = bindings_.find(address.Key());
  // The address may have a new owner, if this one's process was killed first.
  if (found != bindings_.end() && found->second.lock().get() == binding) {
    bindings_.erase(found);
  }
}

std::shared_ptr<SimBinding> SimWorld::Find(const SimAddress& address) const {
  auto found = bindings_.find(address.Key());
  std::shared_ptr<SimBinding> binding = found == bindings_.end() ? nullptr : found->second.lock();
  return binding != nullptr && binding->process()->alive() ? binding : nullptr;
}

}  // namespace gemel

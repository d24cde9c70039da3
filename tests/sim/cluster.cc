// SPDX-License-Identifier: Apache-2.0
#include "tests/sim/cluster.h"

#include <fmt/format.h>

#include <algorithm>

#include "common/check.h"
#include "common/errors.h"
#include "placement/manager/stored.h"
#include "server/keeper/keeper_link.h"
#include "server/keeper/keeper_service.h"
#include "transport/control/failover_channel.h"

namespace gemel::sim {
namespace {

constexpr Duration kHeardAfter = 1s;
constexpr uint64_t kPathsMax = 3;  // of a server's data addresses

std::string PlacementAddress(uint32_t manager) {
  return fmt::format("sim://{}/7601", Cluster::ManagerNode(manager));
}

// "…, incarnation 52b13ec8: …" or "…, incarnation 52b13ec8, …"
std::string IncarnationIn(std::string_view text) {
  constexpr std::string_view kBefore = ", incarnation ";
  const size_t found = text.find(kBefore);
  GEMEL_CHECK(found != std::string_view::npos) << text;
  const std::string_view rest = text.substr(found + kBefore.size());
  return std::string(rest.substr(0, rest.find_first_of(":,")));
}

// "server server-3 (fa469023) …"
std::string IdIn(std::string_view text) {
  const size_t found = text.find(" (");
  GEMEL_CHECK(found != std::string_view::npos) << text;
  const std::string_view rest = text.substr(found + 2);
  return std::string(rest.substr(0, rest.find(')')));
}

}  // namespace

Node::Node(SimScheduler* scheduler, SimWorld* world, const std::string& name, Timeline* timeline)
    : loop(scheduler),
      world(world),
      process(world->StartProcess(name, &loop)),
      net(process),
      host(process),
      events(scheduler, name, timeline) {}

Node::~Node() {
  world->Kill(process);
  if (!loop.is_shut_down()) {
    loop.Kill();
  }
}

struct Cluster::PlacementLife {
  PlacementLife(Cluster* owner, uint32_t manager, Random seed)
      : cluster(owner),
        node(&owner->scheduler_, &owner->world_, ManagerNode(manager), &owner->timeline_),
        options(OptionsOf(*owner, manager)),
        random(seed),
        store(&node.loop, &owner->store_state_) {}

  ~PlacementLife() {
    node.world->Kill(node.process);
    node.loop.Kill();
    rpc.reset();
    manager.reset();
  }

  static PlacementOptions OptionsOf(const Cluster& cluster, uint32_t manager) {
    const ClusterShape& shape = cluster.shape_;
    PlacementOptions options = shape.placement;
    options.control_protocol = cluster.manager_protocols_[manager];
    options.name = ManagerNode(manager);
    options.address = PlacementAddress(manager);
    options.shared_store = shape.managers > 1;
    return options;
  }

  Cluster* const cluster;
  Node node;
  const PlacementOptions options;
  Random random;
  SimStore store;
  std::unique_ptr<PlacementManager> manager;
  std::unique_ptr<SimRpcServer> rpc;
};

struct Cluster::KeeperLife {
  KeeperLife(Cluster* cluster, uint32_t index)
      : node(&cluster->scheduler_, &cluster->world_, HostOf(index), &cluster->timeline_),
        service({&node.loop, &node.net, &node.host, &node.events}) {
    const absl::Status started = service.Start(KeeperOf(index));
    GEMEL_CHECK(started.ok()) << ToText(started);
  }

  ~KeeperLife() {
    node.world->Kill(node.process);
    node.loop.Kill();
  }

  Node node;
  KeeperService service;
};

struct Cluster::ServerLife {
  ServerLife(Cluster* cluster, uint32_t index, Random random)
      : node(&cluster->scheduler_, &cluster->world_, HostOf(index), &cluster->timeline_),
        disk(&node.loop, cluster->servers_[index].disk.get(), random),
        tier(&node.loop, cluster->servers_[index].tier.get(), random.Split("tier")) {}

  ~ServerLife() {
    node.world->Kill(node.process);
    node.loop.Kill();
    server.reset();
  }

  Node node;
  SimDisk disk;
  SimPersist tier;
  std::unique_ptr<KeeperLink> keeper;  // null: none
  std::unique_ptr<RpcChannel> placement;
  std::unique_ptr<Server> server;
  bool started = false;
  absl::Status end;  // not OK: it ended by itself
};

Cluster::Cluster(uint64_t seed, ClusterShape shape)
    : shape_(std::move(shape)),
      seed_(seed),
      random_(seed),
      world_(&scheduler_, random_.Split("world")) {
  store_state_.random = random_.Split("store");
  managers_.resize(shape_.managers);
  manager_protocols_.assign(shape_.managers, shape_.control_protocol);
  timeline_.OnEvent([this](const Timeline::Event& event) { Follow(event); });
  servers_.resize(shape_.slots());
  for (ServerSlot& slot : servers_) {
    slot.disk = std::make_unique<SimDiskState>();
    slot.tier = std::make_unique<SimPersistState>();
    slot.memory_bytes = shape_.memory_bytes;
    slot.protocol = shape_.control_protocol;
  }
}

Cluster::~Cluster() = default;

void Cluster::NobodyIsMember() {
  for (ServerSlot& slot : servers_) {
    slot.members.clear();
    slot.declared_dead = false;
  }
  NoteMembers();
}

void Cluster::NoteMembers() {
  std::vector<bool> members;
  members.reserve(servers_.size());
  for (const ServerSlot& slot : servers_) {
    members.push_back(!slot.members.empty());
  }
  if (member_sets_.empty() || member_sets_.back().members != members) {
    member_sets_.push_back({scheduler_.now(), std::move(members)});
  }
  if (member_sets_.size() > kMemberSetsMax) {
    member_sets_.erase(member_sets_.begin());
  }
}

std::vector<std::vector<bool>> Cluster::MemberSetsSince(TimePoint since) const {
  std::vector<std::vector<bool>> sets;
  for (auto at = member_sets_.rbegin(); at != member_sets_.rend(); ++at) {
    sets.push_back(at->members);
    if (at->since <= since) {
      break;
    }
  }
  return sets;
}

// What placement and servers say of each other, as it happens. A name may be that of a member that
// lost its disk, too, whose join may even come late: the id tells. A manager that leads no more is
// not listened to.
void Cluster::Follow(const Timeline::Event& event) {
  if (event.name == "elected") {
    leader_ = event.node;
    NobodyIsMember();
  }
  const bool of_placement = event.node == leader_;
  for (uint32_t i = 0; i < servers_.size(); ++i) {
    ServerSlot& slot = servers_[i];
    const std::string named = fmt::format("server {} ", NameOf(i));
    // Of one that did not come back after a recovery placement knows nothing but the id.
    const std::string nameless = fmt::format("server {} ", slot.id);
    if (of_placement && event.name == "member_joined" && event.text.starts_with(named)) {
      const std::string joined = IncarnationIn(event.text);
      slot.id = IdIn(event.text);
      slot.members[slot.id] = joined;
      slot.declared_dead = false;
      NoteMembers();
      slot.member_since = IsOfPresentLife(i, joined) ? event.at : slot.member_since;
    } else if (of_placement && event.name == "member_dead" &&
               (event.text.starts_with(named) || event.text.starts_with(nameless))) {
      slot.declared_dead = true;
      const bool left = Leaves(&slot, IdIn(event.text), IncarnationIn(event.text));
      NoteMembers();
      if (left && !IsMember(i) && on_dead_) {
        on_dead_(i);
      }
    } else if (event.node == HostOf(i) && event.name == "joined") {
      slot.answered = true;
    } else if (event.node == HostOf(i) && event.name == "heartbeat") {
      slot.answered = event.text.starts_with("placement answers");
    }
  }
}

// A join may come late, from a life that has ended, and may have been another member's.
bool Cluster::IsOfPresentLife(uint32_t index, const std::string& incarnation) const {
  const ServerLife* life = servers_[index].life.get();
  return life != nullptr && life->server != nullptr &&
         life->server->incarnation().ToShort() == incarnation;
}

// Whether it was counted. A manager that was just elected may declare one dead that it has not seen
// in any life.
bool Cluster::Leaves(ServerSlot* slot, const std::string& id, const std::string& incarnation) {
  const auto found = slot->members.find(id);
  if (found == slot->members.end() || found->second != incarnation) {
    return slot->members.empty();
  }
  slot->members.erase(found);
  return true;
}

bool Cluster::IsMember(uint32_t index) const {
  const Server* server = ServerAt(index);
  const auto& members = servers_[index].members;
  return server != nullptr &&
         std::any_of(members.begin(), members.end(), [server](const auto& member) {
           return member.second == server->incarnation().ToShort();
         });
}

bool Cluster::IsHeard(uint32_t index) const {
  const ServerSlot& slot = servers_[index];
  return IsMember(index) && slot.answered && !slot.life->node.loop.paused() &&
         scheduler_.now() >= slot.member_since + kHeardAfter;
}

std::string Cluster::HostOf(uint32_t index) { return fmt::format("host-{}", index); }

std::string Cluster::NameOf(uint32_t index) { return fmt::format("server-{}", index); }

// Racks take their hosts in turn, as people fill them.
std::string Cluster::DomainOf(uint32_t index) const {
  return shape_.racks == 0 ? HostOf(index)
                           : fmt::format("rack{}/{}", index % shape_.racks, HostOf(index));
}

std::string Cluster::KeeperOf(uint32_t index) {
  return fmt::format("unix:///keeper-{}.sock", index);
}

std::string Cluster::SocketOf(uint32_t index) {
  return fmt::format("unix:///server-{}.sock", index);
}

void Cluster::Note(std::string text) {
  NodeEvents(&scheduler_, "scenario", &timeline_).Emit(Severity::kInfo, "note", std::move(text));
}

std::string Cluster::ManagerNode(uint32_t manager) {
  return manager == 0 ? "placement" : fmt::format("placement-{}", manager);
}

void Cluster::StartPlacement(uint32_t manager) {
  GEMEL_CHECK(managers_[manager] == nullptr) << ManagerNode(manager);
  const uint64_t seed = random_.Next();
  managers_[manager] = std::make_unique<PlacementLife>(this, manager, Random(seed));
  managers_[manager]->node.loop.Spawn(RunPlacement(managers_[manager].get()));
}

bool Cluster::Answers(const std::unique_ptr<PlacementLife>& life) {
  return life != nullptr && !life->node.loop.paused() && life->manager != nullptr &&
         life->manager->leads();
}

size_t Cluster::Leaders() const {
  GEMEL_CHECK(!managers_.empty());
  return static_cast<size_t>(std::count_if(managers_.begin(), managers_.end(), Answers));
}

bool Cluster::IsWritable() const {
  GEMEL_CHECK(!managers_.empty());
  return std::any_of(managers_.begin(), managers_.end(),
                     [](const auto& life) { return Answers(life) && life->store.is_well(); });
}

bool Cluster::IsServedBefore(uint64_t term, const std::string& name) const {
  return std::any_of(managers_.begin(), managers_.end(), [&](const auto& life) {
    return Answers(life) && life->options.name != name && life->manager->Beliefs().term < term;
  });
}

void Cluster::CutStore(uint32_t manager, bool gone, bool hangs) {
  GEMEL_CHECK(placement_up(manager)) << ManagerNode(manager);
  managers_[manager]->store.set_cut(gone);
  managers_[manager]->store.set_hung(hangs);
}

PlacementBeliefs Cluster::Beliefs() const {
  for (const std::unique_ptr<PlacementLife>& life : managers_) {
    if (life != nullptr && life->manager != nullptr && life->manager->leads()) {
      return life->manager->Beliefs();
    }
  }
  return {};
}

Task<void> Cluster::RunPlacement(PlacementLife* life) {
  while (true) {
    PlacementOptions options = life->options;
    options.recover_from_servers = life->cluster->IsRecovering();
    options.accept_loss = life->cluster->accept_loss_;
    PlacementSeams seams{&life->node.loop, &life->random,      &life->store,
                         &life->node.net,  &life->node.events, &life->node.metrics};
    auto manager = co_await PlacementManager::Start(options, seams);
    if (manager.ok()) {
      life->manager = std::move(*manager);
      break;
    }
    // As a service manager would: start again until the store answers.
    life->node.events.Emit(Severity::kWarning, "placement_start", ToText(manager.status()));
    co_await life->node.loop.Sleep(200ms);
  }
  auto rpc = SimRpcServer::Start(life->node.process, life->options.address, life->manager.get());
  GEMEL_CHECK(rpc.ok()) << ToText(rpc.status());
  life->rpc = std::move(*rpc);
}

void Cluster::KillPlacement(uint32_t manager) {
  GEMEL_CHECK(managers_[manager] != nullptr) << ManagerNode(manager);
  managers_[manager].reset();
  if (ManagerNode(manager) == leader_) {
    NobodyIsMember();
  }
}

void Cluster::LoseStore() {
  GEMEL_CHECK(std::all_of(managers_.begin(), managers_.end(),
                          [](const auto& life) { return life == nullptr; }));
  store_state_.Lose();
  store_lost_ = true;
  accept_loss_ = false;
}

bool Cluster::IsRecovering() const {
  const auto found = store_state_.values.find(kClusterKey);
  if (!store_lost_ || found == store_state_.values.end()) {
    return store_lost_;
  }
  const auto record = DecodeStored<ClusterRecord>(kClusterKey, found->second.value);
  GEMEL_CHECK(record.ok()) << ToText(record.status());
  return record->IsUnfinishedRecovery();
}

bool Cluster::LacksGeneration() const {
  const auto found = store_state_.values.find(kClusterKey);
  if (found == store_state_.values.end()) {
    return false;
  }
  const auto record = DecodeStored<ClusterRecord>(kClusterKey, found->second.value);
  GEMEL_CHECK(record.ok()) << ToText(record.status());
  return record->recovery_majority > 0;
}

void Cluster::SetPlacementProtocol(uint32_t manager, uint32_t protocol) {
  manager_protocols_.at(manager) = protocol;
}

void Cluster::SetServerProtocol(uint32_t index, uint32_t protocol) {
  servers_.at(index).protocol = protocol;
}

void Cluster::StartServer(uint32_t index) {
  GEMEL_CHECK(servers_[index].life == nullptr);
  const uint64_t seed = random_.Next();
  servers_[index].life = std::make_unique<ServerLife>(this, index, Random(seed));
  ServerLife* life = servers_[index].life.get();
  life->placement = ChannelToPlacement(&life->node);
  ServerOptions options;
  options.name = NameOf(index);
  options.domain = DomainOf(index);
  options.client_address = SocketOf(index);
  options.data_address = fmt::format("sim://{}/0", HostOf(index));
  for (uint64_t path = seed % kPathsMax; path > 0; --path) {
    options.data_address += fmt::format(",sim://{}/0", HostOf(index));
  }
  options.memory_bytes = servers_[index].memory_bytes;
  options.slab_bytes = shape_.slab_bytes;
  options.control_protocol = servers_[index].protocol;
  options.disk_patience = shape_.disk_patience;
  options.scrub.memory_pass = shape_.scrub_pass;
  options.scrub.disk_pass = shape_.scrub_pass;
  if (shape_.keepers) {
    if (servers_[index].keeper == nullptr) {
      servers_[index].keeper = std::make_unique<KeeperLife>(this, index);
    }
    life->keeper = std::make_unique<KeeperLink>(&life->node.loop, &life->node.net,
                                                &life->node.events, KeeperOf(index));
  }
  ServerSeams seams;
  seams.loop = &life->node.loop;
  seams.net = &life->node.net;
  seams.host = &life->node.host;
  seams.disk = &life->disk;
  seams.persist = &life->tier;
  seams.process = life->node.process.get();
  seams.placement = life->placement.get();
  seams.events = &life->node.events;
  seams.metrics = &life->node.metrics;
  seams.keeper = life->keeper.get();
  life->server = std::make_unique<Server>(seams, options, [life](const absl::Status& why) {
    life->node.events.Emit(Severity::kError, "server_fatal", ToText(why));
    life->end = why;
  });
  life->node.loop.Spawn(RunServer(life));
}

Task<void> Cluster::RunServer(ServerLife* life) {
  absl::Status started = co_await life->server->Start();
  life->started = started.ok();
  if (!started.ok()) {
    life->node.events.Emit(Severity::kError, "server_start", ToText(started));
    life->end = started;
  }
}

const Server* Cluster::ServerAt(uint32_t index) const {
  const ServerLife* life = servers_[index].life.get();
  return life != nullptr && life->started ? life->server.get() : nullptr;
}

uint64_t Cluster::PidOfServer(uint32_t index) const {
  GEMEL_CHECK(server_up(index)) << HostOf(index);
  return servers_[index].life->node.process->pid();
}

uint64_t Cluster::PidOfPlacement(uint32_t manager) const {
  GEMEL_CHECK(placement_up(manager)) << ManagerNode(manager);
  return managers_[manager]->node.process->pid();
}

absl::Status Cluster::EndOf(uint32_t index) const {
  const ServerLife* life = servers_[index].life.get();
  return life != nullptr ? life->end : absl::OkStatus();
}

void Cluster::KillServer(uint32_t index) {
  GEMEL_CHECK(servers_[index].life != nullptr) << HostOf(index);
  servers_[index].busy_delays += servers_[index].life->node.loop.busy_delays();
  servers_[index].life.reset();
  servers_[index].answered = false;
  servers_[index].disk->Crash(&random_);
}

void Cluster::KillHost(uint32_t index) {
  KillServer(index);
  EndKeeper(index);
}

void Cluster::EndKeeper(uint32_t index) { servers_[index].keeper.reset(); }

void Cluster::ReplaceDisk(uint32_t index) {
  GEMEL_CHECK(servers_[index].life == nullptr) << HostOf(index);
  EndKeeper(index);  // it holds the memory of another server
  servers_[index].disk->Wipe();
  servers_[index].tier->Wipe();
}

std::unique_ptr<Node> Cluster::StartTrainer(uint32_t index) {
  return std::make_unique<Node>(&scheduler_, &world_, HostOf(index), &timeline_);
}

void Cluster::CutOff(Node* trainer, uint32_t index) {
  GEMEL_CHECK(server_up(index)) << HostOf(index);
  world_.CutOff(trainer->process.get(), servers_[index].life->node.process.get());
}

std::unique_ptr<Node> Cluster::StartOperator() {
  return std::make_unique<Node>(&scheduler_, &world_, "operator", &timeline_);
}

std::unique_ptr<RpcChannel> Cluster::ChannelToPlacement(Node* node) const {
  std::vector<std::unique_ptr<RpcChannel>> channels;
  for (uint32_t manager = 0; manager < managers(); ++manager) {
    auto channel = SimRpcChannel::Create(node->process, PlacementAddress(manager));
    GEMEL_CHECK(channel.ok()) << ToText(channel.status());
    channels.push_back(*std::move(channel));
  }
  return std::make_unique<FailoverChannel>(&node->loop, std::move(channels));
}

void Cluster::CountInjected(FaultCounts* counts) const {
  const auto add = [counts](Fault fault, uint64_t count) {
    (*counts)[static_cast<size_t>(fault)] += count;
  };
  const LinkStats links = world_.TotalStats();
  add(Fault::kLossyCalls, links.requests_lost + links.replies_lost);
  add(Fault::kDuplicates, links.duplicates + links.duplicate_calls);
  add(Fault::kStragglers, links.stragglers);
  add(Fault::kResets, links.resets);
  add(Fault::kLateWrites, links.late_writes);
  add(Fault::kLateCalls, links.late_calls);
  add(Fault::kSlowLanding, links.slow_landings);
  add(Fault::kCorruption, links.corruptions);
  for (const ServerSlot& slot : servers_) {
    const SimDiskState::Stats& disk = slot.disk->stats();
    const SimPersistState::Stats& tier = slot.tier->stats();
    add(Fault::kTornWrites, disk.misdirected + disk.torn);
    add(Fault::kFsyncErrors, disk.failed_syncs + tier.failed_steps);
    add(Fault::kFullDisk, disk.refused_full + tier.refused_full);
    add(Fault::kHungDisk, tier.hung_looks);
    add(Fault::kSlow, disk.slow_operations + tier.slow_steps + slot.busy_delays);
    add(Fault::kSlow, slot.life == nullptr ? 0 : slot.life->node.loop.busy_delays());
  }
}

void Cluster::MixDisks() {
  for (const ServerSlot& slot : servers_) {
    scheduler_.MixIntoHistory(slot.disk->Digest());
    scheduler_.MixIntoHistory(slot.tier->occupied_bytes());
  }
}

SimLoop* Cluster::placement_loop(uint32_t manager) {
  return managers_[manager] ? &managers_[manager]->node.loop : nullptr;
}

SimLoop* Cluster::server_loop(uint32_t index) {
  return servers_[index].life ? &servers_[index].life->node.loop : nullptr;
}

SimLoop* Cluster::keeper_loop(uint32_t index) {
  return servers_[index].keeper ? &servers_[index].keeper->node.loop : nullptr;
}

}  // namespace gemel::sim

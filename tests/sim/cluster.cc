// SPDX-License-Identifier: Apache-2.0
#include "tests/sim/cluster.h"

#include <fmt/format.h>

#include "common/check.h"
#include "common/errors.h"

namespace gemel::sim {
namespace {

constexpr size_t kLinesKept = 4000;
constexpr const char* kPlacementNode = "placement";
constexpr const char* kPlacementAddress = "sim://placement/7601";

}  // namespace

void Timeline::Emit(Severity, std::string_view name, std::string text) {
  lines_->push_back(fmt::format("{:>12.3f} ms  {:<12} {:<24} {}",
                                Milliseconds(scheduler_->now().time_since_epoch()), node_, name,
                                text));
  if (lines_->size() > kLinesKept) {
    lines_->pop_front();
  }
}

Node::Node(SimScheduler* scheduler, SimWorld* world, std::string name,
           std::deque<std::string>* lines)
    : loop(scheduler),
      world(world),
      process(world->StartProcess(name, &loop)),
      net(process),
      host(process),
      events(scheduler, name, lines) {}

Node::~Node() {
  world->Kill(process);
  if (!loop.is_shut_down()) {
    loop.Kill();
  }
}

struct Cluster::PlacementLife {
  PlacementLife(Cluster* cluster, Random seed)
      : node(&cluster->scheduler_, &cluster->world_, kPlacementNode, &cluster->lines_),
        random(seed),
        store(&node.loop, &cluster->store_state_) {}

  ~PlacementLife() {
    node.world->Kill(node.process);
    node.loop.Kill();
    rpc.reset();
    manager.reset();
  }

  Node node;
  Random random;
  SimStore store;
  std::unique_ptr<PlacementManager> manager;
  std::unique_ptr<SimRpcServer> rpc;
};

struct Cluster::ServerLife {
  ServerLife(Cluster* cluster, uint32_t index, Random random)
      : node(&cluster->scheduler_, &cluster->world_, HostOf(index), &cluster->lines_),
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
  std::unique_ptr<RpcChannel> placement;
  std::unique_ptr<Server> server;
};

Cluster::Cluster(uint64_t seed, Shape shape)
    : shape_(shape), random_(seed), world_(&scheduler_, random_.Split("world")) {
  store_state_.random = random_.Split("store");
  servers_.resize(shape.servers);
  for (ServerSlot& slot : servers_) {
    slot.disk = std::make_unique<SimDiskState>();
    slot.tier = std::make_unique<SimPersistState>();
  }
}

Cluster::~Cluster() = default;

std::string Cluster::HostOf(uint32_t index) { return fmt::format("host-{}", index); }

std::string Cluster::SocketOf(uint32_t index) {
  return fmt::format("unix:///server-{}.sock", index);
}

void Cluster::Note(std::string text) {
  Timeline(&scheduler_, "scenario", &lines_).Emit(Severity::kInfo, "note", std::move(text));
}

void Cluster::StartPlacement() {
  GEMEL_CHECK(placement_ == nullptr);
  const uint64_t seed = random_.Next();
  placement_ = std::make_unique<PlacementLife>(this, Random(seed));
  placement_->node.loop.Spawn(RunPlacement(placement_.get(), &store_state_));
}

Task<void> Cluster::RunPlacement(PlacementLife* life, SimStoreState*) {
  while (true) {
    PlacementSeams seams{&life->node.loop, &life->random,      &life->store,
                         &life->node.net,  &life->node.events, &life->node.metrics};
    auto manager = co_await PlacementManager::Start(PlacementOptions(), seams);
    if (manager.ok()) {
      life->manager = std::move(*manager);
      break;
    }
    // As a service manager would: start again until the store answers.
    life->node.events.Emit(Severity::kWarning, "placement_start", ToText(manager.status()));
    co_await life->node.loop.Sleep(200ms);
  }
  auto rpc = SimRpcServer::Start(life->node.process, kPlacementAddress, life->manager.get());
  GEMEL_CHECK(rpc.ok()) << ToText(rpc.status());
  life->rpc = std::move(*rpc);
}

void Cluster::KillPlacement() { placement_.reset(); }

void Cluster::StartServer(uint32_t index) {
  GEMEL_CHECK(servers_[index].life == nullptr);
  const uint64_t seed = random_.Next();
  servers_[index].life = std::make_unique<ServerLife>(this, index, Random(seed));
  ServerLife* life = servers_[index].life.get();
  auto channel = SimRpcChannel::Create(life->node.process, kPlacementAddress);
  GEMEL_CHECK(channel.ok()) << ToText(channel.status());
  life->placement = std::move(*channel);
  ServerOptions options;
  options.name = fmt::format("server-{}", index);
  options.domain = HostOf(index);
  options.client_address = SocketOf(index);
  options.data_address = fmt::format("sim://{}/0", HostOf(index));
  options.memory_bytes = shape_.memory_bytes;
  options.slab_bytes = shape_.slab_bytes;
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
  life->server = std::make_unique<Server>(seams, options, [life](const absl::Status& why) {
    life->node.events.Emit(Severity::kError, "server_fatal", ToText(why));
  });
  life->node.loop.Spawn(RunServer(life));
}

Task<void> Cluster::RunServer(ServerLife* life) {
  absl::Status started = co_await life->server->Start();
  if (!started.ok()) {
    life->node.events.Emit(Severity::kError, "server_start", ToText(started));
  }
}

void Cluster::KillServer(uint32_t index) {
  servers_[index].life.reset();
  servers_[index].disk->Crash(&random_);
}

std::unique_ptr<Node> Cluster::StartTrainer(uint32_t index) {
  return std::make_unique<Node>(&scheduler_, &world_, HostOf(index), &lines_);
}

SimLoop* Cluster::placement_loop() { return placement_ ? &placement_->node.loop : nullptr; }

SimLoop* Cluster::server_loop(uint32_t index) {
  return servers_[index].life ? &servers_[index].life->node.loop : nullptr;
}

}  // namespace gemel::sim

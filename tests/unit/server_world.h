// SPDX-License-Identifier: Apache-2.0
//
// ServerWorld: real servers on the simulated fabric under a FakePlacement, with raw clients and raw
// peers that say whatever a test wants. Thread safety: one thread.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "common/fields.h"
#include "common/sim_disk.h"
#include "common/xxh3.h"
#include "server/keeper/keeper_link.h"
#include "server/keeper/keeper_service.h"
#include "server/persist/sim_persist.h"
#include "server/server.h"
#include "tests/unit/server_fake_placement.h"
#include "tests/unit/sim_fabric_nodes.h"
#include "transport/sim/sim_rpc.h"

namespace gemel::testing {

class CountedEvents final : public EventSink {
 public:
  void Emit(Severity, std::string_view name, std::string text) override {
    counts[std::string(name)] += 1;
    texts.push_back(std::string(name) + ": " + std::move(text));
  }

  std::map<std::string, uint32_t> counts;
  std::vector<std::string> texts;
};

struct PlacementNode {
  explicit PlacementNode(World* world) : life(world, "placement"), fake(&life.loop) {
    auto started = SimRpcServer::Start(life.process, "sim://placement/7601", &fake);
    GEMEL_CHECK(started.ok()) << started.status().ToString();
    rpc = *std::move(started);
  }

  ~PlacementNode() { life.Kill(); }

  Life life;
  FakePlacement fake;
  std::unique_ptr<SimRpcServer> rpc;
};

// A gemel-keeper on a server's node, in a process of its own.
struct KeeperNode {
  KeeperNode(World* world, const std::string& node)
      : life(world, node), service({&life.loop, &life.net, &life.host, &events}) {
    const absl::Status started = service.Start(AddressAt(node));
    GEMEL_CHECK(started.ok()) << started.ToString();
  }

  ~KeeperNode() { life.Kill(); }

  static std::string AddressAt(const std::string& node) { return "unix:///" + node + ".keeper"; }

  Life life;
  CountedEvents events;
  KeeperService service;
};

struct ServerNode {
  // How fast it works where nobody waits.
  struct Pace {
    uint64_t repair_bytes_per_second = kRepairRateDefault;
    ScrubOptions scrub;
  };

  struct Memory {
    uint64_t bytes;
    uint64_t slab_bytes;
    Pace pace = {};
    bool kept = false;  // by a keeper
  };

  ServerNode(World* world, const std::string& server_name, SimDiskState* disk_state,
             const Memory& memory, SimPersistState* tier_state = nullptr)
      : name(server_name), life(world, server_name), disk(&life.loop, disk_state, Random(7)) {
    if (memory.kept) {
      keeper =
          std::make_unique<KeeperLink>(&life.loop, &life.net, &events, KeeperNode::AddressAt(name));
    }
    if (tier_state != nullptr) {
      tier = std::make_unique<SimPersist>(&life.loop, tier_state, Random(9));
    }
    channel = *SimRpcChannel::Create(life.process, "sim://placement/7601");
    options.name = name;
    options.domain = name;
    options.client_address = "unix:///" + name;
    options.data_address = "sim://" + name + "/0";
    options.memory_bytes = memory.bytes;
    options.slab_bytes = memory.slab_bytes;
    options.repair_bytes_per_second = memory.pace.repair_bytes_per_second;
    options.scrub = memory.pace.scrub;
    UseNet(&life.net);
  }

  // Before Start().
  void UseNet(Net* net) {
    ServerSeams seams{&life.loop,    net,     &life.host, &disk,      life.process.get(),
                      channel.get(), &events, &metrics,   tier.get(), keeper.get()};
    server =
        std::make_unique<Server>(seams, options, [this](const absl::Status& why) { fatal = why; });
    metrics_at_start = metrics.all().size();
  }

  // The metrics endpoint reads the registry on another thread: nothing may be added to it later.
  ~ServerNode() {
    EXPECT_EQ(metrics.all().size(), metrics_at_start) << "add them to server/metric_names.cc";
    life.Kill();
  }

  PeerMember AsMember() const {
    return {server->id(), server->incarnation(), name, server->data_address(), false};
  }

  const std::string name;
  Life life;
  SimDisk disk;
  std::unique_ptr<SimPersist> tier;  // null: no persistent tier
  CountedEvents events;
  MetricRegistry metrics;
  size_t metrics_at_start = 0;
  std::unique_ptr<KeeperLink> keeper;  // null: none
  std::unique_ptr<RpcChannel> channel;
  absl::Status fatal;
  ServerOptions options;
  std::unique_ptr<Server> server;
};

// A process that speaks frames to one server, as a client or as a peer.
struct Speaker {
  Speaker(World* world, const std::string& node) : life(world, node) {}

  ~Speaker() {
    session = nullptr;
    life.Kill();
  }

  absl::Status Connect(const std::string& address) {
    auto connection = life.Run(life.net.Connect(address, Add(life.loop.Now(), 1s)));
    if (!connection.ok()) {
      return connection.status();
    }
    session = Session::Start(&life.loop, *std::move(connection), nullptr, Session::Options());
    return absl::OkStatus();
  }

  absl::StatusOr<Reply> Call(Request request, MutableByteSpan into = {}) {
    absl::StatusOr<Reply> reply =
        life.Run(session->Call(std::move(request), into, Add(life.loop.Now(), 30s)));
    if (reply.ok() && !reply->status.ok()) {
      return reply->status;
    }
    return reply;
  }

  template <typename Message>
  absl::StatusOr<Reply> Ask(FrameType type, const Message& message, Handles handles = {}) {
    Request request;
    request.type = type;
    request.body = EncodeMessage(message);
    request.handles = std::move(handles);
    return Call(std::move(request));
  }

  template <typename Answer, typename Message>
  absl::StatusOr<Answer> AskFor(FrameType type, const Message& message) {
    absl::StatusOr<Reply> reply = Ask(type, message);
    if (!reply.ok()) {
      return reply.status();
    }
    absl::StatusOr<Answer> answer = DecodeMessage<Answer>(reply->body);
    handles = std::move(reply->handles);
    return answer;
  }

  Life life;
  std::shared_ptr<Session> session;
  Handles handles;  // of the last reply
};

// A client that saves and restores by the messages of local/messages.h.
struct TestClient : Speaker {
  using Speaker::Speaker;

  absl::Status Hello(const std::string& server_name) {
    absl::Status connected = Connect("unix:///" + server_name);
    if (!connected.ok()) {
      return connected;
    }
    ClientHello hello;
    hello.pid = life.process->pid();
    Handles own = {*life.host.OwnProcess()};
    return Ask(FrameType::kClientHello, hello, std::move(own)).status();
  }

  static OpenShard OpenFor(const std::string& name, uint32_t rank, uint32_t world, uint64_t bytes) {
    OpenShard open;
    open.job = "gpt";
    open.epoch = {1, 1};
    open.token.bytes[3] = 9;
    open.name = name;
    open.rank = rank;
    open.world_size = world;
    open.shard_bytes = bytes;
    open.layout_bytes = 10;
    open.copies = 2;
    return open;
  }

  // Maps what came with the last reply.
  void Map(const std::vector<SlabPiece>& pieces) {
    size_t next = 0;
    for (const SlabPiece& piece : pieces) {
      if (piece.has_handle) {
        GEMEL_CHECK_LT(next, handles.size());
        const uint64_t bytes = slab_bytes;
        slabs[piece.slab] = *life.host.Map(handles[next++], bytes, Access::kReadWrite, false);
      }
    }
    GEMEL_CHECK_EQ(next, handles.size());
  }

  MutableByteSpan At(const SlabPiece& piece) {
    return slabs.at(piece.slab)->bytes().subspan(piece.offset, piece.bytes);
  }

  static std::byte ContentAt(uint32_t rank, uint64_t offset) {
    return static_cast<std::byte>((offset * 31 + offset / 4096 + uint64_t{rank} * 7) & 0xff);
  }

  absl::StatusOr<OpenShardReply> Open(const OpenShard& open) {
    absl::StatusOr<OpenShardReply> reply = AskFor<OpenShardReply>(FrameType::kOpenShard, open);
    if (reply.ok()) {
      Map(reply->pieces);
    }
    return reply;
  }

  // Writes the content of a rank and returns its chunk digests.
  std::vector<Digest128> Fill(const OpenShardReply& opened, uint32_t rank) {
    std::vector<Digest128> digests;
    uint64_t offset = 0;
    for (const SlabPiece& piece : opened.pieces) {
      const MutableByteSpan place = At(piece);
      for (std::byte& byte : place) {
        byte = ContentAt(rank, offset++);
      }
      for (uint64_t at = 0; at < place.size(); at += kChunkBytes) {
        digests.push_back(Xxh3_128(place.subspan(at, std::min(kChunkBytes, place.size() - at))));
      }
    }
    return digests;
  }

  absl::Status Filled(uint64_t upload, const std::vector<Digest128>& digests) {
    ChunksFilled filled;
    filled.upload = upload;
    filled.digests = digests;
    return Ask(FrameType::kChunksFilled, filled).status();
  }

  absl::Status Seal(const OpenShardReply& opened, uint32_t rank,
                    const std::vector<Digest128>& digests, uint64_t bytes) {
    SealShard seal;
    seal.upload = opened.upload;
    seal.root = RootOf(ShardId{opened.snapshot, rank}, digests, bytes);
    return Ask(FrameType::kSealShard, seal).status();
  }

  // Everything up to the seal.
  absl::StatusOr<OpenShardReply> Save(const std::string& name, uint32_t rank, uint32_t world,
                                      uint64_t bytes, uint32_t copies = 2) {
    OpenShard ask = OpenFor(name, rank, world, bytes);
    ask.copies = copies;
    absl::StatusOr<OpenShardReply> opened = Open(ask);
    if (!opened.ok()) {
      return opened;
    }
    const std::vector<Digest128> digests = Fill(*opened, rank);
    absl::Status status = Filled(opened->upload, digests);
    status.Update(status.ok() ? Seal(*opened, rank, digests, bytes) : absl::OkStatus());
    return status.ok() ? opened : absl::StatusOr<OpenShardReply>(status);
  }

  absl::StatusOr<AwaitCommitDone> Await(const SnapshotId& snapshot, uint32_t rank) {
    struct AwaitCommit await;
    await.snapshot = snapshot;
    await.rank = rank;
    await.wait_ms = 5000;
    return AskFor<AwaitCommitDone>(FrameType::kAwaitCommit, await);
  }

  absl::StatusOr<BeginRestoreDone> Begin(uint32_t rank = 0, uint32_t world = 1) {
    BeginRestore begin;
    begin.job = "gpt";
    begin.epoch = {1, 1};
    begin.token.bytes[3] = 9;
    begin.rank = rank;
    begin.world_size = world;
    return AskFor<BeginRestoreDone>(FrameType::kBeginRestore, begin);
  }

  absl::StatusOr<FetchChunksReply> Fetch(uint64_t restore, uint32_t shard, uint32_t first,
                                         uint32_t count) {
    FetchChunks fetch;
    fetch.restore = restore;
    fetch.shard = shard;
    fetch.first_chunk = first;
    fetch.count = count;
    absl::StatusOr<FetchChunksReply> reply =
        AskFor<FetchChunksReply>(FrameType::kFetchChunks, fetch);
    if (reply.ok()) {
      Map(reply->pieces);
    }
    return reply;
  }

  // True when the pieces hold what Fill() writes.
  bool Holds(const FetchChunksReply& reply, uint32_t rank, uint32_t first) {
    uint64_t offset = first * kChunkBytes;
    for (const SlabPiece& piece : reply.pieces) {
      for (const std::byte byte : At(piece)) {
        if (byte != ContentAt(rank, offset++)) {
          return false;
        }
      }
    }
    return true;
  }

  uint64_t slab_bytes = 2 * kMiB;
  std::map<uint32_t, std::unique_ptr<Mapping>> slabs;
};

// Another server, as far as its hello goes.
struct TestPeer : Speaker {
  using Speaker::Speaker;

  PeerHello HelloFor(const FakePlacement& placement) const {
    PeerHello hello;
    hello.cluster = placement.cluster;
    hello.server.bytes[0] = 0x77;
    hello.incarnation.bytes[0] = 0x78;
    hello.server_name = "peer";
    return hello;
  }

  absl::Status Hello(const FakePlacement& placement, const Server& server) {
    absl::Status connected = Connect(server.data_address());
    if (!connected.ok()) {
      return connected;
    }
    return Ask(FrameType::kPeerHello, HelloFor(placement)).status();
  }

  // A write of `bytes`, which outlive its call.
  static Request WriteOf(const OfferReply& grant, uint32_t chunk, const std::string& bytes,
                         WriteSent sent = WriteSent::kOnce) {
    Write write;
    write.digest = Xxh3_128(AsBytes(bytes));
    write.sent = sent;
    Request request;
    request.type = FrameType::kWrite;
    request.region = grant.region;
    request.generation = grant.generation;
    request.offset = chunk * kChunkBytes;
    request.body = EncodeMessage(write);
    request.payload = AsBytes(bytes);
    return request;
  }

  absl::Status Put(const OfferReply& grant, uint32_t chunk, const std::string& bytes,
                   const Digest128& digest) {
    Write write;
    write.digest = digest;
    Request request = WriteOf(grant, chunk, bytes);
    request.body = EncodeMessage(write);
    return Call(std::move(request)).status();
  }

  // Sends it, and does not wait for the answer: null until it is there.
  std::shared_ptr<std::optional<absl::StatusOr<Reply>>> Begin(Request request) {
    auto answer = std::make_shared<std::optional<absl::StatusOr<Reply>>>();
    life.loop.Spawn(RunBegun(&life.loop, session, std::move(request), answer));
    return answer;
  }

  static Task<void> RunBegun(Loop* loop, std::shared_ptr<Session> session, Request request,
                             std::shared_ptr<std::optional<absl::StatusOr<Reply>>> answer) {
    const TimePoint deadline = Add(loop->Now(), 30s);
    absl::StatusOr<Reply> reply =
        co_await session->Call(std::move(request), MutableByteSpan(), deadline);
    *answer =
        reply.ok() && !reply->status.ok() ? absl::StatusOr<Reply>(reply->status) : std::move(reply);
  }

  absl::Status Seal(const OfferReply& grant, const ShardId& shard, const Digest128& root) {
    PeerSeal seal;
    seal.shard = shard;
    seal.root = root;
    Request request;
    request.type = FrameType::kPeerSeal;
    request.region = grant.region;
    request.generation = grant.generation;
    request.body = EncodeMessage(seal);
    return Call(std::move(request)).status();
  }
};

class ServerWorld {
 public:
  explicit ServerWorld(uint32_t servers, const ServerNode::Memory& memory = {32 * kMiB, 2 * kMiB},
                       bool tier = false)
      : world(1), memory_bytes(memory.bytes), slab_bytes(memory.slab_bytes), pace(memory.pace) {
    placement = std::make_unique<PlacementNode>(&world);
    for (uint32_t i = 0; i < servers; ++i) {
      disks.push_back(std::make_unique<SimDiskState>());
      tiers.push_back(tier ? std::make_unique<SimPersistState>() : nullptr);
      nodes.push_back(nullptr);
      keepers.push_back(nullptr);
      if (memory.kept) {
        StartKeeper(i);
      }
      GEMEL_CHECK(Start(i).ok()) << "server " << i;
    }
    world.RunFor(200ms);
  }

  ServerNode::Memory MemoryOf(uint32_t i) const {
    return {memory_bytes, slab_bytes, pace, keepers[i] != nullptr};
  }

  // A new life of server `i` on its old disk.
  absl::Status Start(uint32_t i) {
    nodes[i] = nullptr;
    nodes[i] = std::make_unique<ServerNode>(&world, "server-" + std::to_string(i), disks[i].get(),
                                            MemoryOf(i), tiers[i].get());
    return nodes[i]->life.Run(nodes[i]->server->Start());
  }

  void Kill(uint32_t i) { nodes[i] = nullptr; }

  // A keeper, empty, in the place of the one there was.
  void StartKeeper(uint32_t i) {
    keepers[i] = nullptr;
    keepers[i] = std::make_unique<KeeperNode>(&world, "server-" + std::to_string(i));
  }

  Server& server(uint32_t i) { return *nodes[i]->server; }

  FakePlacement& fake() { return placement->fake; }

  // Does a directive; its result.
  pb::DirectiveResult Do(uint32_t i, pb::Directive directive) {
    const std::string name = "server-" + std::to_string(i);
    const uint64_t id = fake().Direct(name, std::move(directive));
    const bool done = world.RunUntil([&] { return fake().ResultOf(name, id) != nullptr; });
    GEMEL_CHECK(done) << "directive " << id << " has no result";
    return *fake().ResultOf(name, id);
  }

  // Saves rank 0 of 1 at server 0 and waits for the commit.
  absl::StatusOr<OpenShardReply> Commit(TestClient* client, const std::string& name, uint64_t bytes,
                                        uint32_t copies = 2) {
    absl::StatusOr<OpenShardReply> opened = client->Save(name, 0, 1, bytes, copies);
    if (!opened.ok()) {
      return opened;
    }
    absl::StatusOr<AwaitCommitDone> done = client->Await(opened->snapshot, 0);
    if (!done.ok()) {
      return done.status();
    }
    GEMEL_CHECK(done->state == CommitState::kCommitted) << done->why;
    return opened;
  }

  // The same where it must work; the shard, once what the commit directs has been done.
  ShardId CommitShard(TestClient* client, const std::string& name, uint64_t bytes) {
    const auto opened = Commit(client, name, bytes);
    GEMEL_CHECK(opened.ok()) << opened.status().ToString();
    world.RunFor(100ms);
    return ShardId{opened->snapshot, 0};
  }

  World world;
  uint64_t memory_bytes;
  uint64_t slab_bytes;
  const ServerNode::Pace pace;
  std::unique_ptr<PlacementNode> placement;
  std::vector<std::unique_ptr<SimDiskState>> disks;
  std::vector<std::unique_ptr<SimPersistState>> tiers;  // null: none
  std::vector<std::unique_ptr<KeeperNode>> keepers;     // null: none
  std::vector<std::unique_ptr<ServerNode>> nodes;
};

inline int CodeOf(const absl::Status& status) { return static_cast<int>(status.code()); }

}  // namespace gemel::testing

// SPDX-License-Identifier: Apache-2.0
//
// One input of the server fuzzers: processes of a host and other servers send a server any frames,
// before and after their hello, in any order, with handles and payloads, and leave at any time. The
// servers and placement are the production code on the simulator's cluster. No server may end, and
// each must still answer a new client afterwards.
//
// Thread safety: one thread. An input that breaks an invariant ends the process.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "common/errors.h"
#include "gemel/v1/placement.pb.h"
#include "placement/model/protocol.h"
#include "tests/fuzz/server_messages.h"
#include "tests/sim/cluster.h"
#include "transport/addresses.h"
#include "transport/control/rpc.h"

namespace gemel {

class ServerTarget {
 public:
  // First byte: the size of objects, and bit 2: begin with the hellos of a client and of a peer.
  // Returns the requests that were answered OK.
  size_t Run(ByteSpan input) {
    Choices choices(input);
    const uint8_t shape = choices.Byte();
    StartCluster();
    messages_.set_size(shape & 3);
    if ((shape & 4) != 0) {
      Open(false, 0);
      Open(true, 0);
      SayHello(0);
      SayHello(1);
    }
    for (int step = 0; step < kStepsMax && !choices.empty(); ++step) {
      Step(&choices);
    }
    RunFor(1s);
    CheckServing();
    speakers_.clear();
    return answered_ok_;
  }

  // The code of a server's answer to one message of a peer: for inputs that were found once.
  absl::StatusCode OfferOf(uint64_t bytes) {
    StartCluster();
    Open(true, 0);
    SayHello(0);
    Offer offer;
    offer.shard.snapshot = {"gpt", {1, 1}, 1, "s0", 0};
    offer.token.bytes[0] = 1;
    offer.bytes = bytes;
    OutgoingFrame frame;
    frame.header.type = FrameType::kOffer;
    frame.body = EncodeMessage(offer);
    SendFrame(speakers_[0].get(), std::move(frame));
    RunFor(1s);
    const absl::StatusCode code = last_code_;
    CheckServing();
    speakers_.clear();
    return code;
  }

 private:
  static constexpr int kStepsMax = 64;
  static constexpr size_t kSpeakersMax = 4;
  static constexpr uint64_t kEventsMax = 3'000'000;
  static constexpr uint32_t kServers = 2;

  // One process with one connection.
  struct Speaker final : ConnectionEvents {
    Speaker(ServerTarget* target, uint32_t host)
        : target(target), node(target->cluster_->StartTrainer(host)) {}

    ~Speaker() override {
      node->world->Kill(node->process);
      node->loop.Kill();
      connection.reset();
    }

    Placement PlacePayload(const FrameHeader&, std::string_view) override { return Placement(); }

    void OnFrame(IncomingFrame frame) override {
      target->last_code_ = static_cast<absl::StatusCode>(frame.header.status);
      if (frame.header.is_reply() && frame.header.status == 0) {
        const auto asked = requests.find(frame.header.op);
        if (asked != requests.end()) {
          target->answered_ok_ += 1;
          target->messages_.Learn(asked->second, frame.body);
          requests.erase(asked);
        }
      }
    }

    void OnClosed(absl::Status) override { closed = true; }

    ServerTarget* const target;
    std::unique_ptr<sim::Node> node;
    bool peer = false;
    bool closed = false;
    uint64_t next_op = 1;
    std::map<uint64_t, FrameType> requests;
    std::unique_ptr<Connection> connection;
  };

  void StartCluster() {
    sim::ClusterShape shape;
    shape.servers = kServers;
    shape.memory_bytes = 12 * kMiB;
    cluster_ = std::make_unique<sim::Cluster>(1, shape);
    cluster_->StartPlacement(0);
    for (uint32_t i = 0; i < kServers; ++i) {
      cluster_->StartServer(i);
    }
    RunFor(500ms);
    LearnMembers();
  }

  // Ids and addresses of the servers, as `gemel status` learns them.
  void LearnMembers() {
    const auto node = cluster_->StartTrainer(0);
    auto channel = SimRpcChannel::Create(node->process, "sim://placement/7601");
    GEMEL_CHECK(channel.ok());
    node->loop.Spawn(AskStatus(this, channel->get(), node->loop.Now()));
    RunFor(50ms);
    node->world->Kill(node->process);
    node->loop.Kill();
    GEMEL_CHECK_EQ(status_.map().members_size(), static_cast<int>(kServers));
    messages_.cluster = *ClusterId::FromBytes(status_.cluster_id());
    for (const v1::Member& member : status_.map().members()) {
      const auto index = static_cast<size_t>(member.name().back() - '0');
      addresses_[index] = SplitAddresses(member.data_address()).front();
      if (index == 1) {
        messages_.server = *ServerId::FromBytes(member.server_id());
        messages_.incarnation = *Incarnation::FromBytes(member.incarnation());
      }
    }
  }

  static Task<void> AskStatus(ServerTarget* target, RpcChannel* channel, TimePoint now) {
    v1::GetStatusRequest request;
    request.mutable_caller()->set_protocol_version(kControlProtocolVersion);
    absl::StatusOr<v1::GetStatusReply> reply = co_await CallRpc<v1::GetStatusReply>(
        channel, "GetStatus", std::move(request), Add(now, 1s));
    GEMEL_CHECK(reply.ok()) << ToText(reply.status());
    target->status_ = *std::move(reply);
  }

  void RunFor(Duration time) {
    const TimePoint limit = Add(cluster_->scheduler()->now(), time);
    const uint64_t before = cluster_->scheduler()->events_run();
    while (cluster_->scheduler()->RunOne(limit)) {
      GEMEL_CHECK_LT(cluster_->scheduler()->events_run() - before, kEventsMax) << "endless work";
    }
  }

  static Task<void> Connect(Speaker* speaker, std::string address) {
    const TimePoint deadline = Add(speaker->node->loop.Now(), 1s);
    auto connection = co_await speaker->node->net.Connect(std::move(address), deadline);
    GEMEL_CHECK(connection.ok()) << ToText(connection.status());
    speaker->connection = *std::move(connection);
    speaker->connection->Start(speaker);
  }

  Speaker* Open(bool peer, uint32_t server) {
    if (speakers_.size() == kSpeakersMax) {
      speakers_.erase(speakers_.begin());
    }
    speakers_.push_back(std::make_unique<Speaker>(this, peer ? 1 - server : server));
    Speaker* speaker = speakers_.back().get();
    speaker->peer = peer;
    const std::string address = peer ? addresses_[server] : sim::Cluster::SocketOf(server);
    speaker->node->loop.Spawn(Connect(speaker, address));
    RunFor(20ms);
    GEMEL_CHECK(speaker->connection != nullptr) << "the server does not accept";
    return speaker;
  }

  static Task<void> Send(Speaker* speaker, OutgoingFrame frame) {
    (co_await speaker->connection->Send(std::move(frame))).IgnoreError();
  }

  void SendFrame(Speaker* speaker, OutgoingFrame frame) {
    if (speaker->closed) {
      return;
    }
    frame.header.op = speaker->next_op++;
    if (!frame.header.is_reply()) {
      speaker->requests[frame.header.op] = frame.header.type;
    }
    speaker->node->loop.Spawn(Send(speaker, std::move(frame)));
    RunFor(5ms);
  }

  void SayHello(size_t index) {
    Speaker* speaker = speakers_[index].get();
    OutgoingFrame frame;
    if (speaker->peer) {
      PeerHello hello;
      hello.cluster = messages_.cluster;
      hello.server = messages_.server;
      hello.incarnation = messages_.incarnation;
      hello.server_name = "server-1";
      frame.header.type = FrameType::kPeerHello;
      frame.body = EncodeMessage(hello);
    } else {
      ClientHello hello;
      hello.pid = speaker->node->process->pid();
      frame.header.type = FrameType::kClientHello;
      frame.body = EncodeMessage(hello);
      frame.handles = {*speaker->node->host.OwnProcess()};
    }
    SendFrame(speaker, std::move(frame));
  }

  void Step(Choices* choices) {
    static constexpr Duration kTimes[] = {0ms, 1ms, 20ms, 300ms, 2s, 12s};
    const size_t step = choices->Below(16);
    if (step == 0 || speakers_.empty()) {
      Open(choices->Below(2) == 1, static_cast<uint32_t>(choices->Below(kServers)));
      if (choices->Below(4) != 0) {
        SayHello(speakers_.size() - 1);
      }
    } else if (step == 1) {
      RunFor(kTimes[choices->Below(std::size(kTimes))]);
    } else if (step == 2) {
      speakers_.erase(speakers_.begin() + static_cast<ptrdiff_t>(choices->Below(speakers_.size())));
    } else if (step == 3) {
      SayHello(choices->Below(speakers_.size()));
    } else {
      SendFrame(speakers_[choices->Below(speakers_.size())].get(), MakeFrame(choices));
    }
  }

  OutgoingFrame MakeFrame(Choices* choices) {
    const std::vector<FrameType>& types = ServerMessages::Types();
    OutgoingFrame frame;
    frame.header.type = types[choices->Below(types.size())];
    const uint8_t odd = choices->Byte();
    frame.header.flags = odd == 255 ? kFlagReply : 0;
    frame.header.region = messages_.NumberLike("region", choices);
    frame.header.generation = messages_.NumberLike("generation", choices);
    frame.header.offset = choices->Below(4) * kChunkBytes;
    frame.body = messages_.Make(frame.header.type, choices);
    if (frame.header.type == FrameType::kWrite || odd == 254) {
      const uint64_t bytes = std::min(messages_.object_bytes(), kChunkBytes);
      frame.payload = ServerMessages::Zeros().first(odd < 250 ? bytes : choices->Below(200));
    }
    return frame;
  }

  // A new client is answered by each server.
  void CheckServing() {
    for (uint32_t i = 0; i < kServers; ++i) {
      Open(false, i);
      SayHello(speakers_.size() - 1);
      const size_t before = answered_ok_;
      RunFor(1s);
      const Speaker& fresh = *speakers_.back();
      GEMEL_CHECK(fresh.requests.empty() && !fresh.closed)
          << "server " << i << " answers no more, " << before << " answered";
    }
  }

  ServerMessages messages_;
  v1::GetStatusReply status_;
  std::map<size_t, std::string> addresses_;
  size_t answered_ok_ = 0;
  absl::StatusCode last_code_ = absl::StatusCode::kUnknown;  // of the newest answer
  std::unique_ptr<sim::Cluster> cluster_;
  std::vector<std::unique_ptr<Speaker>> speakers_;
};

}  // namespace gemel

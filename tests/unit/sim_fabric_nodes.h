// SPDX-License-Identifier: Apache-2.0
//
// What the tests of transport/sim share: a world with processes to kill, and the far end of a
// connection. Thread safety: one thread. Ownership: a test's values; a Life is destroyed before its
// World.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "common/errors.h"
#include "common/sim_loop.h"
#include "transport/sim/sim_host.h"
#include "transport/sim/sim_net.h"
#include "transport/sim/sim_world.h"

namespace gemel::testing {

struct World {
  explicit World(uint64_t seed) : world(&scheduler, Random(seed)) {}

  SimScheduler scheduler;
  SimWorld world;

  TimePoint In(Duration delay) const { return Add(scheduler.now(), delay); }

  bool RunUntil(const std::function<bool()>& done, Duration limit = 60s) {
    return scheduler.RunUntil(done, In(limit));
  }

  void RunFor(Duration time) {
    scheduler.RunUntil([] { return false; }, In(time));
  }
};

// One life of a process.
struct Life {
  Life(World* world, const std::string& node)
      : world(world),
        loop(&world->scheduler),
        process(world->world.StartProcess(node, &loop)),
        net(process),
        host(process) {}

  ~Life() { Kill(); }

  Life(const Life&) = delete;
  Life& operator=(const Life&) = delete;

  void Kill() {
    world->world.Kill(process);
    if (!loop.is_shut_down()) {
      loop.Kill();
    }
  }

  // Runs `task` to its end.
  template <typename T>
  T Run(Task<T> task, Duration limit = 60s) {
    auto result = std::make_shared<std::optional<T>>();
    loop.Spawn(Keep(std::move(task), result));
    EXPECT_TRUE(world->RunUntil([result] { return result->has_value(); }, limit));
    return std::move(result->value());
  }

  template <typename T>
  static Task<void> Keep(Task<T> task, std::shared_ptr<std::optional<T>> result) {
    T value = co_await std::move(task);
    result->emplace(std::move(value));
  }

  World* world;
  SimLoop loop;
  std::shared_ptr<SimNodeProcess> process;
  SimNet net;
  SimHost host;
};

// Keeps what a connection hands out. Payloads go to `place`, if there is one.
class Recorder : public ConnectionEvents {
 public:
  Placement PlacePayload(const FrameHeader& header, std::string_view /*body*/) override {
    placed.push_back(header);
    return choose ? choose(header) : Placement();
  }

  void OnFrame(IncomingFrame frame) override { frames.push_back(std::move(frame)); }

  void OnClosed(absl::Status why) override { closed.push_back(std::move(why)); }

  std::function<Placement(const FrameHeader&)> choose;
  std::vector<FrameHeader> placed;
  std::vector<IncomingFrame> frames;
  std::vector<absl::Status> closed;
};

inline OutgoingFrame FrameOf(FrameType type, uint64_t op, std::string body = "",
                             ByteSpan payload = {}) {
  OutgoingFrame frame;
  frame.header.type = type;
  frame.header.op = op;
  frame.body = std::move(body);
  frame.payload = payload;
  return frame;
}

// A connection between two processes, both ends started. Destroyed before the lives.
struct Link {
  Link(Life* client, Life* server, const std::string& address) {
    listener = *server->net.Listen(
        address, [this](std::unique_ptr<Connection> c) { server_side = std::move(c); });
    auto made = client->Run(client->net.Connect(listener->address(), client->world->In(5s)));
    EXPECT_TRUE(made.ok()) << made.status();
    client_side = *std::move(made);
    EXPECT_TRUE(client->world->RunUntil([this] { return server_side != nullptr; }));
    client_side->Start(&client_events);
    server_side->Start(&server_events);
  }

  Recorder client_events;
  Recorder server_events;
  std::unique_ptr<Listener> listener;
  std::unique_ptr<Connection> client_side;
  std::unique_ptr<Connection> server_side;
};

}  // namespace gemel::testing

// SPDX-License-Identifier: Apache-2.0
//
// What a server says to its gemel-keeper (docs/formats/keeper.md), in frames over a unix socket.
//
// A request is answered in the same frame type. An error is a status code in the header and a
// sentence in the body. Handles travel with the frame, one for each item, in order.
//
// Thread safety: values.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "common/ids.h"
#include "server/keeper/keeper.h"
#include "transport/frame.h"

namespace gemel {

constexpr uint32_t kKeeperProtocolVersion = 1;
constexpr size_t kKeptPerFrameMax = kFrameHandlesMax;
// Directories of two lives, 65,536 slabs, clients that live or whose slabs are not given up yet.
constexpr size_t kKeptItemsMax = 2 + 65'536 + 16'384;

// First message; handle: the server's own process (pidfd).
struct KeeperHello {
  static constexpr std::string_view kName = "keeper hello";
  uint32_t version = kKeeperProtocolVersion;
  std::string server_name;
  ServerId server;
  ClusterId cluster;  // zero before the first join
  Incarnation incarnation;

  static void Fields(auto& m, auto&& field) {
    field("version", m.version);
    field("server_name", m.server_name);
    field("server", m.server);
    field("cluster", m.cluster);
    field("incarnation", m.incarnation);
  }
};

struct KeeperHelloReply {
  static constexpr std::string_view kName = "keeper hello reply";
  uint32_t version = kKeeperProtocolVersion;
  uint32_t items = 0;

  static void Fields(auto& m, auto&& field) {
    field("version", m.version);
    field("items", m.items);
  }
};

// Items from the `first`-th on, in order of name; as many as one frame takes.
struct KeeperTake {
  static constexpr std::string_view kName = "keeper take";
  uint32_t first = 0;

  static void Fields(auto& m, auto&& field) { field("first", m.first); }
};

// Handles: one an item.
struct KeeperTakeReply {
  static constexpr std::string_view kName = "keeper take reply";
  std::vector<KeptName> items;  // none: there are no more

  static void Fields(auto& m, auto&& field) { field("items", m.items); }
};

// Handles: one an item. An item of the same name is replaced.
struct KeeperGive {
  static constexpr std::string_view kName = "keeper give";
  std::vector<KeptName> items;

  static void Fields(auto& m, auto&& field) { field("items", m.items); }
};

// Items that are not kept are left out without a word.
struct KeeperForget {
  static constexpr std::string_view kName = "keeper forget";
  std::vector<KeptName> items;

  static void Fields(auto& m, auto&& field) { field("items", m.items); }
};

// A reply without fields.
struct KeeperDone {
  static constexpr std::string_view kName = "keeper acknowledgement";

  static void Fields(auto&, auto&&) {}
};

static_assert(kKeptPerFrameMax <= 253);  // descriptors that the kernel takes in one message

}  // namespace gemel

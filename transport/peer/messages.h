// SPDX-License-Identifier: Apache-2.0
//
// What servers say to each other (docs/formats/messages.md). A shard is replicated by
// Offer → grant, Write … Write (any order, any session of the granted writer), PeerSeal; and read
// by Describe, Read … Read. Region, generation and offset of Write, PeerSeal and Revoke are in the
// header.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "common/digest.h"
#include "common/ids.h"

namespace gemel {

constexpr uint32_t kPeerProtocolVersion = 1;

// What a server understands that servers of the same version may not; bits of PeerHello.features.
constexpr uint32_t kPeerCancels = 1;  // kCancel

// In the header's offset of a hello: its sender reads `features` in the reply, which others would
// refuse. A server that does not know of it does not look there.
constexpr uint64_t kHelloReadsFeatures = 1;

// First message of the connecting side; the reply is the other's own.
struct PeerHello {
  static constexpr std::string_view kName = "peer hello";
  uint32_t version = kPeerProtocolVersion;
  ClusterId cluster;
  ServerId server;
  Incarnation incarnation;
  std::string server_name;
  uint32_t features = 0;  // in a reply to who reads them

  static void Fields(auto& m, auto&& field) {
    field("version", m.version);
    field("cluster", m.cluster);
    field("server", m.server);
    field("incarnation", m.incarnation);
    field("server_name", m.server_name);
    field.Last("features", m.features);
  }
};

// Whether a grant is written only as far as the holder gives credit (transport/admission.h).
enum class GrantLimit : uint8_t {
  kNone = 0,    // all at once
  kCredit = 1,  // the sender asks with AskCredit; the answers to its writes tell, too
};

constexpr bool IsValid(GrantLimit limit) { return limit <= GrantLimit::kCredit; }

// Asks for staging memory for one copy of a shard. A new offer of the same shard ends the old
// grant.
struct Offer {
  static constexpr std::string_view kName = "offer";
  ShardId shard;
  EpochToken token;
  uint64_t bytes = 0;
  uint64_t layout_bytes = 0;
  GrantLimit limit = GrantLimit::kNone;  // that the sender keeps to

  static void Fields(auto& m, auto&& field) {
    field("shard", m.shard);
    field("token", m.token);
    field("bytes", m.bytes);
    field("layout_bytes", m.layout_bytes);
    field.Last("limit", m.limit);
  }
};

struct OfferReply {
  static constexpr std::string_view kName = "offer reply";
  bool already_sealed = false;  // the holder has this shard with `root`: nothing to send
  Digest128 root;
  uint64_t region = 0;
  uint64_t generation = 0;
  GrantLimit limit = GrantLimit::kNone;  // kCredit: none is given yet

  static void Fields(auto& m, auto&& field) {
    field("already_sealed", m.already_sealed);
    field("root", m.root);
    field("region", m.region);
    field("generation", m.generation);
    field.Last("limit", m.limit);
  }
};

// So many chunks of a grant (in the header) could be sent, those that were sent included. Answered
// when more than `have` may be sent, at the latest after kCreditHold.
struct AskCredit {
  static constexpr std::string_view kName = "ask credit";
  uint32_t wanted = 0;
  uint32_t have = 0;

  static void Fields(auto& m, auto&& field) {
    field("wanted", m.wanted);
    field("have", m.have);
  }
};

// How many different chunks of the grant may have been sent, ever: never less than before, so that
// a late or repeated one does no harm. The answer to AskCredit, and to each Write of a grant with a
// limit.
struct Credit {
  static constexpr std::string_view kName = "credit";
  uint32_t chunks = 0;

  static void Fields(auto& m, auto&& field) { field("chunks", m.chunks); }
};

enum class WriteSent : uint8_t {
  kOnce = 0,
  kAgain = 1,  // the first is late on another lane: this one takes the slice over
};

constexpr bool IsValid(WriteSent sent) { return sent <= WriteSent::kAgain; }

// One chunk, the payload. Answered at level PLACED with its digest checked.
struct Write {
  static constexpr std::string_view kName = "write";
  Digest128 digest;
  WriteSent sent = WriteSent::kOnce;

  static void Fields(auto& m, auto&& field) {
    field("digest", m.digest);
    field.Last("sent", m.sent);
  }
};

// Fence, digest, receipt (DESIGN section 3.5). Answered OK when the copy is sealed under `root`:
// VERIFIED.
struct PeerSeal {
  static constexpr std::string_view kName = "peer seal";
  ShardId shard;
  Digest128 root;

  static void Fields(auto& m, auto&& field) {
    field("shard", m.shard);
    field("root", m.root);
  }
};

// Ends a grant; its memory is freed.
struct Revoke {
  static constexpr std::string_view kName = "revoke";
  ShardId shard;

  static void Fields(auto& m, auto&& field) { field("shard", m.shard); }
};

// Asks for the chunk digests of a sealed shard.
struct Describe {
  static constexpr std::string_view kName = "describe";
  ShardId shard;
  Digest128 root;

  static void Fields(auto& m, auto&& field) {
    field("shard", m.shard);
    field("root", m.root);
  }
};

// The reader checks them against the root before it uses any.
struct DescribeReply {
  static constexpr std::string_view kName = "describe reply";
  uint64_t bytes = 0;
  uint64_t layout_bytes = 0;
  std::vector<Digest128> digests;

  static void Fields(auto& m, auto&& field) {
    field("bytes", m.bytes);
    field("layout_bytes", m.layout_bytes);
    field("digests", m.digests);
  }
};

// One chunk of a sealed shard; the reply's payload. DataLoss when the holder's copy fails its
// digest.
struct Read {
  static constexpr std::string_view kName = "read";
  ShardId shard;
  Digest128 root;
  uint32_t chunk = 0;

  static void Fields(auto& m, auto&& field) {
    field("shard", m.shard);
    field("root", m.root);
    field("chunk", m.chunk);
  }
};

}  // namespace gemel

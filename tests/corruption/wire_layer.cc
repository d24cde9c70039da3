// SPDX-License-Identifier: Apache-2.0
//
// The wire: one write of a chunk into a grant, as a stream of bytes through FrameReader,
// RegionTable and the seal. A holder has grants for two shards, so that a frame can land in the
// wrong one.
#include <algorithm>
#include <cstring>

#include "common/bytes.h"
#include "common/codec.h"
#include "common/crc32c.h"
#include "common/fields.h"
#include "server/objects.h"
#include "tests/corruption/layers.h"
#include "transport/frame.h"
#include "transport/frame_reader.h"
#include "transport/peer/messages.h"
#include "transport/region.h"

namespace gemel {
namespace {

constexpr uint64_t kBytesMax = 4096;  // of a shard here

class Wire final : public Layer {
 public:
  std::string_view name() const override { return "wire"; }

  std::string Bytes(const Item& item) const override;
  Reading Read(const Item& wanted, const std::string& bytes) const override;
};

// The holder's side of one connection.
struct Holding {
  explicit Holding(const Item& wanted)
      : memory(kBytesMax), other_memory(kBytesMax), bytes(ContentOf(wanted).size()) {
    // Grants are numbered as they are opened: that of an even identity first.
    const Item other{.identity = wanted.identity ^ 1, .version = wanted.version};
    const uint64_t other_bytes = ContentOf(other).size();
    const auto grant_of = [this](std::vector<std::byte>* into, uint64_t size) {
      return table.Open({MutableByteSpan(*into)}, size, Incarnation());
    };
    const bool first = wanted.identity % 2 == 0;
    const Grant one = first ? grant_of(&memory, bytes) : grant_of(&other_memory, other_bytes);
    const Grant two = first ? grant_of(&other_memory, other_bytes) : grant_of(&memory, bytes);
    grant = first ? one : two;
  }

  RegionTable table;
  std::vector<std::byte> memory;
  std::vector<std::byte> other_memory;
  const uint64_t bytes;
  Grant grant;
};

std::string Wire::Bytes(const Item& item) const {
  const std::string content = ContentOf(item);
  Write write;
  write.digest = DigestsOf(content).front();
  const std::string body = EncodeMessage(write);
  const Holding holding(item);
  FrameHeader header;
  header.type = FrameType::kWrite;
  header.op = 100 + item.version;
  header.region = holding.grant.region;
  header.generation = holding.grant.generation;
  header.body_bytes = static_cast<uint32_t>(body.size());
  header.payload_bytes = static_cast<uint32_t>(content.size());
  header.body_crc32c = Crc32c(AsBytes(body));
  const auto encoded = EncodeFrameHeader(header);
  return std::string(encoded.begin(), encoded.end()) + body + content;
}

// What the holder does with the bytes of one connection until it ends; true when a write was
// placed.
bool Receive(Holding* holding, std::string_view stream) {
  FrameReader reader;
  bool placed = false;
  bool granted = false;
  while (!stream.empty()) {
    const MutableByteSpan target = reader.Target();
    const size_t take = std::min(target.size(), stream.size());
    std::memcpy(target.data(), stream.data(), take);
    stream.remove_prefix(take);
    absl::StatusOr<FrameProgress> progress = reader.Advance(take);
    if (!progress.ok()) {
      return placed;
    }
    if (*progress == FrameProgress::kPlace) {
      absl::StatusOr<Placement> placement = error::NotFound("not a write");
      if (reader.header().type == FrameType::kWrite) {
        placement = holding->table.BeginPlacing(reader.header(), {holding});
      }
      granted = placement.ok();
      reader.Place(granted ? *std::move(placement) : Placement());
      continue;
    }
    if (*progress == FrameProgress::kFrame) {
      const IncomingFrame frame = reader.Take();
      const absl::StatusOr<Write> write = DecodeMessage<Write>(frame.body);
      if (granted && write.ok()) {
        placed =
            holding->table.FinishPlacing(frame.header, write->digest, holding, frame.landed).ok() ||
            placed;
      }
      granted = false;
    }
  }
  return placed;
}

Reading Wire::Read(const Item& wanted, const std::string& bytes) const {
  Holding holding(wanted);
  if (!Receive(&holding, bytes)) {
    return Reading::kRefused;
  }
  // Fence, digest, receipt: the seal compares with the root of the sender.
  const auto closed = holding.table.Close(holding.grant.region, holding.grant.generation);
  if (!closed.ok() || !closed->complete ||
      RootOf(ShardOf(wanted), closed->digests, holding.bytes) != CommittedRoot(wanted)) {
    return Reading::kRefused;
  }
  const std::string content = ContentOf(wanted);
  const bool right = std::memcmp(holding.memory.data(), content.data(), content.size()) == 0;
  return right ? Reading::kRight : Reading::kWrong;
}

}  // namespace

std::unique_ptr<Layer> WireLayer() { return std::make_unique<Wire>(); }

}  // namespace gemel

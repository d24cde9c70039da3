// SPDX-License-Identifier: Apache-2.0
//
// What the golden tests share: bytes as hexadecimal, ids of counted bytes, one snapshot with its
// bytes.
//
// Thread safety: pure.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <string_view>

#include "absl/strings/escaping.h"

#include "common/fields.h"
#include "common/ids.h"

namespace gemel {

inline std::string BytesToHex(std::string_view bytes) {
  return absl::BytesToHexString({bytes.data(), bytes.size()});
}

// 16 bytes that count up from `first`.
template <typename Id>
Id IdOf(uint8_t first) {
  Id id;
  for (size_t i = 0; i < id.bytes.size(); ++i) {
    id.bytes[i] = static_cast<uint8_t>(first + i);
  }
  return id;
}

inline SnapshotId GoldenSnapshot() {
  return {
      "gpt", {0x01c7c6c5c4c3c2c1, 0x02d7d6d5d4d3d2d1}, 0x03f7f6f5f4f3f2f1, "step-7", 0xbebdbcbb};
}

inline const std::string kSnapshotHex =
    "03000000677074"        // job
    "c1c2c3c4c5c6c701"      // epoch.generation
    "d1d2d3d4d5d6d702"      // epoch.counter
    "f1f2f3f4f5f6f703"      // sequence
    "06000000737465702d37"  // name
    "bbbcbdbe";             // attempt

inline ShardId GoldenShard() { return {GoldenSnapshot(), 0xe4e3e2e1}; }

inline const std::string kShardHex = kSnapshotHex + "e1e2e3e4";  // rank

// `message` has these bytes, and these bytes are read as it.
template <typename Message>
void ExpectMessage(const Message& message, const std::string& hex) {
  const std::string raw = EncodeMessage(message);
  EXPECT_EQ(BytesToHex(raw), hex);
  const absl::StatusOr<Message> back = DecodeMessage<Message>(raw);
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(EncodeMessage(*back), raw);
}

}  // namespace gemel

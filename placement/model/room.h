// SPDX-License-Identifier: Apache-2.0
//
// PlaceShard: which members keep a shard, decided when its rank opens it, from what the strategy
// says and from the room that there is (admission.h says what a copy takes).
//
// The first copy is local and can be nowhere else. The others lie where they are preferred to,
// which is where the strategy puts them, when that fits; otherwise where there is room, by the
// rules of repair.h, which give up no domain for it. The first of these that fits is taken:
//   1. the preferred members, when each also has room for the local copies that it still expects,
//   2. others that have room for these too,
//   3. the preferred members, whatever is still expected,
//   4. others, whatever is still expected.
// 1. and 2. come first because a local copy that finds its room taken ends the save. Nothing is
// refused for an expectation: ranks may come otherwise than expected. When nothing fits now, the
// shard waits for the open saves if that helps (3. or 4.), else it is refused.
//
// The order of the candidates does not look at how much room they have, only whether it is enough,
// so a few bytes more or less move nothing. One shard is placed at a time: a later one moves no
// earlier one, so of several that compete for the last room one may be refused that another order
// had fitted.
//
// Thread safety: pure function. Deterministic: depends on its arguments only.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/status.h"

#include "placement/model/admission.h"
#include "placement/model/repair.h"

namespace gemel::model {

struct ShardRequest {
  uint64_t bytes = 0;
  // The owner first, then where its copies should lie. REQUIRES: as long as the planner's shards
  // are (for an owner that is not placeable one more), by the domain rules.
  std::vector<uint32_t> preferred;
};

// Asked only for members that come into question: mostly the preferred ones.
struct SnapshotRoom {
  std::function<ServerMemory(uint32_t member)> memory;      // each once
  std::function<uint64_t(uint32_t member)> staged_bytes;    // copies that were placed before
  std::function<uint64_t(uint32_t member)> expected_bytes;  // local copies of ranks yet to open
};

struct PlacedShard {
  Verdict verdict = Verdict::kAccept;
  std::vector<uint32_t> holders;  // kAccept: the owner first, then in the order to send in.
  bool elsewhere = false;         // kAccept: not the preferred ones.
  // Why not at the preferred ones, or not at all: RESOURCE_EXHAUSTED with the sizes of the server
  // that lacks most, and when refused what every other one has, and the way out. OK: they fit.
  absl::Status status;
};

// REQUIRES: `room` answers for each member of the planner's map.
PlacedShard PlaceShard(const RepairPlanner& planner, const ShardRequest& shard,
                       const SnapshotRoom& room);

}  // namespace gemel::model

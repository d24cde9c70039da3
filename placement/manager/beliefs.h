// SPDX-License-Identifier: Apache-2.0
//
// PlacementBeliefs: what a manager takes for true at this moment, for tests that can look up what
// is.
//
// Thread safety: plain data.
#pragma once

#include <cstdint>
#include <set>
#include <vector>

#include "common/ids.h"
#include "placement/model/cluster_map.h"

namespace gemel {

struct PlacementBeliefs {
  // A member that is alive has it, sealed, in its memory.
  struct Copy {
    Incarnation incarnation;
    ShardId shard;
  };

  // The disk of a member that is alive: all that is on it is known, and it works.
  struct Disk {
    Incarnation incarnation;
    std::set<ShardId> shards;
  };

  // A shard of an open save: the holders that are to have it, or have, and all members that have
  // reported.
  struct Planned {
    ShardId shard;
    uint32_t copies = 0;
    uint32_t level = 0;  // at which domains are told apart
    std::vector<model::Member> holders;
    std::vector<model::Member> members;
  };

  uint64_t term = 0;  // in which this manager leads
  std::vector<Copy> copies;
  std::vector<Disk> disks;
  std::vector<Planned> planned;
};

}  // namespace gemel

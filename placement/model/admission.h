// SPDX-License-Identifier: Apache-2.0
//
// Admission of a snapshot's memory, decided when it is opened. On every server that will hold a
// shard this has to fit into the memory reserved for snapshots:
//
//   committed + in flight + this snapshot's shards + one more copy of them for a pin
//
// The copy for a pin keeps saves going while persist or restore pins an older snapshot; what a pin
// holds already (part of `committed`) counts towards it, so a pin that is in use does not make the
// next save fail.
//
// Thread safety: pure functions; any thread. Sums that exceed 64 bits end the process.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"

#include "placement/model/assignment.h"

namespace gemel::model {

// Bytes that one server needs.
struct MemoryDemand {
  uint64_t committed_bytes = 0;
  uint64_t in_flight_bytes = 0;  // Reserved by saves that are open.
  uint64_t staging_bytes = 0;    // This snapshot's shards.
  uint64_t pin_bytes = 0;        // One more copy for a pin, less what pins hold already.

  uint64_t Total() const;
  // Total() once the open saves are done and what they replace is retired.
  uint64_t TotalWithoutInFlight() const;
};

// What one server has and holds.
struct ServerMemory {
  std::string name;
  uint64_t capacity_bytes = 0;  // Reserved for snapshots.
  uint64_t committed_bytes = 0;
  uint64_t in_flight_bytes = 0;
  uint64_t pinned_bytes = 0;  // Part of committed_bytes that only a pin keeps.
};

enum class Verdict : uint8_t {
  kAccept,
  kWait,    // Fits once the open saves are done.
  kRefuse,  // Does not fit even then.
};

struct Admission {
  Verdict verdict = Verdict::kAccept;
  // OK for kAccept; otherwise RESOURCE_EXHAUSTED for the server that lacks most: its name, what is
  // needed, what there is, and the ways out.
  absl::Status status;
  std::vector<MemoryDemand> demands;  // By member.
};

// The demand on one server that is to hold `staging_bytes` more.
MemoryDemand DemandOn(const ServerMemory& server, uint64_t staging_bytes);

// Bytes of new shards on each member, when owner i's shards have shard_bytes[i].
// REQUIRES: one entry a member; 0 bytes for owners without holders.
std::vector<uint64_t> StagingBytes(const Assignment& assignment,
                                   std::span<const uint64_t> shard_bytes);

// Decides for all servers; one that refuses outweighs one that waits.
// REQUIRES: servers and shard_bytes have one entry a member of the assignment.
Admission AdmitSnapshot(std::span<const ServerMemory> servers, const Assignment& assignment,
                        std::span<const uint64_t> shard_bytes);

}  // namespace gemel::model

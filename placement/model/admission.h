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

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"

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
  // OK for kAccept; otherwise Shortage() of the server that lacks most.
  absl::Status status;
  std::optional<size_t> worst;        // That server, of those asked.
  std::vector<MemoryDemand> demands;  // Of those asked.
};

// The demand on one server that is to hold `staging_bytes` more.
MemoryDemand DemandOn(const ServerMemory& server, uint64_t staging_bytes);

// RESOURCE_EXHAUSTED: the server's name, what is needed, what there is, `elsewhere` when it is not
// empty, and the ways out. REQUIRES: `verdict` is not kAccept; the demand exceeds the capacity.
absl::Status Shortage(const ServerMemory& server, const MemoryDemand& demand, Verdict verdict,
                      std::string_view elsewhere = "");

// Decides for servers of which each is to hold so many bytes of the snapshot; one that refuses
// outweighs one that waits. REQUIRES: as many entries in both.
Admission AdmitSnapshot(std::span<const ServerMemory> servers,
                        std::span<const uint64_t> staging_bytes);

}  // namespace gemel::model

// SPDX-License-Identifier: Apache-2.0
//
// RegionTable: memory that peers may write into, and the state of every slice of it (DESIGN section
// 7). A grant names {region, generation}; nobody writes without one; closing the region is the
// fence.
//
// Slice (= chunk) states:   empty → placing(lane) → placed → sealed
//   * a second write of a slice that is placing or placed is dropped into scratch and answered by
//     the state it finds, so a late, cut or corrupt duplicate never touches good bytes;
//   * one that its writer sent again because the first is late takes a placing slice over: what the
//     first lane still brings goes to scratch;
//   * a slice whose bytes do not match the digest sent with it goes back to empty and is counted;
//   * Close() revokes every placement in progress and ends the region: region ids and generations
//     never repeat, so a writer that held the grant finds neither. Only then may the content be
//     hashed or the memory be reused. A slice that was placed is sealed then.
//
// Thread safety: one loop.
// Ownership: spans are borrowed from the slabs' owner, valid until Close().
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

#include "common/bytes.h"
#include "common/digest.h"
#include "common/ids.h"
#include "transport/net.h"

namespace gemel {

// What the writer needs to know: a capability for one object's bytes.
struct Grant {
  uint64_t region = 0;
  uint64_t generation = 0;
  uint64_t bytes = 0;
};

enum class SliceState : uint8_t { kEmpty, kPlacing, kPlaced, kSealed };

class RegionTable {
 public:
  // `extents` in order make up the region; every one but the last is a multiple of kChunkBytes
  // long. `writer` is the peer that is granted it, zero: whoever comes; it may write over any lane.
  Grant Open(std::vector<MutableByteSpan> extents, uint64_t bytes, const Incarnation& writer);

  // One frame that wants to write.
  struct Arrival {
    const void* lane = nullptr;  // that brings it
    Incarnation writer{};        // whose lane that is
    bool again = false;          // sent again: it takes a slice over that another lane places
  };

  // From now on at most so many different slices are taken; at first all are.
  // REQUIRES: open.
  void SetCredit(uint64_t region, uint32_t slices);

  // Where a kWrite frame may put its payload: its slice, or nowhere with the reason:
  // FailedPrecondition (stale generation: fenced), NotFound (no such region), InvalidArgument
  // (misaligned, wrong length, outside), AlreadyExists (placed already), Unavailable (placing by
  // another lane), PermissionDenied (another writer than the grant's), ResourceExhausted (more
  // slices than there is credit for). On success the slice is placing.
  absl::StatusOr<Placement> BeginPlacing(const FrameHeader& header, const Arrival& arrival);

  // The payload is all there. Compares its digest, as DigestOf() has it, with `expected`: placed,
  // or DataLoss naming region, offset and both digests (slice empty again).
  absl::Status FinishPlacing(const FrameHeader& header, const Digest128& expected, const void* lane,
                             const std::optional<Digest128>& landed = std::nullopt);

  // A lane died: its slices that are placing become empty again.
  void AbandonLane(const void* lane);

  // The fence. `complete` when all slices were placed; their digests in order then. The region is
  // gone. NotFound and FailedPrecondition as BeginPlacing(): nothing changed.
  struct Closed {
    bool complete = false;
    uint32_t missing = 0;
    std::vector<Digest128> digests;
  };

  absl::StatusOr<Closed> Close(uint64_t region, uint64_t generation);

  bool Contains(uint64_t region) const { return regions_.contains(region); }

  // Whether that very grant is open.
  bool IsOpen(uint64_t region, uint64_t generation) const;

  // NotFound when there is no such slice.
  absl::StatusOr<SliceState> StateOf(uint64_t region, uint64_t offset) const;

  // Slices whose bytes did not match their digest, ever.
  uint64_t corrupt_slices() const { return corrupt_slices_; }

  size_t size() const { return regions_.size(); }

 private:
  struct Slice {
    SliceState state = SliceState::kEmpty;
    const void* lane = nullptr;  // who places it
    std::shared_ptr<Revocation> revocation;
    Digest128 digest;
  };

  struct Region {
    std::vector<MutableByteSpan> extents;
    uint64_t bytes = 0;
    uint64_t generation = 0;
    Incarnation writer;
    std::vector<Slice> slices;
    uint32_t credit = UINT32_MAX;
    uint32_t taken = 0;  // slices that are not empty
  };

  absl::StatusOr<Region*> Find(uint64_t region, uint64_t generation);
  static absl::Status CheckSlice(const FrameHeader& header, const Region& region);
  static Slice& SliceOf(const FrameHeader& header, Region* region);
  static MutableByteSpan SpanOf(const Region& region, uint64_t offset, uint64_t length);
  static void Revoke(Region* region, Slice* slice);

  std::map<uint64_t, Region> regions_;
  uint64_t next_region_ = 1;
  uint64_t next_generation_ = 1;
  uint64_t corrupt_slices_ = 0;
};

}  // namespace gemel

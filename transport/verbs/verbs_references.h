// SPDX-License-Identifier: Apache-2.0
//
// VerbsReferences: what this side lets its peer read where it lies, under windows of one queue
// pair, a window a piece: from when the piece is told to the peer until the peer has read it.
//
// Thread safety: one loop.
// Ownership: goes before its queue pair. The memory is the caller's, and stays while held.
// Invariants:
//   (1) pieces are released in the order in which they were referred to;
//   (2) a window is bound again only when the invalidation of its last binding was told.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <vector>

#include "common/bytes.h"
#include "transport/verbs/verbs_device.h"
#include "transport/verbs/verbs_hello.h"
#include "transport/verbs/verbs_queue_pair.h"

namespace gemel {

// Shorter pieces are copied: two copies of them cost less than a round trip.
inline constexpr size_t kVerbsReferredBytesMin = 32 * kKiB;
inline constexpr size_t kVerbsReferencesMax = 16;  // of a queue pair; what is beyond is copied

class VerbsReferences {
 public:
  VerbsReferences(VerbsDevice* device, VerbsQueuePair* pair);

  // Long enough, and registered.
  bool MayRefer(ByteSpan bytes) const;

  // Lets the peer read `bytes`, kVerbsReferredBytesMax at most, which begin at `begin` in the
  // stream. Nothing when they are to be copied: MayRefer() says so, or too many are held.
  std::optional<VerbsReference> Refer(ByteSpan bytes, uint64_t begin);

  // The peer has read the oldest `count`; false when it was told of fewer.
  bool OnRead(uint16_t count);
  void OnInvalidated(uint64_t window);

  // Where the oldest piece that is held begins in the stream; nothing when none is.
  std::optional<uint64_t> oldest() const;

  uint64_t made() const { return made_; }

  // The peer may read nothing more, whatever it was told. Before Fence() of the queue pair.
  void Free();

 private:
  struct Held {
    uint64_t window = 0;
    uint64_t begin = 0;
  };

  VerbsDevice* const device_;
  VerbsQueuePair* const pair_;
  std::vector<std::unique_ptr<VerbsWindow>> windows_;
  std::vector<uint64_t> free_;  // of them
  std::deque<Held> held_;
  uint64_t made_ = 0;
};

}  // namespace gemel

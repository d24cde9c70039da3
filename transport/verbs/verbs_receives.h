// SPDX-License-Identifier: Apache-2.0
//
// VerbsReceives: registered slots that are posted to one shared receive queue, from which all
// streams of a device receive (DESIGN section 7, docs/decisions/0017). The device takes a slot for
// a message of any of them; the completion queue of that stream's queue pair tells which.
//
// A stream brings credits: so many messages its peer may have under way, not given back. There are
// slots for all of them up to slots_max, made by blocks as streams come; beyond that they share.
//
// Thread safety: the device's loop.
// Ownership: shared by its streams, which come and go in any order, and go before the device. Owns
// slots, regions and queue. The bytes of a slot are its stream's from Take() to Return().
// Invariants, in slots:
//   (1) slots >= min(slots_max, credits + lost);
//   (2) taken <= slots_max / 4 whenever a stream is not just receiving: beyond that MayKeep() says
//       no, and the stream copies the message to memory of its own and returns the slot at once;
//   (3) lost <= slots_max * 5 / 8. A queue pair that ends may have taken one more than it told of:
//       a message that was arriving. Each one that was connected counts so; when there were
//       slots_max / 8, or slots_max / 2 streams are there, the next stream gets another
//       VerbsReceives, and these go with the last of theirs.
// So min(credits - taken, slots_max / 8) slots at least are posted, or told of to a stream that has
// not polled yet. Polling waits for nobody: no stream, slow or stopped, keeps what another one
// needs, and a message that finds no receive is sent again by the peer's device until there is one
// (kVerbsRetryForEver). Up to slots_max - lost credits none ever is. A stream that is connected and
// not open does not poll, for kVerbsHelloWithin at most.
//
// Why the event that a queue pair has taken its last receive (IBV_EVENT_QP_LAST_WQE_REACHED) is not
// waited for: it says when a slot is told of that the queue pair had taken. No memory depends on
// it, since a queue pair that is destroyed writes nowhere and slots outlive all of them; only the
// slot would be known again, and it is made up for by (1) and (3). A stream ends at once instead,
// which is its fence.
//
// Trusted: a peer that sends more than its credits takes receives of others until its stream polls,
// and breaks its own connection; what its completion queue cannot hold is lost beside (3).
#pragma once

#include <infiniband/verbs.h>

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"

#include "common/bytes.h"
#include "transport/verbs/verbs_device.h"

namespace gemel {

class VerbsReceives {
 public:
  struct Options {
    uint32_t slot_bytes = 16 * kKiB;
    uint32_t slots_max = 4096;  // REQUIRES: kSlotsMaxMin at least
  };

  static constexpr uint32_t kSlotsMaxMin = 8;
  static constexpr uint32_t kBlockSlots = 64;  // of one registration

  // For the next stream of `device`: those of the streams before, or new ones when there are none,
  // they have slots of other sizes, or (3) says so. Unimplemented: the device has no shared receive
  // queues; another error: it makes no more.
  static absl::StatusOr<std::shared_ptr<VerbsReceives>> Of(VerbsDevice* device,
                                                           const Options& options);
  VerbsReceives(const VerbsReceives&) = delete;
  VerbsReceives& operator=(const VerbsReceives&) = delete;
  // REQUIRES: no queue pair uses the queue.
  ~VerbsReceives();

  // For the options of a queue pair.
  ibv_srq* queue() const { return queue_; }

  // A stream comes, before its queue pair is connected. ResourceExhausted when its slots cannot be
  // pinned.
  absl::Status Attach(uint32_t credits);
  // It goes, when it has returned every slot and its queue pair is destroyed.
  void Detach(uint32_t credits, bool was_connected);

  // The device told that this slot holds something (or failed to); it is the stream's.
  void Take(uint64_t slot);

  // Of a slot that was just taken: whether the stream may return it when it likes; else it does so
  // before it polls again.
  bool MayKeep() const { return taken_ <= options_.slots_max / 4; }

  // Posted again at once. An error when the device takes none; it is posted with a later one.
  absl::Status Return(uint64_t slot);

  ByteSpan Slot(uint64_t slot) const;

  uint32_t slots() const { return static_cast<uint32_t>(is_taken_.size()); }

  uint32_t taken() const { return taken_; }

 private:
  struct Free {
    void operator()(std::byte* memory) const { std::free(memory); }
  };

  struct Block {
    std::unique_ptr<std::byte, Free> memory;
    std::unique_ptr<VerbsRegion> region;
  };

  VerbsReceives(VerbsDevice* device, const Options& options);

  static absl::StatusOr<std::shared_ptr<VerbsReceives>> Make(VerbsDevice* device, Options options);
  bool HasRoom() const;
  absl::Status AddBlock();
  absl::Status Post(uint64_t slot);
  absl::Status PostAll();

  VerbsDevice* const device_;
  const Options options_;
  const uint32_t block_slots_;
  ibv_srq* queue_ = nullptr;
  std::vector<Block> blocks_;
  std::vector<bool> is_taken_;      // by slot
  std::vector<uint64_t> unposted_;  // returned, and the device did not take them
  uint32_t taken_ = 0;
  uint32_t streams_ = 0;
  uint32_t credits_ = 0;  // of all of them
  uint32_t lost_ = 0;     // at most
};

}  // namespace gemel

// SPDX-License-Identifier: Apache-2.0
//
// Admission: how many slices may be on their way to this server at once, and of which transfers
// (DESIGN section 7). The receiver decides: a sender begins no more slices of a transfer than it
// was given credit for, so that many senders together never have more under way than the paths to
// here hold. After Homa (SIGCOMM'18) and EQDS (NSDI'22).
//
//   Begin() → Want(how many could come) → [given: credit rises] → Arrived() … → End()
//
// Who is next: of the classes by weight; within a class the transfer that has least to come, so
// that short ones do not wait for long ones; every 20th slice goes to the oldest one, so that long
// ones are never starved. While several want, none gets more than half of what may come: a sender
// that is slow itself does not leave the paths empty.
//
// A transfer of which nothing arrives although it has credit (its sender hangs, its path is cut)
// does not count after a while: what it holds others get too. It is still good for its credit.
//
// A pure policy: no time of its own, integers only, the same order on every machine.
// Thread safety: one loop.
// Invariants:
//   (1) what counts is never more than `slices_max` when a slice is given;
//   (2) arrived <= credit <= wanted <= slices, and none of them ever falls.
// Units: slices are chunks of 1 MiB.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <vector>

#include "common/time.h"

namespace gemel {

// By what it costs when they wait (DESIGN section 7, "Classes").
enum class TransferClass : uint8_t { kRestore, kKvRead, kCheckpoint, kRepair };
inline constexpr size_t kTransferClasses = 4;

class Admission {
 public:
  // With the transfer's credit, each time it has risen. It may call whatever it likes but End() of
  // its own transfer.
  using Given = std::function<void(uint32_t credit)>;

  // REQUIRES: slices_max > 0.
  explicit Admission(size_t slices_max);

  // A transfer of `slices` slices; its id, which never repeats. It wants nothing yet.
  uint64_t Begin(TransferClass of, uint32_t slices, Given given);

  // So many of its slices could come, those that came included. What is less than before is
  // ignored, so that repeats and stale ones do no harm; more than there are counts as all.
  void Want(uint64_t id, uint32_t slices, TimePoint now);

  // One more of its slices is here. REQUIRES: fewer than its credit were.
  void Arrived(uint64_t id, TimePoint now);

  // Nothing more comes of it. REQUIRES: begun, not ended.
  void End(uint64_t id, TimePoint now);

  // Gives what may be given: for what has fallen silent meanwhile. The other calls do so too.
  void Give(TimePoint now);

  // How many of its slices may have been sent, ever. REQUIRES: begun, not ended.
  uint32_t credit(uint64_t id) const { return transfers_.at(id).credit; }

  // Slices that are on their way and count.
  size_t expected(TimePoint now) const;

  size_t transfers() const { return transfers_.size(); }

  size_t slices_max() const { return slices_max_; }

 private:
  struct Transfer {
    TransferClass of = TransferClass::kRepair;
    uint32_t slices = 0;
    uint32_t wanted = 0;
    uint32_t credit = 0;
    uint32_t arrived = 0;
    TimePoint heard{};  // of it last, or when its first slice under way was let
    Given given;

    uint32_t under_way() const { return credit - arrived; }

    bool wants() const { return credit < wanted; }
  };

  using Entry = std::map<uint64_t, Transfer>::value_type;

  Transfer& Find(uint64_t id);
  Duration Patience() const;
  bool IsSilent(const Transfer& transfer, TimePoint now) const;
  size_t ShareMax() const;
  Entry* Next();
  Entry* NextOf(TransferClass of, size_t share);

  const size_t slices_max_;
  uint64_t next_id_ = 1;
  std::map<uint64_t, Transfer> transfers_;  // in the order in which they began
  // Weights: a class's next slice begins at finish_[class] or, when it wanted nothing for a while,
  // at clock_; the least goes first (start-time fair queueing).
  std::array<uint64_t, kTransferClasses> finish_{};
  uint64_t clock_ = 0;
  uint64_t given_ = 0;  // slices
  TimePoint arrived_at_{};
  Duration slice_time_{};  // smoothed time between two arrivals
};

}  // namespace gemel

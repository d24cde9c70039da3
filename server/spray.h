// SPDX-License-Identifier: Apache-2.0
//
// Spray: the slices of one transfer over all lanes to one peer: which one goes next, what is under
// way where, and what is sent again (DESIGN section 7, "Spread and fail over").
//
//   Add(slice) … → Take(lane) → End(slice, lane): arrived, or to be sent again → done()
//
// Lanes steal: whoever has room takes the next slice. When none is left, a lane that would have a
// slice there sooner than the lane that has it sends it again, under the same grant and digest; the
// first that arrives counts. While slices wait for credit only what is overdue is sent again: a
// peer that many send to is slow on all lanes, and more would make it slower.
//
// Thread safety: one loop. Ownership: values; lanes are compared, never used after Take().
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <vector>

#include "common/time.h"
#include "transport/lane.h"

namespace gemel {

class Spray {
 public:
  explicit Spray(size_t slices) : arrived_(slices, false) {}

  // It may be sent from now on. REQUIRES: added once.
  void Add(uint32_t slice) { waiting_.push_back({slice, false}); }

  struct Pick {
    uint32_t slice = 0;
    bool again = false;  // it went out before, on a lane that failed or is late
  };

  // At most so many different slices go out, those that went out included; at first all.
  void Allow(size_t slices) { allowed_ = slices; }

  // Whether a slice waits for Allow(), and nothing is under way.
  bool starved() const { return under_way_.empty() && !waiting_.empty() && !MayTakeWaiting(); }

  // What `lane`, which has room, sends now; nothing when it would not help. `hurry`: what is under
  // way on another lane counts as late.
  std::optional<Pick> Take(const Lane& lane, TimePoint now, bool hurry = false);

  // What Take() gave `lane` has ended there. One that did not arrive, and is under way on no other
  // lane, waits again.
  void End(uint32_t slice, const Lane& lane, bool arrived);

  // When a lane that had nothing to take should look again.
  TimePoint LookAgainAt(const Lane& lane, TimePoint now) const;

  bool done() const { return arrived_count_ == arrived_.size(); }

  size_t under_way() const { return under_way_.size(); }

 private:
  struct UnderWay {
    uint32_t slice = 0;
    const Lane* lane = nullptr;
    TimePoint due{};
    TimePoint overdue{};  // far later than that
  };

  bool MayTakeWaiting() const { return waiting_.front().again || begun_ < allowed_; }

  std::optional<uint32_t> FindLate(const Lane& lane, TimePoint now, bool hurry) const;
  Duration RemainingOf(uint32_t slice, TimePoint now) const;
  bool IsOn(uint32_t slice, const Lane* lane) const;

  std::deque<Pick> waiting_;         // those that went out before come first
  std::vector<UnderWay> under_way_;  // in the order in which they went out
  std::vector<bool> arrived_;
  size_t arrived_count_ = 0;
  size_t begun_ = 0;  // different slices that went out
  size_t allowed_ = SIZE_MAX;
};

}  // namespace gemel

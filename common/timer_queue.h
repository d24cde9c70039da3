// SPDX-License-Identifier: Apache-2.0
//
// TimerQueue: callbacks by deadline, for loops whose timers are mostly cancelled: each call has a
// deadline, and few reach it. A binary heap of deadlines beside a table of callbacks; Cancel()
// empties the place in the table and leaves the heap alone until cancelled deadlines are the most
// of it. Add() with a deadline later than the others, and Cancel(), take constant time.
//
// Thread safety: none; one thread's. Errors: none.
// Invariants:
//   (1) equal deadlines leave in the order in which they were added;
//   (2) after a Cancel() the heap holds at most twice as many deadlines as there are timers, and
//       kSpareDeadlines.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "common/loop.h"

namespace gemel {

class TimerQueue {
 public:
  using TimerId = Loop::TimerId;
  static constexpr size_t kSpareDeadlines = 64;

  TimerId Add(TimePoint when, Loop::Callback callback);
  // A timer that has left is ignored.
  void Cancel(TimerId timer);
  // The earliest callback whose deadline is at most `now`, which leaves; null when there is none.
  Loop::Callback TakeDue(TimePoint now);
  // kTimeNever when empty. A cancelled timer's deadline may still be told.
  TimePoint NextDeadline() const;

  size_t size() const { return places_.size() - free_.size(); }

  // In the heap.
  size_t deadlines() const { return heap_.size(); }

 private:
  struct Deadline {
    TimePoint when;
    TimerId timer;
  };

  struct Place {
    TimerId timer = Loop::kNoTimer;  // whose it is
    Loop::Callback callback;
  };

  static bool Later(const Deadline& a, const Deadline& b);
  bool IsLive(TimerId timer) const;
  Loop::Callback Leave(TimerId timer);
  void DropCancelled();

  uint64_t added_ = 0;
  std::vector<Deadline> heap_;
  std::vector<Place> places_;
  std::vector<uint32_t> free_;  // of places_
};

}  // namespace gemel

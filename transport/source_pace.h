// SPDX-License-Identifier: Apache-2.0
//
// SourcePace: how one of several servers that have the same bytes does, against the others.
//
// LanePace compares the lanes to one peer; this compares peers. One whose slices take more than
// kLaneSlowFactor times those of the fastest, kProbationSlices in a row, is put on probation: at
// most one read at a time until it is fast again. Who reads decides what "the others" are, and
// leaves a server alone that is the only one.
//
// Thread safety: one owner. Units: slices are chunks; times are of the loop's clock. Integers only.
#pragma once

#include <cstdint>

#include "common/time.h"
#include "transport/lane.h"

namespace gemel {

inline constexpr uint32_t kProbationSlices = 16;  // slow ones in a row that begin it
inline constexpr uint32_t kProbationEnds = 4;     // that are not slow, in a row, and end it
inline constexpr Duration kProbationMemory =
    30s;  // without a read: what was slow then says nothing

class SourcePace {
 public:
  using Ticket = LanePace::Ticket;

  Ticket Begin(TimePoint now);
  // The answer came. `fastest`: the least slice_time() of the other servers, zero when none is
  // known.
  void Arrived(const Ticket& ticket, TimePoint now, Duration fastest);
  // Ended before its answer came: it would have taken so long at least.
  void Stopped(const Ticket& ticket, TimePoint now, Duration fastest);
  // Failed: says nothing of how long a slice takes.
  void Failed(const Ticket& ticket, TimePoint now);

  bool OnProbation(TimePoint now) const { return on_probation_ && now < forgotten_at_; }

  Duration slice_time() const { return pace_.slice_time(); }

  // How long one more slice would take; zero: nobody knows.
  Duration Expected() const { return pace_.Expected(); }

  // How long its oldest read under way has taken; zero: there is none.
  Duration OldestAge(TimePoint now) const { return pace_.OldestAge(now); }

  bool IsIdleSince(TimePoint now) const { return pace_.under_way() == 0 && forgotten_at_ <= now; }

 private:
  void Judge(Duration slice, Duration fastest, TimePoint now);

  LanePace pace_;
  uint32_t in_a_row_ = 0;  // slow slices, or those that are not while it is on probation
  bool on_probation_ = false;
  TimePoint forgotten_at_{};
};

}  // namespace gemel

// SPDX-License-Identifier: Apache-2.0
//
// Lane: one path to a peer, and how it does (DESIGN section 7, "Spread and fail over"). Slices of a
// transfer go to whichever lane has them there first; who sends them chooses (server/replicate.h).
//
// Thread safety: one loop.
// Ownership: shared by the peer's table and the calls on it, which end in any order.
// Units: slices are chunks of 1 MiB; times are of the loop's clock. Integers only, so that the
// simulator's histories are the same under every compiler.
#pragma once

#include <cstddef>
#include <deque>
#include <memory>
#include <string>

#include "absl/status/statusor.h"

#include "common/sync.h"
#include "transport/session.h"

namespace gemel {

// Of one lane. It begins small and grows by one with each slice that arrives: what a path cannot
// carry away does not pile up on it.
inline constexpr size_t kLaneWindowFirst = 2;
inline constexpr size_t kLaneWindowMax = 8;
// A lane whose slices take this many times those of the fastest one is slow: its window is one
// slice. One path at a tenth of the rate then costs 0.5 % of a transfer, with two slices 4 %.
inline constexpr int64_t kLaneSlowFactor = 4;
// A lane that failed is left out, as long as another one is open: first this long, then twice as
// long each time. A slice that arrives takes a tenth off; one success alone does not reset it.
inline constexpr Duration kLanePauseMin = 100ms;
inline constexpr Duration kLanePauseMax = 30s;

// What is known of a lane from the slices that went over it.
class LanePace {
 public:
  // One slice under way: when it began, and how many there were then, this one included.
  struct Ticket {
    TimePoint began{};
    size_t ahead = 0;
  };

  Ticket Begin(TimePoint now);
  // Arrived: its reply came, whatever it says. Otherwise the lane failed.
  void End(const Ticket& ticket, TimePoint now, bool arrived);
  // Ended by who waited, before its answer came: it would have taken so long at least.
  void Stop(const Ticket& ticket, TimePoint now);
  // A verdict on the lane that no reply gives: what arrived was damaged.
  void Blame(TimePoint now);

  size_t under_way() const { return began_.size(); }

  // How long the oldest slice under way has taken; zero: there is none.
  Duration OldestAge(TimePoint now) const {
    return began_.empty() ? Duration::zero() : now - began_.front();
  }

  // Smoothed time that one slice takes, without those ahead of it; zero: none has arrived yet.
  Duration slice_time() const { return slice_time_; }

  // `fastest` is the least slice_time() of the lanes to the peer, zero when none is known.
  bool IsSlow(Duration fastest) const;

  bool HasRoom(Duration fastest) const { return under_way() < (IsSlow(fastest) ? 1 : window_); }

  // How long one more slice would take to arrive; zero: nobody knows.
  Duration Expected() const { return slice_time_ * static_cast<int64_t>(under_way() + 1); }

  // When one more slice, begun now, is expected.
  TimePoint Due(TimePoint now) const;

  // Left out after failures.
  bool IsPaused(TimePoint now) const { return now < paused_until_; }

  // The oldest slice under way is late by its own time and 50 ms: the path may be cut.
  bool IsLate(TimePoint now) const;

 private:
  // Its slice time, without those ahead of it.
  Duration Take(const Ticket& ticket, TimePoint now);

  std::deque<TimePoint> began_;  // of the slices under way, oldest first
  size_t window_ = kLaneWindowFirst;
  Duration slice_time_{};
  Duration pause_{};
  TimePoint paused_until_{};
};

struct Lane {
  Lane(std::string lane_address, std::shared_ptr<WaitQueue> peer_changed)
      : address(std::move(lane_address)), changed(std::move(peer_changed)) {}

  bool open() const { return session != nullptr && session->open(); }

  Loop* loop() const { return changed->loop(); }

  const std::string address;
  const std::shared_ptr<WaitQueue> changed;  // of the peer: a lane opened, ended, or has room
  std::shared_ptr<Session> session;          // null before its hello was accepted
  LanePace pace;
};

// Session::Call() over the lane, which was open. It counts in the lane's pace from now on, not only
// when the task is awaited; an error that the peer answers is an arrival.
Task<absl::StatusOr<Reply>> CallOn(std::shared_ptr<Lane> lane, Request request,
                                   MutableByteSpan reply_into, TimePoint deadline);

}  // namespace gemel

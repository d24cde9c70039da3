// SPDX-License-Identifier: Apache-2.0
//
// Time as logic sees it: monotonic, in nanoseconds, from the injected Clock only. Wall clocks
// decide nothing (DESIGN section 5); they may label a record for a human reader.
#pragma once

#include <chrono>
#include <cstdint>

namespace gemel {

using Duration = std::chrono::nanoseconds;
using namespace std::chrono_literals;  // NOLINT(google-build-using-namespace): durations only

// Tag of the monotonic time line of one process. It has no now(): ask the Clock.
struct MonotonicTimeline {
  using rep = Duration::rep;
  using period = Duration::period;
  using duration = Duration;
  using time_point = std::chrono::time_point<MonotonicTimeline, Duration>;
  static constexpr bool is_steady = true;  // NOLINT(readability-identifier-naming)
};

using TimePoint = MonotonicTimeline::time_point;

constexpr TimePoint kTimeNever = TimePoint::max();

// A point `delay` after `start` that stops at kTimeNever instead of wrapping.
constexpr TimePoint Add(TimePoint start, Duration delay) {
  return delay > Duration::zero() && start > kTimeNever - delay ? kTimeNever : start + delay;
}

constexpr double Milliseconds(Duration duration) {
  return std::chrono::duration<double, std::milli>(duration).count();
}

// The clock of one process. Thread safety: any thread.
class Clock {
 public:
  virtual ~Clock() = default;
  // Monotonic; keeps counting while the process is paused.
  virtual TimePoint Now() const = 0;
  // Seconds since 1970, for labels only.
  virtual int64_t WallSeconds() const = 0;
};

}  // namespace gemel

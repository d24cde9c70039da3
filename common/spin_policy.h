// SPDX-License-Identifier: Apache-2.0
//
// SpinPolicy: how long a loop polls before it parks in the kernel. A parked thread on another core
// is woken in 50 us or more, a polling one at once; polling for nothing takes the core from whoever
// shares it. So the budget follows the waits: it grows while they end within its most, and is gone
// after a few that do not (as KVM's halt polling does; Shenango and IX park by the same measure).
//
//   wait ends while it polls          the budget stays
//   parked, and woken within the most  the budget doubles: polling would have caught it
//   parked for longer                  the budget halves, and below the least is nothing
//
// Thread safety: none; one thread's. Errors: none.
#pragma once

#include <algorithm>

#include "common/time.h"

namespace gemel {

class SpinPolicy {
 public:
  static constexpr Duration kLeast = std::chrono::microseconds(5);

  // `most` 0: never polls.
  explicit SpinPolicy(Duration most = Duration()) : most_(most) {}

  bool enabled() const { return most_ > Duration(); }

  Duration budget() const { return budget_; }

  // A wait that was not over before it began took so long, polling included.
  void Waited(Duration took, bool caught) {
    if (caught) {
      return;
    }
    if (took <= most_) {
      budget_ = std::min(most_, std::max(kLeast, 2 * budget_));
    } else {
      budget_ = budget_ / 2 < kLeast ? Duration() : budget_ / 2;
    }
  }

 private:
  Duration most_;
  Duration budget_{};
};

}  // namespace gemel

// SPDX-License-Identifier: Apache-2.0
//
// Pace: time, pauses and the wish to stop, for the blocking work of this folder.
//
// Thread safety: one thread.
#pragma once

#include "common/check.h"
#include "common/epoll_loop.h"
#include "common/time.h"

namespace gemel::archive {

class Pace {
 public:
  virtual ~Pace() = default;
  virtual TimePoint Now() const = 0;
  // Returns after `duration`, earlier when stopping().
  virtual void Pause(Duration duration) = 0;
  // True from when the program was asked to end: what runs gives up at its next step.
  virtual bool stopping() = 0;
};

// On a real loop, which also sees the signals.
class LoopPace final : public Pace {
 public:
  // `stop` is set by a callback of the loop; both outlive this.
  LoopPace(EpollLoop* loop, const bool* stop) : loop_(loop), stop_(stop) {
    GEMEL_CHECK(loop != nullptr && stop != nullptr);
  }

  TimePoint Now() const override { return loop_->Now(); }

  void Pause(Duration duration) override {
    loop_->RunUntil([this] { return *stop_; }, Add(loop_->Now(), duration));
  }

  bool stopping() override {
    // A round of the loop: it looks at its descriptors even when nothing is waited for.
    bool looked = false;
    loop_->RunAt(loop_->Now(), [&looked] { looked = true; });
    loop_->RunUntil([&looked] { return looked; }, kTimeNever);
    return *stop_;
  }

 private:
  EpollLoop* const loop_;
  const bool* const stop_;
};

}  // namespace gemel::archive

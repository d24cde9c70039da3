// SPDX-License-Identifier: Apache-2.0
//
// Loop: one thread of control. Coroutines, timers and posted callbacks of one process run on its
// loop, one at a time, so no part that lives on a loop needs a lock.
//
// Production: EpollLoop (common/epoll_loop.h). Simulation: SimLoop (common/sim_loop.h), where all
// loops of a cluster share one virtual time line.
//
// Thread safety: everything on the loop's own thread except PostFromAnyThread().
// Ownership: the loop owns spawned tasks until they end or until Shutdown().
// Invariants:
//   (1) callbacks posted by one thread run in the order of posting;
//   (2) equal timer deadlines fire in the order in which the timers were made;
//   (3) after Shutdown() nothing runs any more: queued callbacks are dropped, tasks are destroyed.
#pragma once

#include <cstdint>

#include "absl/functional/any_invocable.h"

#include "common/task.h"
#include "common/time.h"

namespace gemel {

class Loop : public Clock {
 public:
  using Callback = absl::AnyInvocable<void()>;
  using TimerId = uint64_t;
  static constexpr TimerId kNoTimer = 0;

  Loop();
  ~Loop() override;
  Loop(const Loop&) = delete;
  Loop& operator=(const Loop&) = delete;

  // Runs `callback` after everything that is due now.
  virtual void Post(Callback callback) = 0;
  virtual void PostFromAnyThread(Callback callback) = 0;

  // Runs `callback` once, at the end of this turn: after what was due and posted when it began, and
  // before the loop looks for more. For what a whole turn gathers.
  virtual void AtTurnEnd(Callback callback) { Post(std::move(callback)); }

  // Runs `callback` at or after `when`. The id stays valid until it has run or was cancelled.
  virtual TimerId RunAt(TimePoint when, Callback callback) = 0;
  // A timer that has already run is ignored.
  virtual void CancelTimer(TimerId timer) = 0;
  // True on the loop's own thread: asserted by parts on entry.
  virtual bool OnLoopThread() const = 0;

  // Starts `task`; the loop owns it. Returns at once, the task runs from the queue.
  void Spawn(Task<void> task);

  // Suspends the caller until `when`.
  Task<void> SleepUntil(TimePoint when);

  Task<void> Sleep(Duration delay) { return SleepUntil(Add(Now(), delay)); }

  // Lets everything that is due run, then goes on: put between the steps of long work.
  Task<void> Yield() { return SleepUntil(TimePoint::min()); }

  bool is_shut_down() const { return shut_down_; }

 protected:
  // Destroys all spawned tasks (3). Derived classes drop their queues around it.
  void DestroyTasks();

 private:
  internal::SpawnedLink spawned_;
  bool shut_down_ = false;
};

}  // namespace gemel

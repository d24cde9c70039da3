// SPDX-License-Identifier: Apache-2.0
#include "common/loop.h"

#include <utility>

namespace gemel {

namespace internal {

namespace {

struct SleepAwaiter {
  Loop* loop;
  TimePoint when;
  Loop::TimerId timer = Loop::kNoTimer;

  SleepAwaiter(Loop* loop, TimePoint when) : loop(loop), when(when) {}

  SleepAwaiter(const SleepAwaiter&) = delete;
  SleepAwaiter& operator=(const SleepAwaiter&) = delete;

  ~SleepAwaiter() {
    if (timer != Loop::kNoTimer && !loop->is_shut_down()) {
      loop->CancelTimer(timer);
    }
  }

  bool await_ready() const noexcept { return false; }

  void await_suspend(std::coroutine_handle<> caller) {
    auto resume = [this, caller] {
      timer = Loop::kNoTimer;
      Resume(caller);
    };
    if (when == TimePoint::min()) {
      loop->Post(std::move(resume));
    } else {
      timer = loop->RunAt(when, std::move(resume));
    }
  }

  void await_resume() const noexcept {}
};

}  // namespace
}  // namespace internal

Loop::Loop() = default;

Loop::~Loop() {
  GEMEL_CHECK(spawned_.next == &spawned_) << "a loop ends with tasks: Shutdown() first";
}

void Loop::Spawn(Task<void> task) {
  if (shut_down_) {
    return;
  }
  const Task<void>::Handle handle = task.Release();
  GEMEL_CHECK(handle && !handle.done());
  internal::TaskPromise<void>& promise = handle.promise();
  promise.spawned = true;
  promise.previous = spawned_.previous;
  promise.next = &spawned_;
  spawned_.previous->next = &promise;
  spawned_.previous = &promise;
  Post([handle] { internal::Resume(handle); });
}

Task<void> Loop::SleepUntil(TimePoint when) {
  internal::SleepAwaiter awaiter(this, when);
  co_await awaiter;
}

void Loop::DestroyTasks() {
  shut_down_ = true;
  while (spawned_.next != &spawned_) {
    auto* promise = static_cast<internal::TaskPromise<void>*>(spawned_.next);
    Task<void>::Handle::from_promise(*promise).destroy();
  }
}

}  // namespace gemel

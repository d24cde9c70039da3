// SPDX-License-Identifier: Apache-2.0
#include "common/loop.h"

#include <utility>

namespace gemel {

namespace internal {

// The coroutine around a spawned task: linked into its loop's list, destroys itself at its end.
struct RootTask {
  struct promise_type : RootLink {
    RootTask get_return_object() {
      return RootTask{std::coroutine_handle<promise_type>::from_promise(*this)};
    }

    std::suspend_always initial_suspend() const noexcept { return {}; }

    std::suspend_never final_suspend() const noexcept { return {}; }

    void return_void() const noexcept {}

    [[noreturn]] void unhandled_exception() const noexcept { std::terminate(); }

    ~promise_type() {
      previous->next = next;
      next->previous = previous;
    }
  };

  std::coroutine_handle<promise_type> handle;

  static RootTask Run(Task<void> task) { co_await std::move(task); }

  void LinkInto(Loop* loop) const {
    RootLink& head = loop->roots_;
    RootLink& self = handle.promise();
    self.previous = head.previous;
    self.next = &head;
    head.previous->next = &self;
    head.previous = &self;
  }
};

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

Loop::~Loop() { GEMEL_CHECK(roots_.next == &roots_) << "a loop ends with tasks: Shutdown() first"; }

void Loop::Spawn(Task<void> task) {
  if (shut_down_) {
    return;
  }
  internal::RootTask root = internal::RootTask::Run(std::move(task));
  root.LinkInto(this);
  Post([handle = root.handle] { internal::Resume(handle); });
}

Task<void> Loop::SleepUntil(TimePoint when) {
  internal::SleepAwaiter awaiter(this, when);
  co_await awaiter;
}

void Loop::DestroyTasks() {
  shut_down_ = true;
  while (roots_.next != &roots_) {
    auto* promise = static_cast<internal::RootTask::promise_type*>(roots_.next);
    std::coroutine_handle<internal::RootTask::promise_type>::from_promise(*promise).destroy();
  }
}

}  // namespace gemel

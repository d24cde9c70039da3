// SPDX-License-Identifier: Apache-2.0
//
// What coroutines of one loop wait on: WaitQueue, OneShot<T>, Semaphore, Gate, Gather.
//
// Thread safety: one loop. None of them ever resumes a waiter inline: the waiter runs from the
// loop's queue, so a notifier never finds its own state changed under it.
// Ownership: a waiter's node lives in its coroutine frame and unlinks itself when the frame goes.
// Invariants:
//   (1) waiters wake in the order in which they began to wait;
//   (2) a wait with a deadline always ends: true when notified, false when the deadline came first.
#pragma once

#include <coroutine>
#include <cstddef>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#include "common/loop.h"

namespace gemel {

// A condition variable without a lock:  while (!ready) if (!co_await queue.WaitUntil(t)) …;
class WaitQueue {
 public:
  explicit WaitQueue(Loop* loop) : loop_(loop) {}

  WaitQueue(const WaitQueue&) = delete;
  WaitQueue& operator=(const WaitQueue&) = delete;
  ~WaitQueue();

  // One wait, in the frame of the coroutine that awaits it; linked while neither notified nor timed
  // out.
  class [[nodiscard]] Waiter {
   public:
    Waiter(WaitQueue* queue, TimePoint deadline) : queue_(queue), deadline_(deadline) {}

    Waiter(const Waiter&) = delete;
    Waiter& operator=(const Waiter&) = delete;
    ~Waiter();

    bool await_ready() const noexcept { return false; }

    void await_suspend(std::coroutine_handle<> caller);

    bool await_resume() const noexcept { return notified_; }

   private:
    friend class WaitQueue;

    WaitQueue* const queue_;
    const TimePoint deadline_;
    std::coroutine_handle<> caller_;
    Waiter* previous_ = nullptr;
    Waiter* next_ = nullptr;
    Loop::TimerId timer_ = Loop::kNoTimer;
    bool linked_ = false;
    bool notified_ = false;
  };

  Waiter WaitUntil(TimePoint deadline) { return {this, deadline}; }

  void NotifyAll();
  void NotifyOne();

  Loop* loop() const { return loop_; }

 private:
  void Link(Waiter* waiter);
  void Unlink(Waiter* waiter);
  void Wake(Waiter* waiter, bool notified);

  Loop* loop_;
  Waiter* first_ = nullptr;
  Waiter* last_ = nullptr;
};

// A value set once and read by one or more waiters.
template <typename T>
class OneShot {
 public:
  explicit OneShot(Loop* loop) : queue_(loop) {}

  bool is_set() const { return value_.has_value(); }

  // The first value wins; later ones are ignored (a late reply after a time-out, a duplicate).
  void Set(T value) {
    if (!value_.has_value()) {
      value_.emplace(std::move(value));
      queue_.NotifyAll();
    }
  }

  // Waits until set; false when the deadline came first.
  Task<bool> WaitUntil(TimePoint deadline) {
    while (!value_.has_value()) {
      bool notified = co_await queue_.WaitUntil(deadline);
      if (!notified) {
        break;
      }
    }
    co_return value_.has_value();
  }

  T& value() {
    GEMEL_CHECK(value_.has_value());
    return *value_;
  }

 private:
  WaitQueue queue_;
  std::optional<T> value_;
};

// A counted resource. A small request may overtake a large one that still waits.
class Semaphore {
 public:
  Semaphore(Loop* loop, size_t permits) : queue_(loop), permits_(permits) {}

  // False when the deadline came first: nothing was acquired.
  Task<bool> Acquire(size_t count, TimePoint deadline);
  void Release(size_t count);

  size_t available() const { return permits_; }

 private:
  WaitQueue queue_;
  size_t permits_;
};

// Counts who is inside a part, so that it can stop: after Close() nobody enters, and Close()
// returns when the last one left. The destructor checks that nobody is inside.
class Gate {
 public:
  explicit Gate(Loop* loop) : queue_(loop) {}

  ~Gate() { GEMEL_CHECK_EQ(inside_, 0U); }

  // RAII presence; false when the gate is closed.
  class Pass {
   public:
    Pass() = default;

    explicit Pass(Gate* gate) : gate_(gate) {}

    Pass(Pass&& other) noexcept : gate_(std::exchange(other.gate_, nullptr)) {}

    Pass& operator=(Pass&& other) noexcept {
      std::swap(gate_, other.gate_);
      return *this;
    }

    ~Pass();

    explicit operator bool() const { return gate_ != nullptr; }

   private:
    Gate* gate_ = nullptr;
  };

  Pass Enter();
  Task<void> Close();

  bool closed() const { return closed_; }

 private:
  WaitQueue queue_;
  size_t inside_ = 0;
  bool closed_ = false;
};

// Runs all tasks at the same time; their statuses in the order given.
Task<std::vector<absl::Status>> Gather(Loop* loop, std::vector<Task<absl::Status>> tasks);

// The first error of `statuses`, or OK.
absl::Status FirstError(const std::vector<absl::Status>& statuses);

}  // namespace gemel

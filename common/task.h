// SPDX-License-Identifier: Apache-2.0
//
// Task<T>: a lazy coroutine that yields one T to the coroutine that awaits it.
//
//   Task<absl::StatusOr<Reply>> Call(Request request);      // parameters by value
//   Reply reply = co_await Call(std::move(request));
//
// Thread safety: a Task lives and runs on one Loop.
// Ownership: the Task owns its frame; destroying a Task destroys the frame and, through it, every
// frame it awaits.
// Invariants:
//   (1) a Task is awaited at most once;
//   (2) nothing thrown leaves a Task: an exception ends the process;
//   (3) a coroutine never runs on another's stack: it names the next one and returns to Resume(),
//       so chains and loops of any length use one stack frame. (Symmetric transfer would need tail
//       calls, which g++ does not make at -O0 or under sanitizers.)
#pragma once

#include <coroutine>
#include <exception>
#include <optional>
#include <type_traits>
#include <utility>

#include "common/check.h"
#include "common/frame_memory.h"

namespace gemel {

template <typename T>
class Task;

namespace internal {

// What Resume() on this thread runs next.
struct Turn {
  std::coroutine_handle<> next;
  bool open = false;  // inside Resume()
};

inline constinit thread_local Turn turn;

// Runs `first` and all it passes its turn to. Loops and awaiters resume coroutines with this only.
inline void Resume(std::coroutine_handle<> first) {
  const Turn outer = std::exchange(turn, Turn{first, true});
  while (turn.next) {
    std::coroutine_handle<> next = std::exchange(turn.next, nullptr);
    next.resume();
  }
  turn = outer;
}

// The last act of a coroutine that suspends: `next` goes on.
inline void PassTurn(std::coroutine_handle<> next) {
  GEMEL_CHECK(turn.open && !turn.next) << "a coroutine was resumed without Resume()";
  turn.next = next;
}

// Links of a loop's list of spawned tasks.
struct SpawnedLink {
  SpawnedLink* previous = this;
  SpawnedLink* next = this;
};

template <typename T>
struct TaskPromise;

struct FinalAwaiter {
  bool await_ready() const noexcept { return false; }

  template <typename Promise>
  void await_suspend(std::coroutine_handle<Promise> handle) const noexcept {
    if (handle.promise().continuation) {
      PassTurn(handle.promise().continuation);
    } else if constexpr (std::is_same_v<Promise, TaskPromise<void>>) {
      if (handle.promise().spawned) {
        handle.destroy();
      }
    }
  }

  void await_resume() const noexcept {}
};

struct TaskPromiseBase {
  TaskPromiseBase() = default;
  TaskPromiseBase(const TaskPromiseBase&) = delete;
  TaskPromiseBase& operator=(const TaskPromiseBase&) = delete;

  static void* operator new(size_t bytes) { return FrameMemory::Take(bytes); }

  static void operator delete(void* frame, size_t bytes) { FrameMemory::Give(frame, bytes); }

  std::coroutine_handle<> continuation;

  std::suspend_always initial_suspend() const noexcept { return {}; }

  FinalAwaiter final_suspend() const noexcept { return {}; }

  [[noreturn]] void unhandled_exception() const noexcept { std::terminate(); }
};

template <typename T>
struct TaskPromise : TaskPromiseBase {
  std::optional<T> value;

  Task<T> get_return_object();

  template <typename U>
  void return_value(U&& result) {
    value.emplace(std::forward<U>(result));
  }

  T Take() {
    GEMEL_CHECK(value.has_value());
    return std::move(*value);
  }
};

// Spawned, it is in its loop's list until it goes, and destroys itself at its end.
template <>
struct TaskPromise<void> : TaskPromiseBase, SpawnedLink {
  bool spawned = false;

  ~TaskPromise() {
    previous->next = next;
    next->previous = previous;
  }

  Task<void> get_return_object();

  void return_void() const noexcept {}

  void Take() const noexcept {}
};

}  // namespace internal

template <typename T>
class [[nodiscard]] Task {
 public:
  using promise_type = internal::TaskPromise<T>;
  using Handle = std::coroutine_handle<promise_type>;

  explicit Task(Handle handle) : handle_(handle) {}

  Task(Task&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}

  Task& operator=(Task&& other) noexcept {
    if (this != &other) {
      Reset();
      handle_ = std::exchange(other.handle_, nullptr);
    }
    return *this;
  }

  Task(const Task&) = delete;
  Task& operator=(const Task&) = delete;

  ~Task() { Reset(); }

  // The frame is the caller's.
  Handle Release() { return std::exchange(handle_, nullptr); }

  auto operator co_await() && noexcept {
    struct Awaiter {
      Handle handle;

      bool await_ready() const noexcept { return false; }

      void await_suspend(std::coroutine_handle<> caller) const noexcept {
        handle.promise().continuation = caller;
        PassTurn(handle);
      }

      T await_resume() const { return handle.promise().Take(); }
    };

    GEMEL_CHECK(handle_ && !handle_.done());
    return Awaiter{handle_};
  }

 private:
  void Reset() {
    if (handle_) {
      handle_.destroy();
      handle_ = nullptr;
    }
  }

  Handle handle_;
};

namespace internal {

template <typename T>
Task<T> TaskPromise<T>::get_return_object() {
  return Task<T>(std::coroutine_handle<TaskPromise<T>>::from_promise(*this));
}

inline Task<void> TaskPromise<void>::get_return_object() {
  return Task<void>(std::coroutine_handle<TaskPromise<void>>::from_promise(*this));
}

}  // namespace internal
}  // namespace gemel

// SPDX-License-Identifier: Apache-2.0
//
// Runs one task to its end on a loop, for tests. Thread safety: one thread.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <utility>

#include "common/epoll_loop.h"
#include "common/sim_loop.h"

namespace gemel {

template <typename T>
Task<void> StoreResult(std::shared_ptr<std::optional<T>> slot, Task<T> task) {
  T value = co_await std::move(task);
  slot->emplace(std::move(value));
}

// Starts `task`; the slot is filled when it ends.
template <typename T>
std::shared_ptr<std::optional<T>> Start(Loop* loop, Task<T> task) {
  // Shared: the task may end after the test dropped its interest.
  auto slot = std::make_shared<std::optional<T>>();
  loop->Spawn(StoreResult<T>(slot, std::move(task)));
  return slot;
}

// A bound on real time that only a hang reaches.
inline bool RunLoop(EpollLoop* loop, const std::function<bool()>& done) {
  return loop->RunUntil(done, Add(loop->Now(), 30s));
}

template <typename T>
T RunTask(EpollLoop* loop, Task<T> task) {
  auto slot = Start(loop, std::move(task));
  GEMEL_CHECK(RunLoop(loop, [&] { return slot->has_value(); })) << "the task hangs";
  return std::move(**slot);
}

template <typename T>
T RunTask(SimScheduler* scheduler, Loop* loop, Task<T> task) {
  auto slot = Start(loop, std::move(task));
  GEMEL_CHECK(scheduler->RunUntil([&] { return slot->has_value(); }, kTimeNever)) << "hangs";
  return std::move(**slot);
}

}  // namespace gemel

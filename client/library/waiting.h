// SPDX-License-Identifier: Apache-2.0
//
// Waiting<T>: one caller's thread that waits for what a coroutine on the loop brings.
//
// Thread safety: Deliver() on the loop, Await() on one other thread.
// Ownership: shared by both sides, because either may leave first.
// Invariants:
//   (1) a result is taken by exactly one side: Await() returns it, or Deliver() says that nobody
//       waits any more and the deliverer disposes of it;
//   (2) Await() ends at the latest `limit` after it began, or at the first interruption.
#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <optional>
#include <utility>

#include "common/check.h"
#include "common/errors.h"
#include "common/mutex.h"
#include "common/time.h"

namespace gemel {

// How often a waiting thread asks whether it is interrupted.
constexpr Duration kInterruptEvery = 50ms;

template <typename T>
class Waiting {
 public:
  // False when nobody waits any more: `result` is then unchanged and the caller's to dispose of.
  bool Deliver(T& result) {
    MutexLock lock(&mutex_);
    GEMEL_CHECK(!result_.has_value());
    if (gone_) {
      return false;
    }
    result_.emplace(std::move(result));
    changed_.notify_all();
    return true;
  }

  // The result, or why it is not waited for any longer: Cancelled or DeadlineExceeded.
  T Await(Duration limit, const std::function<bool()>& interrupted) {
    for (Duration waited{}; waited <= limit; waited += kInterruptEvery) {
      {
        MutexLock lock(&mutex_);
        changed_.wait_for(mutex_, kInterruptEvery,
                          [this]() GEMEL_REQUIRES(mutex_) { return result_.has_value(); });
        if (result_.has_value()) {
          return std::move(*result_);
        }
      }
      if (interrupted && interrupted()) {
        return Leave(error::Cancelled("the wait was interrupted"));
      }
    }
    return Leave(error::DeadlineExceeded("no answer within {:.0f} ms", Milliseconds(limit)));
  }

 private:
  T Leave(absl::Status why) {
    MutexLock lock(&mutex_);
    if (result_.has_value()) {
      return std::move(*result_);
    }
    gone_ = true;
    return why;
  }

  Mutex mutex_;
  std::condition_variable_any changed_;
  bool gone_ GEMEL_GUARDED_BY(mutex_) = false;
  std::optional<T> result_ GEMEL_GUARDED_BY(mutex_);
};

}  // namespace gemel

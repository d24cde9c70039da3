// SPDX-License-Identifier: Apache-2.0
//
// Mutex with clang's thread-safety annotations, over std::mutex (Debian's absl::Mutex is not
// instrumented for TSAN). Only where two threads must meet; parts on a Loop need none.
#pragma once

#include <mutex>

#if defined(__clang__)
#define GEMEL_ANNOTATION_(x) __attribute__((x))
#else
#define GEMEL_ANNOTATION_(x)
#endif
#define GEMEL_GUARDED_BY(mutex) GEMEL_ANNOTATION_(guarded_by(mutex))
#define GEMEL_REQUIRES(mutex) GEMEL_ANNOTATION_(requires_capability(mutex))

namespace gemel {

class GEMEL_ANNOTATION_(capability("mutex")) Mutex {
 public:
  void Lock() GEMEL_ANNOTATION_(acquire_capability()) { mutex_.lock(); }

  void Unlock() GEMEL_ANNOTATION_(release_capability()) { mutex_.unlock(); }

  // For std::condition_variable_any, which wants these names.
  void lock() GEMEL_ANNOTATION_(acquire_capability()) { mutex_.lock(); }  // NOLINT

  void unlock() GEMEL_ANNOTATION_(release_capability()) { mutex_.unlock(); }  // NOLINT

 private:
  std::mutex mutex_;
};

class GEMEL_ANNOTATION_(scoped_lockable) MutexLock {
 public:
  explicit MutexLock(Mutex* mutex) GEMEL_ANNOTATION_(acquire_capability(mutex)) : mutex_(mutex) {
    mutex_->Lock();
  }

  ~MutexLock() GEMEL_ANNOTATION_(release_capability()) { mutex_->Unlock(); }

  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;

 private:
  Mutex* const mutex_;
};

}  // namespace gemel

// SPDX-License-Identifier: Apache-2.0
//
// IoThreads: blocking work off the loop: one bounded queue, a fixed number of threads, results back
// on the loop.
//
// Thread safety: Do() and Stop() on the loop's thread, or Stop() after the loop was shut down.
// Ownership: shared: a thread that a disk never gives back must not pull it away under the rest.
// What a job holds is destroyed on the loop, or in Stop(), never on a thread.
// Invariants:
//   (1) at most queue_max jobs wait; one more is refused with ResourceExhausted;
//   (2) Stop() waits at most kPersistStopPatience for jobs that run; jobs that wait get Cancelled.
//       A thread that is stuck then is left behind with what it holds, for the end of the process.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "common/errors.h"
#include "common/mutex.h"
#include "common/status_macros.h"
#include "common/sync.h"

namespace gemel {

class IoThreads : public std::enable_shared_from_this<IoThreads> {
 public:
  struct Options {
    std::string name;  // for messages: "the disk below DIR"
    size_t threads = 1;
    size_t queue_max = 1;
    std::function<void()> at_end;  // on each thread, as its last work
  };

  static std::shared_ptr<IoThreads> Start(Loop* loop, Options options);
  ~IoThreads();

  // Runs `work` on a thread. T is a Status or StatusOr. `work` and its copies hold what it needs.
  template <typename T>
  static Task<T> Do(std::shared_ptr<IoThreads> self, std::function<T()> work) {
    GEMEL_CHECK(self->loop_->OnLoopThread());
    // Shared: the loop may drop this frame while the job goes on.
    auto result = std::make_shared<OneShot<T>>(self->loop_);
    auto value = std::make_shared<std::optional<T>>();
    Job job;
    job.run = [value, work = std::move(work)] { value->emplace(work()); };
    job.finish = [value, result, name = self->options_.name] {
      result->Set(value->has_value() ? std::move(**value) : T(Closing(name)));
    };
    GEMEL_CO_RETURN_IF_ERROR(self->Submit(std::move(job)));
    const bool set = co_await result->WaitUntil(kTimeNever);
    GEMEL_CHECK(set);
    co_return std::move(result->value());
  }

  void Stop();

 private:
  struct Job {
    std::function<void()> run;     // on a thread
    std::function<void()> finish;  // on the loop
  };

  IoThreads(Loop* loop, Options options);

  static absl::Status Closing(const std::string& name) {
    return error::Cancelled("{} is closing", name);
  }

  absl::Status Submit(Job job);
  static void RunThread(std::shared_ptr<IoThreads> self);
  void Finished(Job job);
  void FinishAll();

  Loop* const loop_;
  Options options_;
  std::vector<std::thread> threads_;
  Mutex mutex_;
  std::condition_variable_any changed_;
  std::deque<Job> waiting_ GEMEL_GUARDED_BY(mutex_);
  std::vector<Job> finished_ GEMEL_GUARDED_BY(mutex_);
  size_t running_ GEMEL_GUARDED_BY(mutex_) = 0;  // threads that have not ended
  bool stopping_ GEMEL_GUARDED_BY(mutex_) = false;
};

}  // namespace gemel

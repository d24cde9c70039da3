// SPDX-License-Identifier: Apache-2.0
#include "common/real_disk.h"

#include <condition_variable>
#include <deque>
#include <thread>
#include <utility>

#include "common/errors.h"
#include "common/mutex.h"
#include "common/status_macros.h"
#include "common/sync.h"

namespace gemel {

// The I/O thread and what it shares with the loop. Jobs hold it, it holds jobs: Stop() cuts the
// ring.
class RealDisk::Worker {
 public:
  Worker(EpollLoop* loop, std::unique_ptr<DiskFiles> files)
      : loop_(loop), slots_(loop), files_(std::move(files)), thread_([this] { RunThread(); }) {}

  ~Worker() { GEMEL_CHECK(!thread_.joinable()) << "Stop() first"; }

  // Runs `work` on the I/O thread. T is a Status or StatusOr.
  template <typename T, typename Work>
  static Task<T> Do(std::shared_ptr<Worker> self, Work work) {
    GEMEL_CHECK(self->loop_->OnLoopThread());
    while (!self->stopped_ && self->under_way_ == kOperationsMax) {
      co_await self->slots_.WaitUntil(kTimeNever);
    }
    if (self->stopped_) {
      co_return Cancelled();
    }
    self->under_way_ += 1;
    // Shared: the loop may drop this frame while the operation goes on.
    auto result = std::make_shared<OneShot<T>>(self->loop_);
    Job job;
    job.run = [self, result, work = std::move(work)] { Deliver<T>(self, result, work(*self)); };
    job.cancel = [result] { result->Set(Cancelled()); };
    self->Submit(std::move(job));
    const bool set = co_await result->WaitUntil(kTimeNever);
    GEMEL_CHECK(set);
    co_return std::move(result->value());
  }

  void Stop();

  DiskFiles& files() const { return *files_; }

 private:
  struct Job {
    Loop::Callback run;
    Loop::Callback cancel;
  };

  static absl::Status Cancelled() {
    return error::Cancelled("the disk is closing; the operation was not begun");
  }

  // On the I/O thread; the rest on the loop's.
  template <typename T>
  static void Deliver(std::shared_ptr<Worker> self, std::shared_ptr<OneShot<T>> result, T value) {
    Loop* loop = self->loop_;
    loop->PostFromAnyThread(
        [self = std::move(self), result = std::move(result), value = std::move(value)]() mutable {
          GEMEL_CHECK_GT(self->under_way_, 0U);
          self->under_way_ -= 1;
          self->slots_.NotifyOne();
          result->Set(std::move(value));
        });
  }

  void Submit(Job job);
  void RunThread();

  EpollLoop* const loop_;
  WaitQueue slots_;
  size_t under_way_ = 0;
  bool stopped_ = false;
  std::unique_ptr<DiskFiles> files_;
  Mutex mutex_;
  std::condition_variable_any wake_;
  bool stopping_ GEMEL_GUARDED_BY(mutex_) = false;
  std::deque<Job> jobs_ GEMEL_GUARDED_BY(mutex_);
  std::thread thread_;  // last: it uses all of the above
};

void RealDisk::Worker::Submit(Job job) {
  MutexLock lock(&mutex_);
  GEMEL_CHECK_LT(jobs_.size(), kOperationsMax);
  jobs_.push_back(std::move(job));
  wake_.notify_one();
}

void RealDisk::Worker::RunThread() {
  while (true) {
    Job job;
    {
      MutexLock lock(&mutex_);
      while (jobs_.empty() && !stopping_) {
        wake_.wait(mutex_);
      }
      if (stopping_) {
        return;
      }
      job = std::move(jobs_.front());
      jobs_.pop_front();
    }
    job.run();
  }
}

void RealDisk::Worker::Stop() {
  GEMEL_CHECK(loop_->is_shut_down() || loop_->OnLoopThread());
  GEMEL_CHECK(!stopped_);
  stopped_ = true;
  std::deque<Job> left;
  {
    MutexLock lock(&mutex_);
    stopping_ = true;
    left.swap(jobs_);
    wake_.notify_all();
  }
  for (Job& job : left) {
    job.cancel();
  }
  slots_.NotifyAll();
  thread_.join();
  files_.reset();  // releases the directory, also while coroutines still hold the worker
}

RealDisk::RealDisk(EpollLoop* loop, std::unique_ptr<DiskFiles> files)
    : worker_(std::make_shared<Worker>(loop, std::move(files))) {}

RealDisk::~RealDisk() { worker_->Stop(); }

absl::StatusOr<std::unique_ptr<RealDisk>> RealDisk::Open(EpollLoop* loop, std::string directory) {
  return OpenWith(loop, std::move(directory), std::make_unique<FileCalls>());
}

absl::StatusOr<std::unique_ptr<RealDisk>> RealDisk::OpenWith(EpollLoop* loop, std::string directory,
                                                             std::unique_ptr<FileCalls> calls) {
  GEMEL_CHECK(loop != nullptr);
  GEMEL_ASSIGN_OR_RETURN(auto files, DiskFiles::Open(std::move(directory), std::move(calls)));
  return std::unique_ptr<RealDisk>(new RealDisk(loop, std::move(files)));
}

Task<absl::StatusOr<std::string>> RealDisk::Read(std::string name) {
  return Worker::Do<absl::StatusOr<std::string>>(
      worker_,
      [name = std::move(name)](const Worker& worker) { return worker.files().Read(name); });
}

Task<absl::Status> RealDisk::WriteAtomically(std::string name, std::string content) {
  return Worker::Do<absl::Status>(
      worker_, [name = std::move(name), content = std::move(content)](const Worker& worker) {
        return worker.files().WriteAtomically(name, content);
      });
}

Task<absl::Status> RealDisk::WriteInPlace(std::string name, std::string content) {
  return Worker::Do<absl::Status>(
      worker_, [name = std::move(name), content = std::move(content)](const Worker& worker) {
        return worker.files().WriteInPlace(name, content);
      });
}

Task<absl::StatusOr<std::vector<std::string>>> RealDisk::List(std::string prefix) {
  return Worker::Do<absl::StatusOr<std::vector<std::string>>>(
      worker_,
      [prefix = std::move(prefix)](const Worker& worker) { return worker.files().List(prefix); });
}

Task<absl::Status> RealDisk::Remove(std::string name) {
  return Worker::Do<absl::Status>(worker_, [name = std::move(name)](const Worker& worker) {
    return worker.files().Remove(name);
  });
}

}  // namespace gemel

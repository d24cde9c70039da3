// SPDX-License-Identifier: Apache-2.0
#include "server/persist/io_threads.h"

#include "common/check.h"
#include "server/limits.h"

namespace gemel {

IoThreads::IoThreads(Loop* loop, Options options) : loop_(loop), options_(std::move(options)) {
  GEMEL_CHECK(loop != nullptr);
  GEMEL_CHECK(options_.threads > 0 && options_.queue_max > 0 && options_.at_end);
}

IoThreads::~IoThreads() { GEMEL_CHECK(threads_.empty()) << "Stop() first"; }

std::shared_ptr<IoThreads> IoThreads::Start(Loop* loop, Options options) {
  std::shared_ptr<IoThreads> made(new IoThreads(loop, std::move(options)));
  {
    MutexLock lock(&made->mutex_);
    made->running_ = made->options_.threads;
  }
  for (size_t i = 0; i < made->options_.threads; ++i) {
    made->threads_.emplace_back(RunThread, made);
  }
  return made;
}

absl::Status IoThreads::Submit(Job job) {
  MutexLock lock(&mutex_);
  if (stopping_) {
    return Closing(options_.name);
  }
  if (waiting_.size() >= options_.queue_max) {
    return error::ResourceExhausted("{} has {} operations waiting: ask again later", options_.name,
                                    waiting_.size());
  }
  waiting_.push_back(std::move(job));
  changed_.notify_one();
  return absl::OkStatus();
}

void IoThreads::RunThread(std::shared_ptr<IoThreads> self) {
  while (true) {
    Job job;
    {
      MutexLock lock(&self->mutex_);
      while (self->waiting_.empty() && !self->stopping_) {
        self->changed_.wait(self->mutex_);
      }
      if (self->stopping_) {
        break;
      }
      job = std::move(self->waiting_.front());
      self->waiting_.pop_front();
    }
    job.run();
    self->Finished(std::move(job));
  }
  self->options_.at_end();
  MutexLock lock(&self->mutex_);
  self->running_ -= 1;
  self->changed_.notify_all();
}

// The loop may be gone once Stop() was called: then Stop() finishes the job, or nobody does.
void IoThreads::Finished(Job job) {
  MutexLock lock(&mutex_);
  finished_.push_back(std::move(job));
  if (!stopping_ && finished_.size() == 1) {
    loop_->PostFromAnyThread([self = shared_from_this()] { self->FinishAll(); });
  }
}

void IoThreads::FinishAll() {
  std::vector<Job> finished;
  {
    MutexLock lock(&mutex_);
    finished.swap(finished_);
  }
  for (Job& job : finished) {
    job.finish();
  }
}

void IoThreads::Stop() {
  GEMEL_CHECK(loop_->is_shut_down() || loop_->OnLoopThread());
  std::deque<Job> waiting;
  bool all_ended = false;
  {
    MutexLock lock(&mutex_);
    stopping_ = true;
    waiting.swap(waiting_);
    changed_.notify_all();
    all_ended = changed_.wait_for(mutex_, kPersistStopPatience,
                                  [this]() GEMEL_REQUIRES(mutex_) { return running_ == 0; });
  }
  for (std::thread& thread : threads_) {
    all_ended ? thread.join() : thread.detach();
  }
  threads_.clear();
  for (Job& job : waiting) {
    job.finish();
  }
  FinishAll();
  if (all_ended) {
    options_.at_end = nullptr;
  } else {
    // On purpose: what the stuck job holds must stay, and nobody is left to free it.
    static std::vector<std::shared_ptr<IoThreads>>* const left_behind =
        new std::vector<std::shared_ptr<IoThreads>>();
    left_behind->push_back(shared_from_this());
  }
}

}  // namespace gemel

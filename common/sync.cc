// SPDX-License-Identifier: Apache-2.0
#include "common/sync.h"

namespace gemel {

WaitQueue::Waiter::~Waiter() {
  if (linked_) {
    queue_->Unlink(this);
    if (timer_ != Loop::kNoTimer && !queue_->loop_->is_shut_down()) {
      queue_->loop_->CancelTimer(timer_);
    }
  }
}

void WaitQueue::Waiter::await_suspend(std::coroutine_handle<> caller) {
  caller_ = caller;
  queue_->Link(this);
  if (deadline_ != kTimeNever) {
    timer_ = queue_->loop_->RunAt(deadline_, [this] {
      timer_ = Loop::kNoTimer;
      queue_->Wake(this, false);
    });
  }
}

WaitQueue::~WaitQueue() {
  // Only a loop that was shut down leaves waiters behind: it destroys frames in any order.
  GEMEL_CHECK(first_ == nullptr || loop_->is_shut_down()) << "a queue ends with waiters";
  while (first_ != nullptr) {
    Unlink(first_);
  }
}

void WaitQueue::Link(Waiter* waiter) {
  GEMEL_CHECK(!waiter->linked_);
  waiter->linked_ = true;
  waiter->previous_ = last_;
  (last_ != nullptr ? last_->next_ : first_) = waiter;
  last_ = waiter;
}

void WaitQueue::Unlink(Waiter* waiter) {
  GEMEL_CHECK(waiter->linked_);
  waiter->linked_ = false;
  (waiter->previous_ != nullptr ? waiter->previous_->next_ : first_) = waiter->next_;
  (waiter->next_ != nullptr ? waiter->next_->previous_ : last_) = waiter->previous_;
}

void WaitQueue::Wake(Waiter* waiter, bool notified) {
  Unlink(waiter);
  waiter->notified_ = notified;
  if (loop_->is_shut_down()) {
    return;
  }
  if (waiter->timer_ != Loop::kNoTimer) {
    loop_->CancelTimer(waiter->timer_);
    waiter->timer_ = Loop::kNoTimer;
  }
  loop_->Post([caller = waiter->caller_] { internal::Resume(caller); });
}

void WaitQueue::NotifyAll() {
  while (first_ != nullptr) {
    Wake(first_, true);
  }
}

void WaitQueue::NotifyOne() {
  if (first_ != nullptr) {
    Wake(first_, true);
  }
}

Task<bool> Semaphore::Acquire(size_t count, TimePoint deadline) {
  while (permits_ < count) {
    bool notified = co_await queue_.WaitUntil(deadline);
    if (!notified && permits_ < count) {
      co_return false;
    }
  }
  permits_ -= count;
  co_return true;
}

void Semaphore::Release(size_t count) {
  permits_ += count;
  queue_.NotifyAll();
}

Gate::Pass::~Pass() {
  if (gate_ == nullptr) {
    return;
  }
  GEMEL_CHECK_GT(gate_->inside_, 0U);
  gate_->inside_ -= 1;
  if (gate_->inside_ == 0) {
    gate_->queue_.NotifyAll();
  }
}

Gate::Pass Gate::Enter() {
  if (closed_) {
    return Pass();
  }
  inside_ += 1;
  return Pass(this);
}

Task<void> Gate::Close() {
  closed_ = true;
  while (inside_ > 0) {
    co_await queue_.WaitUntil(kTimeNever);
  }
}

namespace {

struct Gathering {
  explicit Gathering(Loop* loop, size_t count)
      : queue(loop), statuses(count, absl::UnknownError("not run")), left(count) {}

  WaitQueue queue;
  std::vector<absl::Status> statuses;
  size_t left;
};

Task<void> RunOne(std::shared_ptr<Gathering> gathering, size_t index, Task<absl::Status> task) {
  absl::Status status = co_await std::move(task);
  gathering->statuses[index] = std::move(status);
  gathering->left -= 1;
  gathering->queue.NotifyAll();
}

}  // namespace

Task<std::vector<absl::Status>> Gather(Loop* loop, std::vector<Task<absl::Status>> tasks) {
  // shared_ptr: at a shutdown the loop destroys parent and children in any order.
  auto gathering = std::make_shared<Gathering>(loop, tasks.size());
  for (size_t i = 0; i < tasks.size(); ++i) {
    loop->Spawn(RunOne(gathering, i, std::move(tasks[i])));
  }
  while (gathering->left > 0) {
    co_await gathering->queue.WaitUntil(kTimeNever);
  }
  co_return std::move(gathering->statuses);
}

absl::Status FirstError(const std::vector<absl::Status>& statuses) {
  for (const absl::Status& status : statuses) {
    if (!status.ok()) {
      return status;
    }
  }
  return absl::OkStatus();
}

}  // namespace gemel

// SPDX-License-Identifier: Apache-2.0
#include "common/sync.h"

namespace gemel {

// One suspended WaitUntil(). It is linked while neither notified nor timed out.
struct WaitQueue::Waiter {
  WaitQueue* queue;
  TimePoint deadline;
  std::coroutine_handle<> caller;
  std::list<Waiter*>::iterator position;
  Loop::TimerId timer = Loop::kNoTimer;
  bool linked = false;
  bool notified = false;

  Waiter(WaitQueue* queue, TimePoint deadline) : queue(queue), deadline(deadline) {}

  Waiter(const Waiter&) = delete;
  Waiter& operator=(const Waiter&) = delete;

  ~Waiter() {
    if (linked) {
      queue->waiters_.erase(position);
      if (timer != Loop::kNoTimer && !queue->loop_->is_shut_down()) {
        queue->loop_->CancelTimer(timer);
      }
    }
  }

  bool await_ready() const noexcept { return false; }

  void await_suspend(std::coroutine_handle<> handle) {
    caller = handle;
    position = queue->waiters_.insert(queue->waiters_.end(), this);
    linked = true;
    if (deadline != kTimeNever) {
      timer = queue->loop_->RunAt(deadline, [this] {
        timer = Loop::kNoTimer;
        queue->Wake(this, false);
      });
    }
  }

  bool await_resume() const noexcept { return notified; }
};

WaitQueue::~WaitQueue() {
  // Only a loop that was shut down leaves waiters behind: it destroys frames in any order.
  GEMEL_CHECK(waiters_.empty() || loop_->is_shut_down()) << waiters_.size() << " waiters";
  for (Waiter* waiter : waiters_) {
    waiter->linked = false;
  }
}

Task<bool> WaitQueue::WaitUntil(TimePoint deadline) {
  Waiter waiter(this, deadline);
  co_return co_await waiter;
}

void WaitQueue::Wake(Waiter* waiter, bool notified) {
  GEMEL_CHECK(waiter->linked);
  waiters_.erase(waiter->position);
  waiter->linked = false;
  waiter->notified = notified;
  if (loop_->is_shut_down()) {
    return;
  }
  if (waiter->timer != Loop::kNoTimer) {
    loop_->CancelTimer(waiter->timer);
    waiter->timer = Loop::kNoTimer;
  }
  loop_->Post([caller = waiter->caller] { internal::Resume(caller); });
}

void WaitQueue::NotifyAll() {
  while (!waiters_.empty()) {
    Wake(waiters_.front(), true);
  }
}

void WaitQueue::NotifyOne() {
  if (!waiters_.empty()) {
    Wake(waiters_.front(), true);
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

// SPDX-License-Identifier: Apache-2.0
//
// EpollLoop: the production Loop, over epoll, with one eventfd to wake it from other threads.
//
// Thread safety: the loop belongs to the thread that made it until Run() or RunUntil() makes the
// calling thread its own; Stop(), PostFromAnyThread() and OnLoopThread() from any thread;
// everything else on the loop's thread, or before Run(). Ownership: descriptors given to Watch()
// stay the caller's. Errors: Create() fails with Internal when the kernel refuses the descriptors
// (name and errno given).
#pragma once

#include <sys/epoll.h>

#include <atomic>
#include <deque>
#include <functional>
#include <memory>
#include <thread>
#include <unordered_map>
#include <vector>

#include "absl/status/statusor.h"

#include "common/loop.h"
#include "common/mutex.h"
#include "common/spin_policy.h"
#include "common/timer_queue.h"

namespace gemel {

class EpollLoop final : public Loop {
 public:
  // Called with the ready EPOLL* bits of a watched descriptor.
  using ReadyCallback = std::function<void(uint32_t events)>;

  static absl::StatusOr<std::unique_ptr<EpollLoop>> Create();
  ~EpollLoop() override;

  // Runs until Stop() or Shutdown(). May be called again after a Stop().
  void Run();
  // Runs until `done`, `deadline` or Shutdown(); true when done. For programs' main and tests.
  bool RunUntil(const std::function<bool()>& done, TimePoint deadline);
  void Stop();
  // Ends the loop for good: queues dropped, tasks destroyed.
  void Shutdown();

  // Polls for at most so long before it parks, while waits are that short. Before Run().
  void SpinFor(Duration most) { spin_ = SpinPolicy(most); }

  // Watches `fd` level-triggered for EPOLL* `events`; replaces an earlier watch of it.
  void Watch(int fd, uint32_t events, ReadyCallback ready);
  void Unwatch(int fd);

  TimePoint Now() const override;
  int64_t WallSeconds() const override;
  void Post(Callback callback) override;
  void PostFromAnyThread(Callback callback) override;
  void AtTurnEnd(Callback callback) override;
  TimerId RunAt(TimePoint when, Callback callback) override;
  void CancelTimer(TimerId timer) override;
  bool OnLoopThread() const override;

 private:
  struct Watched {
    uint64_t serial = 0;
    std::shared_ptr<ReadyCallback> ready;  // shared: a callback may replace its own watch
  };

  EpollLoop(int epoll_fd, int wake_fd) : epoll_fd_(epoll_fd), wake_fd_(wake_fd) {}

  void RunOnce(TimePoint wake_at);
  int Wait(epoll_event* events, TimePoint wake_at);
  int Poll(epoll_event* events, TimePoint began, TimePoint wake_at) const;
  void RunDueTimers();
  void RunPosted();
  void RunTurnEnds();
  void TakeForeign();
  void DropQueues();
  void Dispatch(uint64_t key, uint32_t events);
  int WaitMilliseconds(TimePoint wake_at) const;

  const int epoll_fd_;
  const int wake_fd_;
  std::atomic<std::thread::id> thread_ = std::this_thread::get_id();
  bool stopping_ = false;
  SpinPolicy spin_;
  uint64_t next_serial_ = 1;
  std::deque<Callback> posted_;
  std::vector<Callback> turn_ends_;
  TimerQueue timers_;
  std::unordered_map<int, Watched> watched_;
  Mutex foreign_mutex_;
  bool foreign_closed_ GEMEL_GUARDED_BY(foreign_mutex_) = false;  // after Shutdown()
  std::vector<Callback> foreign_ GEMEL_GUARDED_BY(foreign_mutex_);
};

}  // namespace gemel

// SPDX-License-Identifier: Apache-2.0
#include "common/epoll_loop.h"

#include <sched.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "common/errors.h"

namespace gemel {
namespace {

constexpr int kEventsMax = 64;
constexpr uint64_t kWakeKey = 0;
constexpr int kSerialBits = 32;  // key = fd in the low half, serial of the watch in the high half

uint64_t KeyOf(int fd, uint64_t serial) {
  return (serial << kSerialBits) | static_cast<uint32_t>(fd);
}

TimePoint ReadMonotonic() {
  timespec now{};
  GEMEL_CHECK_EQ(clock_gettime(CLOCK_MONOTONIC, &now), 0);
  return TimePoint(std::chrono::seconds(now.tv_sec) + Duration(now.tv_nsec));
}

}  // namespace

absl::StatusOr<std::unique_ptr<EpollLoop>> EpollLoop::Create() {
  int epoll_fd = epoll_create1(EPOLL_CLOEXEC);
  int wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.u64 = kWakeKey;
  if (epoll_fd < 0 || wake_fd < 0 || epoll_ctl(epoll_fd, EPOLL_CTL_ADD, wake_fd, &event) != 0) {
    int error = errno;
    close(epoll_fd);
    close(wake_fd);
    return error::Internal(
        "cannot make an event loop: {}; raise the limit of open files (ulimit -n)",
        std::strerror(error));
  }
  return std::unique_ptr<EpollLoop>(new EpollLoop(epoll_fd, wake_fd));
}

EpollLoop::~EpollLoop() {
  if (!is_shut_down()) {
    Shutdown();
  }
  close(wake_fd_);
  close(epoll_fd_);
}

void EpollLoop::Run() {
  thread_ = std::this_thread::get_id();
  stopping_ = false;
  while (!stopping_ && !is_shut_down()) {
    RunOnce(kTimeNever);
  }
}

bool EpollLoop::RunUntil(const std::function<bool()>& done, TimePoint deadline) {
  thread_ = std::this_thread::get_id();
  while (!done()) {
    if (is_shut_down() || Now() >= deadline) {
      return false;
    }
    RunOnce(deadline);
  }
  return true;
}

void EpollLoop::Stop() {
  PostFromAnyThread([this] { stopping_ = true; });
}

void EpollLoop::Shutdown() {
  {
    MutexLock lock(&foreign_mutex_);
    foreign_closed_ = true;
  }
  DropQueues();
  DestroyTasks();
  DropQueues();
}

void EpollLoop::DropQueues() {
  // Moved out first: what a callback holds may post or cancel as it is destroyed.
  std::vector<Callback> foreign;
  {
    MutexLock lock(&foreign_mutex_);
    foreign.swap(foreign_);
  }
  auto posted = std::exchange(posted_, {});
  auto turn_ends = std::exchange(turn_ends_, {});
  auto timers = std::exchange(timers_, {});
  auto watched = std::exchange(watched_, {});
}

void EpollLoop::Watch(int fd, uint32_t events, ReadyCallback ready) {
  GEMEL_CHECK_GE(fd, 0);
  Watched& watched = watched_[fd];
  const bool known = watched.ready != nullptr;
  watched.serial = next_serial_++ & 0xffffffffU;
  watched.ready = std::make_shared<ReadyCallback>(std::move(ready));
  epoll_event event{};
  event.events = events;
  event.data.u64 = KeyOf(fd, watched.serial);
  int rc = epoll_ctl(epoll_fd_, known ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, fd, &event);
  GEMEL_CHECK_EQ(rc, 0) << "epoll_ctl of descriptor " << fd << ": " << std::strerror(errno);
}

void EpollLoop::Unwatch(int fd) {
  if (watched_.erase(fd) != 0) {
    epoll_ctl(epoll_fd_, EPOLL_CTL_DEL, fd, nullptr);
  }
}

TimePoint EpollLoop::Now() const { return ReadMonotonic(); }

int64_t EpollLoop::WallSeconds() const {
  timespec now{};
  GEMEL_CHECK_EQ(clock_gettime(CLOCK_REALTIME, &now), 0);
  return now.tv_sec;
}

void EpollLoop::Post(Callback callback) {
  if (!is_shut_down()) {
    posted_.push_back(std::move(callback));
  }
}

void EpollLoop::PostFromAnyThread(Callback callback) {
  {
    MutexLock lock(&foreign_mutex_);
    if (foreign_closed_) {
      return;
    }
    foreign_.push_back(std::move(callback));
  }
  uint64_t one = 1;
  ssize_t written = write(wake_fd_, &one, sizeof(one));
  GEMEL_CHECK(written == sizeof(one) || errno == EAGAIN);
}

void EpollLoop::AtTurnEnd(Callback callback) {
  if (!is_shut_down()) {
    turn_ends_.push_back(std::move(callback));
  }
}

Loop::TimerId EpollLoop::RunAt(TimePoint when, Callback callback) {
  if (is_shut_down()) {
    return kNoTimer;
  }
  // Not before now, as in the simulator: a task that keeps sleeping until the past starves nobody.
  when = std::max(when, Now());
  return timers_.Add(when, std::move(callback));
}

void EpollLoop::CancelTimer(TimerId timer) { timers_.Cancel(timer); }

bool EpollLoop::OnLoopThread() const { return thread_ == std::this_thread::get_id(); }

int EpollLoop::WaitMilliseconds(TimePoint wake_at) const {
  if (!posted_.empty() || !turn_ends_.empty()) {
    return 0;
  }
  wake_at = std::min(wake_at, timers_.NextDeadline());
  if (wake_at == kTimeNever) {
    return -1;
  }
  auto wait = std::chrono::ceil<std::chrono::milliseconds>(wake_at - Now()).count();
  return static_cast<int>(std::clamp<int64_t>(wait, 0, 60'000));
}

// Without parking, until something is ready or the budget or the next timer is up.
int EpollLoop::Poll(epoll_event* events, TimePoint began, TimePoint wake_at) const {
  while (true) {
    const int count = epoll_wait(epoll_fd_, events, kEventsMax, 0);
    if (count != 0 || Now() - began >= spin_.budget() || WaitMilliseconds(wake_at) == 0) {
      return count;
    }
    sched_yield();  // whoever shares the core goes first
  }
}

int EpollLoop::Wait(epoll_event* events, TimePoint wake_at) {
  const int wait_ms = WaitMilliseconds(wake_at);
  if (wait_ms == 0 || !spin_.enabled()) {
    return epoll_wait(epoll_fd_, events, kEventsMax, wait_ms);
  }
  const TimePoint began = Now();
  int count = spin_.budget() > Duration() ? Poll(events, began, wake_at) : 0;
  const bool caught = count != 0;
  if (!caught) {
    count = epoll_wait(epoll_fd_, events, kEventsMax, WaitMilliseconds(wake_at));
  }
  spin_.Waited(Now() - began, caught);
  return count;
}

void EpollLoop::RunOnce(TimePoint wake_at) {
  std::array<epoll_event, kEventsMax> events{};
  const int count = Wait(events.data(), wake_at);
  GEMEL_CHECK(count >= 0 || errno == EINTR) << std::strerror(errno);
  for (int i = 0; i < count; ++i) {
    const epoll_event& event = events[static_cast<size_t>(i)];
    if (event.data.u64 == kWakeKey) {
      TakeForeign();
    } else {
      Dispatch(event.data.u64, event.events);
    }
  }
  RunDueTimers();
  RunPosted();
  RunTurnEnds();
}

void EpollLoop::Dispatch(uint64_t key, uint32_t events) {
  auto found = watched_.find(static_cast<int>(key & 0xffffffffU));
  // A descriptor closed and reused within one batch has another serial: the event is not its.
  if (found == watched_.end() || found->second.serial != key >> kSerialBits) {
    return;
  }
  std::shared_ptr<ReadyCallback> ready = found->second.ready;
  (*ready)(events);
}

void EpollLoop::TakeForeign() {
  uint64_t wakes = 0;
  ssize_t got = read(wake_fd_, &wakes, sizeof(wakes));
  GEMEL_CHECK(got == sizeof(wakes) || errno == EAGAIN);
  std::vector<Callback> taken;
  {
    MutexLock lock(&foreign_mutex_);
    taken.swap(foreign_);
  }
  for (Callback& callback : taken) {
    Post(std::move(callback));
  }
}

void EpollLoop::RunDueTimers() {
  const TimePoint now = Now();
  while (Callback callback = timers_.TakeDue(now)) {
    callback();
  }
}

void EpollLoop::RunPosted() {
  // Only what is there now: a callback that posts again must not starve the descriptors.
  for (size_t left = posted_.size(); left > 0 && !posted_.empty(); --left) {
    Callback callback = std::move(posted_.front());
    posted_.pop_front();
    callback();
  }
}

void EpollLoop::RunTurnEnds() {
  for (Callback& callback : std::exchange(turn_ends_, {})) {
    if (!is_shut_down()) {
      callback();
    }
  }
}

}  // namespace gemel

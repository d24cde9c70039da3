// SPDX-License-Identifier: Apache-2.0
#include "common/sim_loop.h"

#include <algorithm>

namespace gemel {

void SimScheduler::MixIntoHistory(uint64_t fact) {
  history_hash_ = (history_hash_ ^ fact) * 0x100000001b3ULL;
  history_hash_ ^= history_hash_ >> 29;
}

SimScheduler::Key SimScheduler::Insert(TimePoint when, Event event) {
  Key key{std::max(when, now_), next_sequence_++};
  events_.emplace(key, std::move(event));
  return key;
}

bool SimScheduler::RunOne(TimePoint limit) {
  if (events_.empty() || events_.begin()->first.first > limit) {
    now_ = limit == kTimeNever ? now_ : std::max(now_, limit);
    return false;
  }
  auto first = events_.begin();
  Key key = first->first;
  Event event = std::move(first->second);
  events_.erase(first);
  GEMEL_CHECK(key.first >= now_);
  now_ = key.first;
  if (event.loop != nullptr) {
    SimLoop* loop = event.loop;
    if (loop->paused_) {
      loop->deferred_.emplace(key, std::move(event));
      return true;
    }
    // A moment before it is free: so what was due earlier runs before what is due just then.
    if (const TimePoint free = loop->busy_until_ - Duration(1); free > now_) {
      const Loop::TimerId timer = event.timer;
      loop->busy_delays_ += 1;
      loop->pending_[timer] = Insert(free, std::move(event));
      return true;
    }
    loop->busy_until_ = now_ + loop->turn_cost_;
    loop->pending_.erase(event.timer);
  }
  events_run_ += 1;
  MixIntoHistory(static_cast<uint64_t>(now_.time_since_epoch().count()) ^ (key.second << 20));
  running_ = event.loop;
  event.callback();
  running_ = nullptr;
  return true;
}

bool SimScheduler::RunUntil(const std::function<bool()>& done, TimePoint limit) {
  while (!done()) {
    if (!RunOne(limit)) {
      return done();
    }
  }
  return true;
}

SimLoop::~SimLoop() {
  if (!is_shut_down()) {
    Kill();
  }
}

void SimLoop::Resume() {
  if (!paused_) {
    return;
  }
  paused_ = false;
  // Events due now that were not yet put aside come after those that were: all are numbered anew.
  for (const auto& [timer, key] : pending_) {
    auto due = scheduler_->events_.find(key);
    if (key.first <= scheduler_->now_ && due != scheduler_->events_.end()) {
      deferred_.emplace(key, std::move(due->second));
      scheduler_->events_.erase(due);
    }
  }
  for (auto& [key, event] : std::exchange(deferred_, {})) {
    const TimerId timer = event.timer;
    pending_[timer] = scheduler_->Insert(scheduler_->now_, std::move(event));
  }
}

void SimLoop::DropEvents() {
  // Moved out first: what a callback holds may post or cancel as it is destroyed.
  auto deferred = std::exchange(deferred_, {});
  for (const auto& [timer, key] : std::exchange(pending_, {})) {
    auto waiting = scheduler_->events_.find(key);
    if (waiting != scheduler_->events_.end()) {
      deferred.insert(scheduler_->events_.extract(waiting));
    }
  }
}

void SimLoop::Kill() {
  DropEvents();
  DestroyTasks();
  DropEvents();
}

void SimLoop::SetClockRate(uint32_t rate_permille) {
  GEMEL_CHECK_GT(rate_permille, 0U);
  rate_since_local_ = Now();
  rate_since_world_ = scheduler_->now();
  rate_permille_ = rate_permille;
  for (auto& [timer, key] : pending_) {
    auto waiting = scheduler_->events_.extract(key);
    if (!waiting.empty()) {
      const TimePoint due = ToWorld(waiting.mapped().due);
      key = scheduler_->Insert(due, std::move(waiting.mapped()));
    }
  }
}

TimePoint SimLoop::ToLocal(TimePoint world) const {
  const auto passed = static_cast<__int128>((world - rate_since_world_).count());
  return rate_since_local_ + Duration(static_cast<int64_t>(passed * rate_permille_ / kTrueRate));
}

TimePoint SimLoop::ToWorld(TimePoint local) const {
  if (local <= rate_since_local_ || local == kTimeNever) {
    return local == kTimeNever ? kTimeNever : rate_since_world_;
  }
  const auto passed = static_cast<__int128>((local - rate_since_local_).count());
  const __int128 needed = (passed * kTrueRate + rate_permille_ - 1) / rate_permille_;
  const __int128 left = (kTimeNever - rate_since_world_).count();
  return needed >= left ? kTimeNever : rate_since_world_ + Duration(static_cast<int64_t>(needed));
}

int64_t SimLoop::WallSeconds() const {
  return std::chrono::floor<std::chrono::seconds>(Now().time_since_epoch()).count() +
         wall_offset_s_;
}

void SimLoop::Post(Callback callback) { RunAt(Now(), std::move(callback)); }

Loop::TimerId SimLoop::RunAt(TimePoint when, Callback callback) {
  if (is_shut_down()) {
    return kNoTimer;
  }
  const TimerId timer = next_timer_++;
  pending_[timer] = scheduler_->Insert(ToWorld(when),
                                       SimScheduler::Event{this, timer, std::move(callback), when});
  return timer;
}

void SimLoop::CancelTimer(TimerId timer) {
  auto found = pending_.find(timer);
  if (found == pending_.end()) {
    return;
  }
  const SimScheduler::Key key = found->second;
  pending_.erase(found);
  // Extracted first: the callback may post or cancel as it is destroyed.
  auto waiting = scheduler_->events_.extract(key);
  auto deferred = deferred_.extract(key);
  GEMEL_CHECK(waiting.empty() != deferred.empty());
}

}  // namespace gemel

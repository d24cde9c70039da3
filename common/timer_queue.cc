// SPDX-License-Identifier: Apache-2.0
#include "common/timer_queue.h"

#include <algorithm>
#include <utility>

#include "common/check.h"

namespace gemel {
namespace {

// An id is its number in the order of adding, then its place.
constexpr int kPlaceBits = 24;
constexpr uint64_t kPlacesMax = uint64_t{1} << kPlaceBits;

size_t PlaceOf(Loop::TimerId timer) { return timer & (kPlacesMax - 1); }

}  // namespace

bool TimerQueue::Later(const Deadline& a, const Deadline& b) {
  return a.when != b.when ? a.when > b.when : a.timer > b.timer;
}

bool TimerQueue::IsLive(TimerId timer) const {
  const size_t place = PlaceOf(timer);
  return timer != Loop::kNoTimer && place < places_.size() && places_[place].timer == timer;
}

TimerQueue::TimerId TimerQueue::Add(TimePoint when, Loop::Callback callback) {
  if (free_.empty()) {
    GEMEL_CHECK_LT(places_.size(), kPlacesMax);
    free_.push_back(static_cast<uint32_t>(places_.size()));
    places_.emplace_back();
  }
  const uint32_t place = free_.back();
  free_.pop_back();
  const TimerId timer = ++added_ << kPlaceBits | place;
  GEMEL_CHECK_EQ(places_[place].timer, Loop::kNoTimer);
  places_[place].timer = timer;
  places_[place].callback = std::move(callback);
  heap_.push_back({when, timer});
  std::push_heap(heap_.begin(), heap_.end(), Later);
  return timer;
}

// The callback of a live timer, whose place is free from here on.
Loop::Callback TimerQueue::Leave(TimerId timer) {
  Place& place = places_[PlaceOf(timer)];
  place.timer = Loop::kNoTimer;
  free_.push_back(static_cast<uint32_t>(PlaceOf(timer)));
  return std::exchange(place.callback, nullptr);
}

void TimerQueue::Cancel(TimerId timer) {
  if (!IsLive(timer)) {
    return;
  }
  const Loop::Callback dropped = Leave(timer);  // what it holds may cancel another as it goes
  if (heap_.size() > 2 * size() + kSpareDeadlines) {
    DropCancelled();
  }
}

void TimerQueue::DropCancelled() {
  std::erase_if(heap_, [this](const Deadline& deadline) { return !IsLive(deadline.timer); });
  std::make_heap(heap_.begin(), heap_.end(), Later);
  GEMEL_CHECK_EQ(heap_.size(), size());
}

Loop::Callback TimerQueue::TakeDue(TimePoint now) {
  while (!heap_.empty() && heap_.front().when <= now) {
    const TimerId timer = heap_.front().timer;
    std::pop_heap(heap_.begin(), heap_.end(), Later);
    heap_.pop_back();
    if (IsLive(timer)) {
      return Leave(timer);
    }
  }
  return nullptr;
}

TimePoint TimerQueue::NextDeadline() const {
  return heap_.empty() ? kTimeNever : heap_.front().when;
}

}  // namespace gemel

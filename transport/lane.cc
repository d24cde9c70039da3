// SPDX-License-Identifier: Apache-2.0
#include "transport/lane.h"

#include <algorithm>
#include <utility>

#include "common/check.h"

namespace gemel {
namespace {

constexpr int64_t kSmoothing = 8;  // a new sample counts an eighth
constexpr Duration kLateMin = 50ms;

Task<absl::StatusOr<Reply>> RunOn(std::shared_ptr<Lane> lane, LanePace::Ticket ticket,
                                  Request request, MutableByteSpan reply_into, TimePoint deadline) {
  const std::shared_ptr<Session> session = lane->session;
  const std::shared_ptr<CallStop> stop = request.stop;
  absl::StatusOr<Reply> reply = co_await session->Call(std::move(request), reply_into, deadline);
  const bool answered = reply.ok() || (session->open() && reply.status().code() !=
                                                              absl::StatusCode::kDeadlineExceeded);
  if (answered && stop != nullptr && stop->stopped()) {
    lane->pace.Stop(ticket, lane->loop()->Now());
  } else {
    lane->pace.End(ticket, lane->loop()->Now(), answered);
  }
  lane->changed->NotifyAll();
  co_return reply;
}

}  // namespace

LanePace::Ticket LanePace::Begin(TimePoint now) {
  GEMEL_CHECK(began_.empty() || began_.back() <= now);
  began_.push_back(now);
  return Ticket{now, began_.size()};
}

Duration LanePace::Take(const Ticket& ticket, TimePoint now) {
  const auto found = std::find(began_.begin(), began_.end(), ticket.began);
  GEMEL_CHECK(found != began_.end() && ticket.ahead > 0);
  began_.erase(found);
  return (now - ticket.began) / static_cast<int64_t>(ticket.ahead);
}

void LanePace::End(const Ticket& ticket, TimePoint now, bool arrived) {
  const Duration took = Take(ticket, now);
  if (!arrived) {
    Blame(now);
    return;
  }
  slice_time_ += slice_time_ == Duration::zero() ? took : (took - slice_time_) / kSmoothing;
  window_ = std::min(window_ + 1, kLaneWindowMax);
  pause_ -= pause_ / 10;
  pause_ = pause_ < kLanePauseMin ? Duration::zero() : pause_;
}

// One that had just begun would make the lane look fast.
void LanePace::Stop(const Ticket& ticket, TimePoint now) {
  const Duration took = Take(ticket, now);
  if (slice_time_ > Duration::zero() && took > slice_time_) {
    slice_time_ += (took - slice_time_) / kSmoothing;
  }
}

void LanePace::Blame(TimePoint now) {
  window_ = kLaneWindowFirst;
  if (IsPaused(now)) {
    return;  // all that was under way on it fails at once
  }
  pause_ = std::clamp(2 * pause_, kLanePauseMin, kLanePauseMax);
  paused_until_ = Add(now, pause_);
}

bool LanePace::IsSlow(Duration fastest) const {
  return fastest > Duration::zero() && slice_time_ > kLaneSlowFactor * fastest;
}

TimePoint LanePace::Due(TimePoint now) const {
  return Add(now, slice_time_ == Duration::zero() ? kLateMin : Expected());
}

bool LanePace::IsLate(TimePoint now) const {
  return !began_.empty() && now - began_.front() > kLateMin + kLaneSlowFactor * Expected();
}

Task<absl::StatusOr<Reply>> CallOn(std::shared_ptr<Lane> lane, Request request,
                                   MutableByteSpan reply_into, TimePoint deadline) {
  GEMEL_CHECK(lane->session != nullptr) << lane->address;
  const LanePace::Ticket ticket = lane->pace.Begin(lane->loop()->Now());
  return RunOn(std::move(lane), ticket, std::move(request), reply_into, deadline);
}

}  // namespace gemel

// SPDX-License-Identifier: Apache-2.0
#include "server/spray.h"

#include <algorithm>

#include "common/check.h"

namespace gemel {
namespace {

// A slice is sent again when this lane needs less than half of what the other one still does.
constexpr int64_t kSoonerFactor = 2;
// Overdue: by this many times what was expected, and this long.
constexpr int64_t kOverdueFactor = 4;
constexpr Duration kOverdueMin = 50ms;
constexpr Duration kLookMin = 1ms;
constexpr Duration kLookMax = 50ms;

}  // namespace

std::optional<Spray::Pick> Spray::Take(const Lane& lane, TimePoint now, bool hurry) {
  Pick pick;
  if (!waiting_.empty() && MayTakeWaiting()) {
    pick = waiting_.front();
    waiting_.pop_front();
    begun_ += pick.again ? 0 : 1;
    GEMEL_CHECK_LE(begun_, arrived_.size());
  } else {
    const std::optional<uint32_t> late = FindLate(lane, now, hurry);
    if (!late.has_value()) {
      return std::nullopt;
    }
    pick = Pick{*late, true};
  }
  GEMEL_CHECK_LT(pick.slice, arrived_.size());
  GEMEL_CHECK(!arrived_[pick.slice] && !IsOn(pick.slice, &lane)) << "slice " << pick.slice;
  const TimePoint due = lane.pace.Due(now);
  const TimePoint overdue = gemel::Add(due, kOverdueMin + kOverdueFactor * (due - now));
  under_way_.push_back({pick.slice, &lane, due, overdue});
  return pick;
}

bool Spray::IsOn(uint32_t slice, const Lane* lane) const {
  return std::any_of(under_way_.begin(), under_way_.end(), [&](const UnderWay& one) {
    return one.slice == slice && (lane == nullptr || one.lane == lane);
  });
}

// What the lanes that have it are expected to need still: once that time has passed, as long again
// as it is overdue.
Duration Spray::RemainingOf(uint32_t slice, TimePoint now) const {
  Duration least = Duration::max();
  for (const UnderWay& one : under_way_) {
    if (one.slice == slice) {
      least = std::min(least, one.due > now ? one.due - now : now - one.due);
    }
  }
  return least;
}

// The oldest one that would be there sooner over `lane`.
std::optional<uint32_t> Spray::FindLate(const Lane& lane, TimePoint now, bool hurry) const {
  const Duration here = lane.pace.Due(now) - now;
  for (const UnderWay& one : under_way_) {
    if (arrived_[one.slice] || IsOn(one.slice, &lane)) {
      continue;
    }
    const bool late =
        waiting_.empty() ? RemainingOf(one.slice, now) > kSoonerFactor * here : now > one.overdue;
    if (hurry || late) {
      return one.slice;
    }
  }
  return std::nullopt;
}

void Spray::End(uint32_t slice, const Lane& lane, bool arrived) {
  GEMEL_CHECK_LT(slice, arrived_.size());
  const auto found = std::find_if(under_way_.begin(), under_way_.end(), [&](const UnderWay& one) {
    return one.slice == slice && one.lane == &lane;
  });
  GEMEL_CHECK(found != under_way_.end()) << "slice " << slice;
  under_way_.erase(found);
  if (arrived && !arrived_[slice]) {
    arrived_[slice] = true;
    arrived_count_ += 1;
  }
  if (!arrived_[slice] && !IsOn(slice, nullptr)) {
    waiting_.push_front({slice, true});
  }
}

TimePoint Spray::LookAgainAt(const Lane& lane, TimePoint now) const {
  const bool elsewhere =
      std::any_of(under_way_.begin(), under_way_.end(),
                  [&](const UnderWay& one) { return !arrived_[one.slice] && one.lane != &lane; });
  return elsewhere ? gemel::Add(now, std::clamp(lane.pace.Due(now) - now, kLookMin, kLookMax))
                   : kTimeNever;
}

}  // namespace gemel

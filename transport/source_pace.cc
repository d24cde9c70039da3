// SPDX-License-Identifier: Apache-2.0
#include "transport/source_pace.h"

#include "common/check.h"
#include "common/points.h"

namespace gemel {

SourcePace::Ticket SourcePace::Begin(TimePoint now) { return pace_.Begin(now); }

void SourcePace::Arrived(const Ticket& ticket, TimePoint now, Duration fastest) {
  pace_.End(ticket, now, true);
  Judge((now - ticket.began) / static_cast<int64_t>(ticket.ahead), fastest, now);
}

void SourcePace::Stopped(const Ticket& ticket, TimePoint now, Duration fastest) {
  GEMEL_CHECK(now >= ticket.began && ticket.ahead > 0);
  pace_.Stop(ticket, now);
  const Duration slice = (now - ticket.began) / static_cast<int64_t>(ticket.ahead);
  if (fastest > Duration::zero() && slice > kLaneSlowFactor * fastest) {
    Judge(slice, fastest, now);
  }
}

void SourcePace::Failed(const Ticket& ticket, TimePoint now) { pace_.End(ticket, now, false); }

void SourcePace::Judge(Duration slice, Duration fastest, TimePoint now) {
  GEMEL_CHECK_GE(slice.count(), 0);
  if (now >= forgotten_at_) {
    on_probation_ = false;
    in_a_row_ = 0;
  }
  forgotten_at_ = Add(now, kProbationMemory);
  const bool soon = Buggify(BuggifySite::kProbationSoon);
  const int64_t factor = soon ? 1 : kLaneSlowFactor;
  const uint32_t begins = soon ? 1 : kProbationSlices;
  const bool slow = fastest > Duration::zero() && slice > factor * fastest;
  in_a_row_ = slow == on_probation_ ? 0 : in_a_row_ + 1;
  if (!on_probation_ && in_a_row_ >= begins) {
    Sometimes(Situation::kSourceOnProbation);
    on_probation_ = true;
    in_a_row_ = 0;
  } else if (on_probation_ && in_a_row_ >= kProbationEnds) {
    on_probation_ = false;
    in_a_row_ = 0;
  }
  GEMEL_CHECK_LT(in_a_row_, kProbationSlices);
}

}  // namespace gemel

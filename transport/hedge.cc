// SPDX-License-Identifier: Apache-2.0
#include "transport/hedge.h"

#include <algorithm>
#include <utility>

#include "common/check.h"
#include "common/copies.h"
#include "common/errors.h"
#include "common/points.h"
#include "common/xxh3.h"

namespace gemel {
namespace {

// A late read that nobody may read again now: how soon that is asked anew.
constexpr Duration kLookMin = 1ms;
constexpr Duration kLookMax = 50ms;

}  // namespace

void HedgePolicy::Begin(uint64_t bytes) {
  GEMEL_CHECK(bytes > 0 && bytes <= kChunkBytes) << bytes;
  counts_.reads += 1;
  requests_ = std::min(requests_ + kHedgePercent, kHedgesSaved * kWhole);
  bytes_ = std::min(bytes_ + kHedgeBytesPercent * bytes, kHedgesSaved * kChunkBytes * kWhole);
}

bool HedgePolicy::Take(uint64_t bytes) {
  GEMEL_CHECK_LE(bytes, kChunkBytes);
  if (requests_ < kWhole || bytes_ < bytes * kWhole) {
    counts_.refused += 1;
    return false;
  }
  requests_ -= kWhole;
  bytes_ -= bytes * kWhole;
  counts_.hedged += 1;
  return true;
}

HedgedRead::HedgedRead(Loop* loop, HedgePolicy* policy, Wanted wanted)
    : loop_(loop), policy_(policy), wanted_(std::move(wanted)), changed_(loop) {
  GEMEL_CHECK(wanted_.first != nullptr && !wanted_.place.empty());
  GEMEL_CHECK_LE(wanted_.place.size(), kChunkBytes);
}

Task<absl::Status> HedgedRead::Result() {
  const std::shared_ptr<HedgedRead> self = shared_from_this();
  GEMEL_CHECK(!first_.running && !settled_) << "a read is begun once";
  began_ = loop_->Now();
  if (policy_ != nullptr) {
    policy_->Begin(wanted_.place.size());
  }
  Begin(&first_);
  loop_->Spawn(RunFirst(self));
  TimePoint look_at = FirstLook();
  while (!settled_) {
    const bool changed = co_await changed_.WaitUntil(look_at);
    if (changed || settled_) {
      continue;
    }
    const Duration pause = std::clamp(policy_->Patience() / 4, kLookMin, kLookMax);
    look_at = TryHedge() ? kTimeNever : gemel::Add(loop_->Now(), pause);
  }
  co_return result_;
}

TimePoint HedgedRead::FirstLook() const {
  if (policy_ == nullptr || wanted_.second == nullptr) {
    return kTimeNever;
  }
  const bool at_once = Buggify(BuggifySite::kHedgeAtOnce);
  return at_once ? began_ : gemel::Add(began_, policy_->Patience());
}

bool HedgedRead::TryHedge() {
  GEMEL_CHECK(!settled_ && first_.running && !outcome_.hedged);
  Source source = wanted_.second();
  if (source == nullptr || !policy_->Take(wanted_.place.size())) {
    return false;
  }
  outcome_.hedged = true;
  Begin(&second_);
  loop_->Spawn(RunSecond(shared_from_this(), std::move(source)));
  return true;
}

void HedgedRead::Begin(Read* read) {
  GEMEL_CHECK(!read->running && !read->stop->stopped());
  read->running = true;
  read->status = error::Unavailable("the read is under way");
}

Task<void> HedgedRead::RunFirst(std::shared_ptr<HedgedRead> self) {
  Into into{self->wanted_.place, self->wanted_.keep, self->first_.stop};
  const absl::StatusOr<Digest128> found = co_await self->wanted_.first(std::move(into));
  absl::Status read = found.status();
  const bool timed = read.ok() || self->first_.stop->stopped() ||
                     read.code() == absl::StatusCode::kDeadlineExceeded;
  if (self->policy_ != nullptr && timed) {
    self->policy_->Record(self->loop_->Now() - self->began_);
  }
  if (read.ok() && !self->settled_) {
    read = self->Check(*found);
    if (read.ok()) {
      self->SettleBy(&self->first_);
    }
  }
  self->End(&self->first_, std::move(read));
}

Task<void> HedgedRead::RunSecond(std::shared_ptr<HedgedRead> self, Source source) {
  const size_t bytes = self->wanted_.place.size();
  const std::shared_ptr<std::byte[]> scratch(new std::byte[bytes]);
  const MutableByteSpan there(scratch.get(), bytes);
  Into into{there, scratch, self->second_.stop};
  const absl::StatusOr<Digest128> found = co_await source(std::move(into));
  absl::Status read = found.status();
  if (read.ok() && !self->settled_) {
    read = self->Check(*found);
    if (read.ok()) {
      self->StopLoser(&self->first_);  // a fence: invariant (2)
      CopyState(self->wanted_.place.data(), there.data(), bytes);
      read = self->Check(Xxh3_128(self->wanted_.place));
    }
    if (read.ok()) {
      Sometimes(Situation::kHedgeWon);
      self->outcome_.won = true;
      self->SettleBy(&self->second_);
    }
  }
  self->End(&self->second_, std::move(read));
}

absl::Status HedgedRead::Check(const Digest128& found) const {
  if (found != wanted_.digest) {
    return error::DataLoss("bytes with digest {} came where {} belongs", ToHex(found),
                           ToHex(wanted_.digest));
  }
  return absl::OkStatus();
}

void HedgedRead::SettleBy(Read* winner) {
  GEMEL_CHECK(!settled_ && winner->running);
  settled_ = true;
  result_ = absl::OkStatus();
  StopLoser(winner == &first_ ? &second_ : &first_);
}

void HedgedRead::StopLoser(Read* loser) {
  if (loser->running && !loser->stop->stopped()) {
    Sometimes(Situation::kReadStopped);
    outcome_.stopped += 1;
    loser->stop->Stop();
  }
}

// What the loser brought is waste.
void HedgedRead::End(Read* read, absl::Status status) {
  GEMEL_CHECK(read->running);
  const bool lost = read->stop->stopped() && outcome_.hedged;
  outcome_.wasted_bytes += read->stop->wasted_bytes();
  if (lost && status.ok()) {
    outcome_.wasted_bytes += wanted_.place.size();
  }
  read->running = false;
  read->status = std::move(status);
  if (!settled_ && !first_.running && !second_.running) {
    settled_ = true;
    result_ = first_.stop->stopped() ? second_.status : first_.status;
    GEMEL_CHECK(!result_.ok());
  }
  outcome_.second = second_.status;
  if (!first_.running && !second_.running && policy_ != nullptr) {
    policy_->counts_.won += outcome_.won ? 1 : 0;
    policy_->counts_.stopped += outcome_.stopped;
    policy_->counts_.wasted_bytes += outcome_.wasted_bytes;
  }
  changed_.NotifyAll();
}

Task<void> HedgedRead::Ended() {
  const std::shared_ptr<HedgedRead> self = shared_from_this();
  GEMEL_CHECK(settled_) << "Result() comes first";
  while (first_.running || second_.running) {
    co_await changed_.WaitUntil(kTimeNever);
  }
}

}  // namespace gemel

// SPDX-License-Identifier: Apache-2.0
#include "transport/admission.h"

#include <algorithm>
#include <utility>

#include "common/check.h"
#include "common/points.h"

namespace gemel {
namespace {

constexpr uint64_t kFifoEvery = 20;          // slices: 5 % go to the oldest (Homa)
constexpr size_t kSharesMin = 2;             // transfers that are let at once while several want
constexpr Duration kSilenceMin = 100ms;      // without a slice, though it has credit
constexpr int64_t kSilenceFactor = 4;        // and of what all that may come takes
constexpr int64_t kSmoothing = 8;            // a new sample counts an eighth
constexpr uint64_t kCosts[] = {1, 2, 4, 8};  // of a slice of each class: 1 / weight

static_assert(std::size(kCosts) == kTransferClasses);

}  // namespace

Admission::Admission(size_t slices_max) : slices_max_(slices_max) {
  GEMEL_CHECK_GT(slices_max_, 0U);
}

Admission::Transfer& Admission::Find(uint64_t id) {
  const auto found = transfers_.find(id);
  GEMEL_CHECK(found != transfers_.end()) << "transfer " << id;
  return found->second;
}

uint64_t Admission::Begin(TransferClass of, uint32_t slices, Given given) {
  GEMEL_CHECK(slices > 0 && given != nullptr);
  const uint64_t id = next_id_++;
  Transfer& transfer = transfers_[id];
  transfer.of = of;
  transfer.slices = slices;
  transfer.given = std::move(given);
  return id;
}

void Admission::Want(uint64_t id, uint32_t slices, TimePoint now) {
  Transfer& transfer = Find(id);
  transfer.wanted = std::max(transfer.wanted, std::min(slices, transfer.slices));
  Give(now);
}

void Admission::Arrived(uint64_t id, TimePoint now) {
  Transfer& transfer = Find(id);
  GEMEL_CHECK_LT(transfer.arrived, transfer.credit) << "transfer " << id;
  // Between two arrivals while more was on its way: what one slice takes here.
  const TimePoint since = std::max(arrived_at_, transfer.heard);
  const Duration took = now - std::min(since, now);
  slice_time_ += slice_time_ == Duration::zero() ? took : (took - slice_time_) / kSmoothing;
  arrived_at_ = now;
  transfer.arrived += 1;
  transfer.heard = now;
  Give(now);
}

void Admission::End(uint64_t id, TimePoint now) {
  const size_t erased = transfers_.erase(id);
  GEMEL_CHECK_EQ(erased, 1U) << "transfer " << id;
  Give(now);
}

Duration Admission::Patience() const {
  return std::max(kSilenceMin, slice_time_ * static_cast<int64_t>(slices_max_) * kSilenceFactor);
}

bool Admission::IsSilent(const Transfer& transfer, TimePoint now) const {
  return transfer.under_way() > 0 && now - transfer.heard > Patience();
}

size_t Admission::expected(TimePoint now) const {
  size_t expected = 0;
  for (const auto& [id, transfer] : transfers_) {
    expected += IsSilent(transfer, now) ? 0 : transfer.under_way();
  }
  return expected;
}

// Of one transfer under way.
size_t Admission::ShareMax() const {
  const auto wanting = std::count_if(transfers_.begin(), transfers_.end(),
                                     [](const Entry& one) { return one.second.wants(); });
  return wanting > 1 ? std::max<size_t>(1, slices_max_ / kSharesMin) : slices_max_;
}

// Of the class: who is let next, if anybody wants and may.
Admission::Entry* Admission::NextOf(TransferClass of, size_t share) {
  const bool oldest = given_ % kFifoEvery == kFifoEvery - 1;
  Entry* best = nullptr;
  for (Entry& one : transfers_) {
    const Transfer& transfer = one.second;
    if (transfer.of != of || !transfer.wants() || transfer.under_way() >= share) {
      continue;
    }
    const uint32_t left = transfer.slices - transfer.arrived;
    if (best == nullptr || (!oldest && left < best->second.slices - best->second.arrived)) {
      best = &one;
    }
  }
  return best;
}

Admission::Entry* Admission::Next() {
  const size_t share = ShareMax();
  Entry* best = nullptr;
  uint64_t best_start = 0;
  for (size_t of = 0; of < kTransferClasses; ++of) {
    Entry* const one = NextOf(static_cast<TransferClass>(of), share);
    const uint64_t start = std::max(clock_, finish_[of]);
    if (one != nullptr && (best == nullptr || start < best_start)) {
      best = one;
      best_start = start;
    }
  }
  if (best != nullptr) {
    const auto of = static_cast<size_t>(best->second.of);
    clock_ = best_start;
    finish_[of] = best_start + kCosts[of];
  }
  return best;
}

void Admission::Give(TimePoint now) {
  std::map<uint64_t, uint32_t> risen;
  size_t counted = expected(now);
  if (std::any_of(transfers_.begin(), transfers_.end(),
                  [&](const Entry& one) { return IsSilent(one.second, now); })) {
    Sometimes(Situation::kCreditSilent);
  }
  while (counted < slices_max_) {
    Entry* const next = Next();
    if (next == nullptr) {
      break;
    }
    Transfer& transfer = next->second;
    const bool counts = !IsSilent(transfer, now);
    transfer.heard = transfer.under_way() == 0 ? now : transfer.heard;
    transfer.credit += 1;
    GEMEL_CHECK(transfer.arrived < transfer.credit && transfer.credit <= transfer.wanted);
    given_ += 1;
    counted += counts ? 1 : 0;
    risen[next->first] = transfer.credit;
  }
  for (const auto& [id, credit] : risen) {
    const auto still = transfers_.find(id);
    if (still != transfers_.end()) {
      still->second.given(credit);
    }
  }
}

}  // namespace gemel

// SPDX-License-Identifier: Apache-2.0
//
// History: what concurrent clients asked of an object and what they were told, in the order in
// which calls began and ended. Recorder writes one; check.h judges it.
//
// Moments are a counter of the recorder and no clock: in the simulator all calls begin and end on
// one thread, so the counter is the real-time order. A call that never ended (its process was
// killed) and one whose answer says nothing (a time-out, a lost reply) are kUnknown: it may take
// effect at any moment after it began, or never.
//
// Thread safety: one thread.
// Invariants:
//   (1) invoked < returned for each operation, and no two moments are equal;
//   (2) at most kOperationsMax operations are kept; what comes after is counted, and a history that
//       is not whole is never judged.
#pragma once

#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include "common/check.h"

namespace gemel::sim {

inline constexpr size_t kOperationsMax = size_t{1} << 22;
inline constexpr uint64_t kNeverReturned = std::numeric_limits<uint64_t>::max();

enum class Outcome : uint8_t {
  kUnknown,  // may take effect at any moment after `invoked`, or never
  kTold,     // took effect, with the result that the call carries, before `returned`
  kRefused,  // had no effect, and the model says when such an answer is right
};

// One call of one client. `Call` names what was asked and, when told, the answer.
template <typename Call>
struct Operation {
  uint32_t process = 0;
  uint64_t invoked = 0;
  uint64_t returned = kNeverReturned;
  Outcome outcome = Outcome::kUnknown;
  Call call;
};

template <typename Call>
using History = std::vector<Operation<Call>>;

// What Invoke() gives back and the end of the call names. kNotRecorded: the history was full, or
// had ended.
using OperationIndex = size_t;
inline constexpr OperationIndex kNotRecorded = std::numeric_limits<size_t>::max();

template <typename Call>
class Recorder {
 public:
  OperationIndex Invoke(uint32_t process, Call call) {
    if (ended_) {
      return kNotRecorded;
    }
    if (history_.size() == kOperationsMax) {
      left_out_ += 1;
      return kNotRecorded;
    }
    history_.push_back({.process = process, .invoked = ++now_, .call = std::move(call)});
    return history_.size() - 1;
  }

  // The call ended with this answer. REQUIRES: it was not ended before.
  void Return(OperationIndex index, Outcome outcome, Call call) {
    if (index == kNotRecorded || ended_) {
      return;
    }
    GEMEL_CHECK_LT(index, history_.size());
    Operation<Call>& operation = history_[index];
    GEMEL_CHECK_EQ(operation.returned, kNeverReturned) << "the call ended twice";
    operation.outcome = outcome;
    operation.call = std::move(call);
    // Of an unknown outcome only the beginning counts.
    operation.returned = outcome == Outcome::kUnknown ? kNeverReturned : ++now_;
  }

  // What was asked, for a caller that adds the answer.
  const Call& Asked(OperationIndex index) const {
    static const Call kNothing{};
    return index == kNotRecorded ? kNothing : history_.at(index).call;
  }

  const History<Call>& history() const { return history_; }

  bool whole() const { return left_out_ == 0; }

  uint64_t left_out() const { return left_out_; }

  // The history ends here: what is under way is unknown, and what comes is not part of it.
  void End() { ended_ = true; }

 private:
  History<Call> history_;
  uint64_t now_ = 0;
  uint64_t left_out_ = 0;
  bool ended_ = false;
};

}  // namespace gemel::sim

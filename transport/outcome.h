// SPDX-License-Identifier: Apache-2.0
//
// Outcome: the table of errors (DESIGN section 7). Every errno of a stream socket and every status
// of the protocol becomes one of nine outcomes with three facts: may bytes have landed at the peer,
// may the source be reused, who tries again. It is the only place where errno becomes absl::Status;
// the rows of work completions are in verbs/verbs_outcome.h.
//
// The facts hold for the stream fabrics, whose kernel copies the source: after the call that failed
// it is not read any more. A value without a row is kUnknown, with the most careful facts.
//
// Thread safety: pure functions.
#pragma once

#include <cstdint>
#include <string_view>

#include "absl/status/status.h"

namespace gemel {

enum class Outcome : uint8_t {
  kOk,
  kRetryLane,  // this connection, later: it would have blocked or was interrupted
  kRetryPeer,  // the same peer, over a new connection
  kFenced,     // the grant, epoch or incarnation is over: never again under the same name
  kCorrupt,    // bytes fail their digest
  kNoCredit,   // a bound was reached: memory, descriptors, requests in flight
  kInvalid,    // the request is wrong, or not allowed: trying again gives the same
  kPeerGone,   // the peer, or the way to it, does not exist now
  kUnknown,    // read again before anything is issued anew
};

enum class Retry : uint8_t { kNobody, kLane, kCaller };

struct OutcomeFacts {
  Outcome outcome = Outcome::kUnknown;
  bool bytes_may_have_landed = true;
  bool source_reusable = false;
  Retry retry = Retry::kNobody;

  friend bool operator==(const OutcomeFacts&, const OutcomeFacts&) = default;
};

std::string_view OutcomeName(Outcome outcome);

// What callers get for it, where nothing says it more precisely.
absl::StatusCode CodeOfOutcome(Outcome outcome);

OutcomeFacts OutcomeOfErrno(int error);
OutcomeFacts OutcomeOfStatus(absl::StatusCode code);

// The status of a failed system call; `what` says which, on what: "receiving from
// tcp://127.0.0.1:1". REQUIRES: error != 0.
absl::Status StatusOfErrno(int error, std::string_view what);

}  // namespace gemel

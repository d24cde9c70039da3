// SPDX-License-Identifier: Apache-2.0
//
// The rows of the error table (transport/outcome.h) that verbs add: every status of a work
// completion, as the requester sees it (InfiniBand Architecture 1.5, 10.10.3; rdma-core,
// ibv_poll_cq(3)).
//
// A queue pair is in the error state after any status but success: nothing goes on over it, so
// nobody tries again on the same lane. What was posted behind the failed one is flushed; a flushed
// request may have begun. The device reads no source any more once its completion is there,
// whatever it says.
//
// Thread safety: pure functions.
#pragma once

#include <infiniband/verbs.h>

#include <string_view>

#include "absl/status/status.h"

#include "transport/outcome.h"

namespace gemel {

OutcomeFacts OutcomeOfCompletion(ibv_wc_status status);

// "remote access error": for messages to people.
std::string_view CompletionName(ibv_wc_status status);

// The status of a failed work request; `what` says which, on what. REQUIRES: not IBV_WC_SUCCESS.
absl::Status StatusOfCompletion(ibv_wc_status status, std::string_view what);

}  // namespace gemel

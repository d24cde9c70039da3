// SPDX-License-Identifier: Apache-2.0
//
// One transmission and one reception on a nonblocking stream socket, with handles (SCM_RIGHTS)
// where the socket is a unix one. These two functions are all the data plane asks of the kernel.
//
// Thread safety: the owner of the descriptor.
// Ownership: received descriptors are owned by `handles` from the moment the kernel gave them,
// close on exec; those beyond the limit of a frame are closed by the kernel, and `handles_cut` is
// set.
#pragma once

#include <span>

#include "common/bytes.h"
#include "transport/descriptor.h"
#include "transport/net.h"

namespace gemel {

struct IoResult {
  size_t bytes = 0;
  int error = 0;             // errno; 0: `bytes` were moved
  bool handles_cut = false;  // more handles than a frame may have, or than this process may open

  // Nothing is wrong: try again when the socket is ready.
  bool blocked() const;
};

// `handles` null: this kind of socket carries none. 0 bytes without an error: the peer has ended.
// REQUIRES: !into.empty().
IoResult ReceiveSome(int fd, MutableByteSpan into, Handles* handles);

// Sends what fits of `pieces` in order; `handles` travel with the first byte.
// REQUIRES: at least one byte; at most 3 pieces and kFrameHandlesMax handles.
IoResult SendSome(int fd, std::span<const ByteSpan> pieces, const Handles& handles);

}  // namespace gemel

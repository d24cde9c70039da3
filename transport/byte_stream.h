// SPDX-License-Identifier: Apache-2.0
//
// ByteStream: what StreamConnection asks of a fabric: bytes there and back, in order, without
// waiting. A socket is one (stream_socket.h), a queue pair another (verbs/verbs_stream.h).
//
// Thread safety: the loop's thread.
// Ownership: of whatever carries the bytes. Destroying it ends the stream: what Send() has taken
// still goes to the peer, no source is read and no callback runs any more; it may be destroyed from
// its own callback.
#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "common/bytes.h"
#include "transport/net.h"

namespace gemel {

// Of one Send(): some frames, each in three.
constexpr size_t kStreamPiecesMax = 24;

struct IoResult {
  size_t bytes = 0;
  int error = 0;             // errno; 0: `bytes` were moved
  bool handles_cut = false;  // more handles than a frame may have, or than this process may open

  // Nothing is wrong: try again when the stream is ready.
  bool blocked() const;
};

class ByteStream {
 public:
  // With the bits of EPOLL* that hold.
  using ReadyCallback = std::function<void(uint32_t events)>;

  virtual ~ByteStream() = default;
  // `handles` null: none are wanted. 0 bytes without an error: the peer has ended.
  // REQUIRES: !into.empty().
  virtual IoResult Receive(MutableByteSpan into, Handles* handles) = 0;
  // Sends what fits of `pieces` in order; `handles` travel with the first byte.
  // REQUIRES: at least one byte; at most kStreamPiecesMax pieces and kFrameHandlesMax handles.
  virtual IoResult Send(std::span<const ByteSpan> pieces, const Handles& handles) = 0;
  // Calls `ready` from the loop while one of `events` (EPOLLIN, EPOLLOUT) holds, or the stream is
  // broken; takes the place of an earlier Watch().
  virtual void Watch(uint32_t events, ReadyCallback ready) = 0;
};

}  // namespace gemel

// SPDX-License-Identifier: Apache-2.0
//
// ByteStream: what StreamConnection asks of a fabric: bytes there and back, in order, without
// waiting. A socket is one (stream_socket.h), a queue pair another (verbs/verbs_stream.h).
//
// A stream may move long pieces without a copy: it reads the source of a Send() for a while after
// it took it (Held()), and writes into the memory of a Receive() until a later one returns its
// bytes (IoResult::lands).
//
// Thread safety: the loop's thread.
// Ownership: of whatever carries the bytes. Destroying it ends the stream: what Send() has taken
// and holds no more still goes to the peer; no source is read, no memory written and no callback
// runs any more. It may be destroyed from its own callback.
#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "common/bytes.h"
#include "transport/net.h"

namespace gemel {

// Of one Send(): some frames, each in three.
constexpr size_t kStreamPiecesMax = 24;
constexpr size_t kReferencedBytesMin = 128 * kKiB;  // a shorter piece is sooner copied

struct IoResult {
  size_t bytes = 0;
  int error = 0;             // errno, of what came after `bytes`; 0: none
  bool handles_cut = false;  // more handles than a frame may have, or than this process may open
  bool lands = false;        // blocked(), and the stream writes into the memory of this Receive()

  // Nothing is wrong: try again when the stream is ready.
  bool blocked() const;
};

class ByteStream {
 public:
  // With the bits of EPOLL* that hold.
  using ReadyCallback = std::function<void(uint32_t events)>;

  virtual ~ByteStream() = default;
  // `handles` null: none are wanted. 0 bytes without an error: the peer has ended.
  // REQUIRES: !into.empty(); after one that lands `into` begins where that one's did, unless
  // StopLanding() came between.
  virtual IoResult Receive(MutableByteSpan into, Handles* handles) = 0;

  // When it has returned nothing is written into the memory of a Receive() that landed. It may
  // break the stream, which tells so as always.
  virtual void StopLanding() {}

  // Sends what fits of `pieces` in order; `handles` travel with the first byte.
  // REQUIRES: at least one byte; at most kStreamPiecesMax pieces and kFrameHandlesMax handles.
  virtual IoResult Send(std::span<const ByteSpan> pieces, const Handles& handles) = 0;

  // As Send() without handles, of bytes that stay as they are until the peer has answered: the
  // stream may read pieces of kReferencedBytesMin and more where they lie as long as that, also
  // when they are no longer Held(). What changes all the same arrives changed.
  virtual IoResult SendStaying(std::span<const ByteSpan> pieces) { return Send(pieces, Handles()); }

  // Of the bytes that Send() took, so many at the end may still be read where they lie. When they
  // become fewer the callback of Watch() is called, without a bit if none holds.
  virtual size_t Held() const { return 0; }

  // Calls `ready` from the loop while one of `events` (EPOLLIN, EPOLLOUT) holds, or the stream is
  // broken; takes the place of an earlier Watch().
  virtual void Watch(uint32_t events, ReadyCallback ready) = 0;
};

}  // namespace gemel

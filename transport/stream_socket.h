// SPDX-License-Identifier: Apache-2.0
//
// SocketStream: ByteStream over a socket, unix or tcp. ReceiveSome() and SendSome(), one reception
// and one transmission, with handles (SCM_RIGHTS) where the socket is a unix one, are all that the
// data plane asks of the kernel.
//
// Thread safety: the owner of the descriptor.
// Ownership: received descriptors are owned by `handles` from the moment the kernel gave them,
// close on exec; those beyond the limit of a frame are closed by the kernel, and `handles_cut` is
// set.
#pragma once

#include <memory>
#include <span>

#include "common/bytes.h"
#include "common/epoll_loop.h"
#include "common/task.h"
#include "transport/byte_stream.h"
#include "transport/descriptor.h"

namespace gemel {

// As ByteStream. `handles` null: this kind of socket carries none.
IoResult ReceiveSome(int fd, MutableByteSpan into, Handles* handles);

// `more`: bytes follow at once, so that a segment that is not full may wait for them.
IoResult SendSome(int fd, std::span<const ByteSpan> pieces, const Handles& handles,
                  bool more = false);

class ReferencedSend;

class SocketStream final : public ByteStream {
 public:
  // `by_reference` is shared by the streams of a fabric; null: all is copied.
  // REQUIRES: `socket` is connected and nonblocking.
  SocketStream(EpollLoop* loop, Descriptor socket,
               std::shared_ptr<ReferencedSend> by_reference = nullptr);
  ~SocketStream() override;

  IoResult Receive(MutableByteSpan into, Handles* handles) override;
  IoResult Send(std::span<const ByteSpan> pieces, const Handles& handles) override;
  IoResult SendStaying(std::span<const ByteSpan> pieces) override;
  void Watch(uint32_t events, ReadyCallback ready) override;

 private:
  EpollLoop* const loop_;
  const Descriptor socket_;
  const std::shared_ptr<ReferencedSend> by_reference_;
};

// Until one of EPOLL* `events` holds of `fd`, which nobody else watches; false at `deadline`.
Task<bool> AwaitSocket(EpollLoop* loop, int fd, uint32_t events, TimePoint deadline);

}  // namespace gemel

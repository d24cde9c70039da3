// SPDX-License-Identifier: Apache-2.0
//
// VerbsStream: a stream of bytes over one queue pair. Each message is a Send() of the queue pair
// into a receive that the peer has posted: a prelude, then bytes of the stream. A prelude gives
// back receives that were posted again, so nobody sends what the other has no room for.
//
// A long piece whose memory the device knows (VerbsDevice::AddMemory()) is not sent: the message
// ends with a reference to it, and whoever receives it reads it, one-sidedly, to where it belongs
// (docs/decisions/0016). So memory is written only by the process that owns it.
//
// The TCP connection over which the two found each other stays: its end is the peer's, at once also
// when the peer's process is killed; a queue pair says so only by silence.
//
// All other bytes are copied once on each side, into registered slots and out of them. The slots to
// receive are shared by the streams of a device (verbs_receives.h), where it can share them; when
// many are full a message is copied once more, so that it keeps none. Otherwise the event
// verbs_own_receives says so, once for each device, and each stream has slots of its own.
//
// Thread safety: the loop's thread.
// Ownership: shares the device. A stream that is destroyed with messages under way lingers until
// the peer's device has them all, kVerbsLingerMax at most.
// Invariants:
//   (1) messages under way and not given back are never more than the receives of the peer;
//   (2) bytes that arrived before the connection broke are received before the error, but for
//       those of references;
//   (3) the device writes into memory of a Receive() only from when it landed until its bytes are
//       returned, or StopLanding(), which ends the queue pair when it must;
//   (4) the peer may read memory of a Send() only while it is held;
//   (5) messages that arrived and were not given back are never more than the receives that the
//       peer was told of: a peer that sends more breaks the connection (EPROTO).
// Errors of IoResult: ETIMEDOUT (the peer's device is silent), EPROTO (it says nonsense),
// ECONNABORTED (StopLanding()), ECONNRESET.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"

#include "common/epoll_loop.h"
#include "common/events.h"
#include "transport/byte_stream.h"
#include "transport/descriptor.h"
#include "transport/verbs/verbs_device.h"
#include "transport/verbs/verbs_hello.h"
#include "transport/verbs/verbs_queue_pair.h"

namespace gemel {

inline constexpr Duration kVerbsLingerMax = 2s;

class VerbsStream final : public ByteStream {
 public:
  struct Options {
    uint32_t slots = 16;  // of each direction
    uint32_t slot_bytes = 16 * kKiB;
    uint32_t first_packet = 0;
    uint32_t shared_slots_max = 4096;  // to receive, of all streams of the device together
    EventSink* events = nullptr;       // may be null: then what broke a queue pair is not told
    std::string peer;                  // for events
  };

  // With its receives posted, not connected. ResourceExhausted when the slots cannot be pinned.
  static absl::StatusOr<std::unique_ptr<VerbsStream>> Make(EpollLoop* loop,
                                                           std::shared_ptr<VerbsDevice> device,
                                                           const Options& options);
  ~VerbsStream() override;

  VerbsHello hello() const;
  // From here on the peer may send.
  absl::Status Connect(const VerbsHello& peer);
  // From here on this side may send: the peer is connected. `socket`: over which the hellos came,
  // nonblocking; nothing else comes over it.
  void Open(Descriptor socket);

  IoResult Receive(MutableByteSpan into, Handles* handles) override;
  void StopLanding() override;
  IoResult Send(std::span<const ByteSpan> pieces, const Handles& handles) override;
  size_t Held() const override;
  void Watch(uint32_t events, ReadyCallback ready) override;

 private:
  class Core;

  explicit VerbsStream(std::shared_ptr<Core> core);

  const std::shared_ptr<Core> core_;
};

}  // namespace gemel

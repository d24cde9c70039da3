// SPDX-License-Identifier: Apache-2.0
//
// StreamConnection: Connection over a stream of bytes: a socket, unix or tcp, or a queue pair.
//
// Batching is adaptive (IX, OSDI'14): of what is there already, never waiting for more.
// Reading: FrameReader decides where bytes go. What is short is read ahead, many frames with one
// reception; a payload, from where that ends, goes from the stream to its final place. Where
// handles travel nothing is read ahead: they belong to a reception.
// Writing: small frames given to TrySend() are copied, and leave at the end of the loop's turn or
// with the next Send(). Whatever waits leaves with one vectored write each time the stream has
// room. A Send() whose bytes the stream holds (ByteStream::Held()) ends when it does no longer.
//
// Thread safety: the loop's thread.
// Ownership: owns the stream. Nodes of Send() live in their coroutine frames and unlink themselves.
// Limits: kSmallFrameBytes, kReadAheadBytes, kOutboxBytes.
// Invariants:
//   (1) after Close() or destruction no source of a Send() is read and no Placement is written;
//   (2) `events` is told only from the loop's queue or its stream, never from within Send(),
//       Start() or Close(); it may close or destroy the connection from any event;
//   (3) frames leave whole and in order: a Send() destroyed in the middle of its frame, or while
//       the stream holds it, closes the connection;
//   (4) copied frames go before every Send() in progress: TrySend() takes none while one is, or
//       while the stream has no room. Close() still offers them to the stream;
//   (5) a frame with handles begins a write of its own, so that they travel with its first byte.
// Errors: Unavailable when the peer is gone, also when it is cut inside a frame; InvalidArgument
// when it sends garbage; FailedPrecondition when it speaks another version.
#pragma once

#include <array>
#include <list>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "common/loop.h"
#include "transport/byte_stream.h"
#include "transport/frame_reader.h"
#include "transport/net.h"

namespace gemel {

// In all; a larger frame is sent from where it lies.
constexpr size_t kSmallFrameBytes = 8 * kKiB;
// What is longer is received where it goes: at most so much of a payload is copied.
constexpr size_t kReadAheadBytes = 8 * kKiB;
// Copied frames of one turn; beyond that they leave within it.
constexpr size_t kOutboxBytes = 64 * kKiB;
static_assert(kSmallFrameBytes <= kOutboxBytes);
static_assert(kOutboxBytes < kReferencedBytesMin, "what is copied together does not stay");

class StreamConnection final : public Connection {
 public:
  enum class Carries { kBytes, kBytesAndHandles };

  // REQUIRES: `loop` outlives the connection.
  StreamConnection(Loop* loop, std::unique_ptr<ByteStream> stream, std::string peer,
                   Carries carries);
  ~StreamConnection() override;

  void Start(ConnectionEvents* events) override;
  Task<absl::Status> Send(OutgoingFrame frame) override;
  bool TrySend(const OutgoingFrame& frame) override;
  void Close(absl::Status why) override;

  std::string peer() const override { return peer_; }

 private:
  struct Sending;

  bool open() const { return stream_ != nullptr; }

  absl::Status CheckOutgoing(const OutgoingFrame& frame) const;
  void WatchStream();
  void OnReady(uint32_t ready);
  void ReadSome();
  bool ReadStep();
  void OnNothing(const IoResult& got);
  void FenceLanding();
  bool TakeHandles(const IoResult& got, Handles handles);
  bool Consume(ByteSpan bytes);
  bool OnBytes(size_t bytes);
  bool Deliver(FrameProgress progress);
  void DropUnwanted();
  void WriteSome();
  IoResult WriteOnce();
  void OnWritten(size_t bytes);
  void FinishReleased();
  ByteSpan Unwritten() const;
  void PostClosed();

  Loop* const loop_;
  std::unique_ptr<ByteStream> stream_;
  const std::string peer_;
  const Carries carries_;
  ConnectionEvents* events_ = nullptr;
  absl::Status closed_why_;
  bool waiting_to_write_ = false;
  FrameReader reader_;
  std::array<std::byte, kReadAheadBytes> read_ahead_;  // all consumed before the next reception
  std::vector<std::byte> outbox_;                      // copied frames
  size_t outbox_written_ = 0;
  bool flush_is_due_ = false;     // at the end of this turn
  std::list<Sending*> sendings_;  // of which bytes are left
  std::list<Sending*> held_;      // written, and the stream holds them
  uint64_t written_ = 0;          // bytes that the stream took
  // False once the destructor ran: events may destroy the connection under its own feet.
  const std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace gemel

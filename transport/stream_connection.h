// SPDX-License-Identifier: Apache-2.0
//
// StreamConnection: Connection over a stream of bytes: a socket, unix or tcp, or a queue pair.
//
// Reading: FrameReader decides where bytes go; a payload goes from the stream to its final place.
// Writing: header, body and payload leave with one vectored write each time the stream has room.
//
// Thread safety: the loop's thread.
// Ownership: owns the stream. Nodes of Send() live in their coroutine frames and unlink themselves.
// Invariants:
//   (1) after Close() or destruction no source of a Send() is read and no Placement is written;
//   (2) `events` is told only from the loop's queue or its stream, never from within Send(),
//       Start() or Close(); it may close or destroy the connection from any event;
//   (3) frames leave whole and in order: a Send() destroyed in the middle of its frame closes the
//       connection.
// Errors: Unavailable when the peer is gone, also when it is cut inside a frame; InvalidArgument
// when it sends garbage; FailedPrecondition when it speaks another version.
#pragma once

#include <list>
#include <memory>
#include <string>

#include "common/loop.h"
#include "transport/byte_stream.h"
#include "transport/frame_reader.h"
#include "transport/net.h"

namespace gemel {

class StreamConnection final : public Connection {
 public:
  enum class Carries { kBytes, kBytesAndHandles };

  // REQUIRES: `loop` outlives the connection.
  StreamConnection(Loop* loop, std::unique_ptr<ByteStream> stream, std::string peer,
                   Carries carries);
  ~StreamConnection() override;

  void Start(ConnectionEvents* events) override;
  Task<absl::Status> Send(OutgoingFrame frame) override;
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
  bool OnBytes(const IoResult& got, Handles handles);
  bool Deliver(FrameProgress progress);
  void WriteSome();
  void PostClosed();

  Loop* const loop_;
  std::unique_ptr<ByteStream> stream_;
  const std::string peer_;
  const Carries carries_;
  ConnectionEvents* events_ = nullptr;
  absl::Status closed_why_;
  bool waiting_to_write_ = false;
  FrameReader reader_;
  std::list<Sending*> sendings_;
  // False once the destructor ran: events may destroy the connection under its own feet.
  const std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace gemel

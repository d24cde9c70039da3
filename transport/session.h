// SPDX-License-Identifier: Apache-2.0
//
// Session: requests and replies, both ways, over one Connection.
//
// Thread safety: one loop.
// Ownership: shared_ptr, because replies in flight, the handler's tasks and the owner all hold it
// and end in any order. Invariants:
//   (1) every Call() ends: with the reply, with the peer's error, or at its deadline;
//   (2) a call that ends at its deadline has an UNKNOWN outcome (DeadlineExceeded). Its reply
//   buffer is
//       no longer written: a late reply goes to scratch. If its own frame is not yet all sent, the
//       connection is closed, so that its source is not read any more either;
//   (3) at most Options::requests_in_flight_max handlers run; beyond that the peer is answered
//       ResourceExhausted at once, its payload dropped unplaced. A peer that leaves as many of
//       those answers unread is closed;
//   (4) a duplicate or unknown reply is ignored;
//   (5) a call that was stopped (CallStop) places nothing any more. A peer that was told answers it
//       Cancelled instead of sending what it had; only reads are cancelled, they change nothing;
//   (6) with Options::silence_closes a call that ends at its deadline, with nothing heard since it
//       began, closes the session: its connection may be dead on a network that drops it without a
//       word, and a new one takes another path.
// Errors of Call(): the peer's; DeadlineExceeded (2); Cancelled (5); Unavailable when the session
// ended; InvalidArgument when the request is over the frame's limits (nothing was sent then).
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/statusor.h"

#include "common/loop.h"
#include "common/sync.h"
#include "transport/net.h"

namespace gemel {

constexpr size_t kRefusalsUnsentMax = 1024;

class Session;

// Ends one Call() before its answer. Shared by who makes the call and who may stop it; for one call
// at a time.
class CallStop {
 public:
  // From now on nothing is placed for the call: what still comes is read into scratch. A request of
  // which nothing has left is not sent. One that was sent is still the peer's to answer: the call
  // ends with that answer, as Cancelled, or at its deadline. The peer is told, if it understands
  // that. The session goes on.
  void Stop();

  bool stopped() const { return stopped_; }

  // Payload of an answer that came although the call was stopped.
  uint64_t wasted_bytes() const { return wasted_bytes_; }

 private:
  friend class Session;
  bool stopped_ = false;
  uint64_t wasted_bytes_ = 0;
  std::function<void()> stop_call_;  // the call under way
};

struct Request {
  FrameType type = FrameType::kProbe;
  uint64_t region = 0;
  uint64_t generation = 0;
  uint64_t offset = 0;
  std::string body;
  ByteSpan payload;
  std::shared_ptr<const void> keep = nullptr;
  Handles handles;
  std::shared_ptr<CallStop> stop = nullptr;  // null: nobody stops it
};

// Status is the peer's verdict; the rest is meaningful when it is OK.
struct Reply {
  absl::Status status;
  std::string body;
  ByteSpan payload;                 // outgoing: what to send; incoming: where it was placed
  std::optional<Digest128> landed;  // incoming: see DigestOf()
  std::shared_ptr<const void> keep = nullptr;  // outgoing: keeps `payload` alive until LOCAL
  Handles handles;
};

struct IncomingRequest {
  FrameHeader header;
  std::string body;
  MutableByteSpan payload;
  std::optional<Digest128> landed;  // see DigestOf()
  bool payload_dropped = false;
  Handles handles;
  std::shared_ptr<const bool> cancelled = nullptr;  // of a read: true once nobody waits for it

  bool IsCancelled() const { return cancelled != nullptr && *cancelled; }
};

// The side that answers.
class SessionHandler {
 public:
  virtual ~SessionHandler() = default;
  // Where the payload of a request goes; default: dropped.
  virtual Placement PlaceRequestPayload(Session* session, const FrameHeader& header,
                                        std::string_view body);
  // Runs as a task of its own; requests of one session may overlap.
  virtual Task<Reply> Handle(std::shared_ptr<Session> session, IncomingRequest request) = 0;
  virtual void OnSessionClosed(Session* session, const absl::Status& why) = 0;
};

class Session final : public std::enable_shared_from_this<Session>, private ConnectionEvents {
 public:
  struct Options {
    size_t requests_in_flight_max = 1024;
    bool silence_closes = false;
  };

  // `handler` may be null (a pure caller: requests of the peer are refused) and must outlive the
  // session's last event; Detach() ends that early.
  static std::shared_ptr<Session> Start(Loop* loop, std::unique_ptr<Connection> connection,
                                        SessionHandler* handler, Options options);
  ~Session() override;

  // Sends `request`, waits for the reply. A reply payload is placed into `reply_into`, which must
  // be large enough and stays the caller's; a longer one closes the session (InvalidArgument).
  Task<absl::StatusOr<Reply>> Call(Request request, MutableByteSpan reply_into, TimePoint deadline);

  // Ends everything: calls in flight get Unavailable with `why`.
  void Close(absl::Status why);

  // No further call to the handler.
  void Detach() { handler_ = nullptr; }

  // The peer understands kCancel (PeerHello.features): it is told of calls that are stopped.
  void SetPeerCancels() { peer_cancels_ = true; }

  bool open() const { return open_; }

  std::string peer() const { return peer_; }

  // Who the other side is, once its hello was accepted; the handler's to set and read.
  std::shared_ptr<void> user_state;  // shared: its tasks may outlive the session

 private:
  struct PendingCall;
  class Counted;

  Session(Loop* loop, std::unique_ptr<Connection> connection, SessionHandler* handler,
          Options options);
  Placement PlacePayload(const FrameHeader& header, std::string_view body) override;
  Placement PlaceReplyPayload(const FrameHeader& header);
  void OnFrame(IncomingFrame frame) override;
  void OnClosed(absl::Status why) override;
  void OnReply(IncomingFrame&& frame);
  void OnRequest(IncomingFrame&& frame);
  void OnCancel(const FrameHeader& header);
  void StopCall(const PendingCall& call);
  void Refuse(const FrameHeader& request);
  size_t PlaceOfPending(uint64_t op) const;
  PendingCall* FindPending(uint64_t op) const;
  void ErasePending(uint64_t op);
  void FailPending(const absl::Status& why);

  // Coroutines hold the session through `self`.
  static Task<absl::StatusOr<Reply>> RunCall(std::shared_ptr<Session> self, Request request,
                                             MutableByteSpan reply_into, TimePoint deadline);
  void Begin(PendingCall* call, Request request);
  static Task<void> SendRequest(std::shared_ptr<Session> self, OutgoingFrame frame);
  static Task<void> SendCancel(std::shared_ptr<Session> self, uint64_t op);
  static Task<void> Answer(Counted counted, IncomingRequest request);
  static Task<void> SendRefusal(Counted counted, FrameHeader request);

  Loop* const loop_;
  std::unique_ptr<Connection> connection_;
  SessionHandler* handler_;
  const Options options_;
  const std::string peer_;
  bool open_ = true;
  bool peer_cancels_ = false;
  uint64_t next_op_ = 1;
  uint64_t frames_heard_ = 0;  // begun to arrive
  size_t requests_in_flight_ = 0;
  size_t refusals_in_flight_ = 0;
  bool refusing_ = false;  // the request whose payload is arriving was over the bound
  absl::Status ended_why_;
  size_t sends_spawned_ = 0;  // tasks of SendRequest() that have not begun
  // In the order of their ops, as they were begun. Most are answered in that order, so that they
  // leave near the front.
  std::deque<std::pair<uint64_t, PendingCall*>> pending_;
  // Reads of the peer that are being answered; true: cancelled. Shared with their tasks and frames.
  std::map<uint64_t, std::shared_ptr<bool>> reads_;
};

}  // namespace gemel

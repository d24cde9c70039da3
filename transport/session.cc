// SPDX-License-Identifier: Apache-2.0
#include "transport/session.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "common/check.h"
#include "common/errors.h"
#include "common/points.h"

namespace gemel {

void CallStop::Stop() {
  if (stopped_) {
    return;
  }
  stopped_ = true;
  if (stop_call_) {
    stop_call_();
  }
}

namespace {

absl::Status CheckRequest(const Request& request) {
  if (request.body.size() > kFrameBodyBytesMax || request.payload.size() > kFramePayloadBytesMax ||
      request.handles.size() > kFrameHandlesMax) {
    return error::InvalidArgument(
        "a request of type {} with a body of {} bytes, a payload of {} and {} handles is over the "
        "limits of {}, {} and {}",
        static_cast<int>(request.type), request.body.size(), request.payload.size(),
        request.handles.size(), kFrameBodyBytesMax, kFramePayloadBytesMax, kFrameHandlesMax);
  }
  return absl::OkStatus();
}

OutgoingFrame FrameOf(uint64_t op, Request request) {
  OutgoingFrame frame;
  frame.header.type = request.type;
  frame.header.op = op;
  frame.header.region = request.region;
  frame.header.generation = request.generation;
  frame.header.offset = request.offset;
  frame.body = std::move(request.body);
  frame.payload = request.payload;
  frame.keep = std::move(request.keep);
  frame.handles = std::move(request.handles);
  return frame;
}

Reply ErrorReply(absl::Status status) {
  Reply reply;
  reply.status = std::move(status);
  return reply;
}

// An error travels as its code, with its message for a body; it carries nothing else.
OutgoingFrame FrameOf(const FrameHeader& request, Reply reply) {
  if (reply.status.ok() &&
      (reply.body.size() > kFrameBodyBytesMax || reply.payload.size() > kFramePayloadBytesMax)) {
    reply =
        ErrorReply(error::Internal("the answer has a body of {} bytes and a payload of {}: over "
                                   "the limits of a frame",
                                   reply.body.size(), reply.payload.size()));
  }
  OutgoingFrame frame;
  frame.header = request;
  frame.header.flags = kFlagReply;
  frame.header.status = static_cast<uint32_t>(reply.status.code());
  if (!reply.status.ok()) {
    frame.body = std::string(MessageOf(reply.status).substr(0, kFrameBodyBytesMax));
    return frame;
  }
  frame.body = std::move(reply.body);
  frame.payload = reply.payload;
  frame.keep = std::move(reply.keep);
  frame.handles = std::move(reply.handles);
  return frame;
}

absl::Status Ended(const std::string& peer, const absl::Status& why) {
  return error::Unavailable("the session with {} ended: {}", peer, MessageOf(why));
}

absl::Status Stopped(const std::string& peer, uint64_t op) {
  return error::Cancelled("request {} to {} was stopped", op, peer);
}

// Runs its function when the frame that holds it goes, at its end or destroyed in the middle.
template <typename Function>
class AtEnd {
 public:
  explicit AtEnd(Function function) : function_(std::move(function)) {}

  AtEnd(const AtEnd&) = delete;
  AtEnd& operator=(const AtEnd&) = delete;

  ~AtEnd() { function_(); }

 private:
  Function function_;
};

}  // namespace

// Holds a session and counts one answer of it, from the arrival of its request until its task is
// gone, however that ends.
class Session::Counted {
 public:
  Counted(std::shared_ptr<Session> session, size_t* count)
      : session_(std::move(session)), count_(count) {
    *count_ += 1;
  }

  Counted(Counted&& other) noexcept
      : session_(std::move(other.session_)), count_(std::exchange(other.count_, nullptr)) {}

  Counted& operator=(Counted&&) = delete;

  ~Counted() {
    if (count_ != nullptr) {
      GEMEL_CHECK_GT(*count_, 0U);
      *count_ -= 1;
    }
  }

  const std::shared_ptr<Session>& session() const { return session_; }

 private:
  std::shared_ptr<Session> session_;  // the count is its
  size_t* count_;
};

// One Call() in progress, in its frame.
struct Session::PendingCall {
  explicit PendingCall(Loop* loop) : changed(loop) {}

  void Revoke() const {
    if (revocation != nullptr) {
      revocation->Revoke();
    }
  }

  uint64_t op = 0;
  FrameType type = FrameType::kProbe;
  std::shared_ptr<CallStop> stop;  // null: nobody stops it
  MutableByteSpan into;
  std::shared_ptr<Revocation> revocation;  // null when `into` is empty: nothing is placed
  bool sent = false;                       // the request has reached LOCAL, or never will
  bool failed = false;                     // the session ended
  std::optional<absl::StatusOr<Reply>> result;
  WaitQueue changed;

  // A reply that overtakes its request's last bytes waits for them: the source is still being read.
  bool done() const { return result.has_value() && (sent || failed); }

  bool stopped() const { return stop != nullptr && stop->stopped(); }
};

Placement SessionHandler::PlaceRequestPayload(Session* /*session*/, const FrameHeader& /*header*/,
                                              std::string_view /*body*/) {
  return Placement();
}

std::shared_ptr<Session> Session::Start(Loop* loop, std::unique_ptr<Connection> connection,
                                        SessionHandler* handler, Options options) {
  GEMEL_CHECK(loop != nullptr && connection != nullptr);
  GEMEL_CHECK_GT(options.requests_in_flight_max, 0U);
  std::shared_ptr<Session> session(new Session(loop, std::move(connection), handler, options));
  session->connection_->Start(session.get());
  return session;
}

Session::Session(Loop* loop, std::unique_ptr<Connection> connection, SessionHandler* handler,
                 Options options)
    : loop_(loop),
      connection_(std::move(connection)),
      handler_(handler),
      options_(options),
      peer_(connection_->peer()) {}

Session::~Session() {
  GEMEL_CHECK(pending_.empty()) << pending_.size() << " calls outlive their session";
  GEMEL_CHECK_EQ(requests_in_flight_, 0U);
}

Task<absl::StatusOr<Reply>> Session::Call(Request request, MutableByteSpan reply_into,
                                          TimePoint deadline) {
  return RunCall(shared_from_this(), std::move(request), reply_into, deadline);
}

Task<absl::StatusOr<Reply>> Session::RunCall(std::shared_ptr<Session> self, Request request,
                                             MutableByteSpan reply_into, TimePoint deadline) {
  absl::Status fitting = CheckRequest(request);
  if (!fitting.ok()) {
    co_return fitting;
  }
  if (!self->open_) {
    co_return Ended(self->peer_, self->ended_why_);
  }
  if (self->loop_->Now() >= deadline) {
    co_return error::DeadlineExceeded("nothing was sent to {}: the deadline had passed",
                                      self->peer_);
  }
  if (request.stop != nullptr && request.stop->stopped()) {
    co_return error::Cancelled("nothing was sent to {}: the call had been stopped", self->peer_);
  }
  const uint64_t heard_before = self->frames_heard_;
  PendingCall call(self->loop_);
  call.op = self->next_op_++;
  call.type = request.type;
  call.stop = request.stop;
  call.into = reply_into;
  if (!reply_into.empty()) {
    call.revocation = std::make_shared<Revocation>();
  }
  if (call.stop != nullptr) {
    GEMEL_CHECK(call.stop->stop_call_ == nullptr) << "of another call";
    call.stop->stop_call_ = [session = self.get(), call = &call] { session->StopCall(*call); };
  }
  self->pending_.emplace_back(call.op, &call);
  AtEnd ending([session = self.get(), call = &call] {
    call->Revoke();
    if (call->stop != nullptr) {
      call->stop->stop_call_ = nullptr;
    }
    session->ErasePending(call->op);
    if (!call->sent) {
      session->Close(
          error::DeadlineExceeded("request {} of type {} was given up before it was sent", call->op,
                                  static_cast<int>(call->type)));
    }
  });
  self->Begin(&call, std::move(request));
  while (!call.done()) {
    const bool notified = co_await call.changed.WaitUntil(deadline);
    if (!notified && !call.done()) {
      if (self->options_.silence_closes && self->frames_heard_ == heard_before) {
        self->Close(error::Unavailable("{} has said nothing since request {} of type {}",
                                       self->peer_, call.op, static_cast<int>(call.type)));
      }
      co_return error::DeadlineExceeded(
          "{} has not answered request {} of type {} in time: its outcome is unknown", self->peer_,
          call.op, static_cast<int>(call.type));
    }
  }
  co_return std::move(*call.result);
}

// Requests leave in the order of their calls: none overtakes one whose task has not begun.
void Session::Begin(PendingCall* call, Request request) {
  OutgoingFrame frame = FrameOf(call->op, std::move(request));
  if (call->stop != nullptr) {
    frame.unwanted = {call->stop, &call->stop->stopped_};
  }
  if (sends_spawned_ == 0 && connection_->TrySend(frame)) {
    call->sent = true;
    return;
  }
  sends_spawned_ += 1;
  loop_->Spawn(SendRequest(shared_from_this(), std::move(frame)));
}

Task<void> Session::SendRequest(std::shared_ptr<Session> self, OutgoingFrame frame) {
  GEMEL_CHECK_GT(self->sends_spawned_, 0U);
  self->sends_spawned_ -= 1;
  const uint64_t op = frame.header.op;
  absl::Status sent;
  // Given up before its turn came: the session is closed, the source perhaps gone.
  if (self->open_) {
    sent = co_await self->connection_->Send(std::move(frame));
  }
  PendingCall* call = self->FindPending(op);
  if (call == nullptr) {
    co_return;
  }
  if (!sent.ok() && !call->result.has_value()) {
    const bool unwanted = self->open_ && call->stopped();
    call->result = unwanted ? Stopped(self->peer_, op) : Ended(self->peer_, sent);
  }
  call->sent = true;
  if (call->stopped()) {
    self->StopCall(*call);
  }
  call->changed.NotifyAll();
}

// The place of `op` in pending_, or its size. Ops are consecutive but for those that have ended, so
// the first guess is mostly right.
size_t Session::PlaceOfPending(uint64_t op) const {
  if (pending_.empty() || op < pending_.front().first) {
    return pending_.size();
  }
  const uint64_t guess = op - pending_.front().first;
  if (guess < pending_.size() && pending_[guess].first == op) {
    return guess;
  }
  const auto found =
      std::lower_bound(pending_.begin(), pending_.end(), op,
                       [](const auto& pending, uint64_t wanted) { return pending.first < wanted; });
  const bool there = found != pending_.end() && found->first == op;
  return there ? static_cast<size_t>(found - pending_.begin()) : pending_.size();
}

Session::PendingCall* Session::FindPending(uint64_t op) const {
  const size_t place = PlaceOfPending(op);
  return place < pending_.size() ? pending_[place].second : nullptr;
}

void Session::ErasePending(uint64_t op) {
  const size_t place = PlaceOfPending(op);
  GEMEL_CHECK_LT(place, pending_.size()) << op;
  pending_.erase(pending_.begin() + static_cast<ptrdiff_t>(place));
}

// The peer hears of it once the request is on its way to it.
void Session::StopCall(const PendingCall& call) {
  GEMEL_CHECK(call.stopped()) << "request " << call.op;
  call.Revoke();
  if (peer_cancels_ && call.sent && open_ && !call.result.has_value()) {
    loop_->Spawn(SendCancel(shared_from_this(), call.op));
  }
}

Task<void> Session::SendCancel(std::shared_ptr<Session> self, uint64_t op) {
  OutgoingFrame frame;
  frame.header.type = FrameType::kCancel;
  frame.header.op = op;
  if (self->open_ && !self->connection_->TrySend(frame)) {
    static_cast<void>(co_await self->connection_->Send(std::move(frame)));
  }
}

void Session::Close(absl::Status why) {
  if (!open_) {
    return;
  }
  open_ = false;
  ended_why_ = std::move(why);
  connection_->Close(ended_why_);
  FailPending(ended_why_);
}

void Session::FailPending(const absl::Status& why) {
  for (auto& [op, call] : pending_) {
    call->Revoke();
    call->failed = true;
    if (!call->result.has_value()) {
      call->result = Ended(peer_, why);
    }
    call->changed.NotifyAll();
  }
}

Placement Session::PlacePayload(const FrameHeader& header, std::string_view body) {
  frames_heard_ += 1;
  if (header.is_reply()) {
    return PlaceReplyPayload(header);
  }
  if (header.type == FrameType::kCancel) {
    return Placement();
  }
  refusing_ = requests_in_flight_ >= options_.requests_in_flight_max;
  if (refusing_ || handler_ == nullptr) {
    return Placement();
  }
  return handler_->PlaceRequestPayload(this, header, body);
}

Placement Session::PlaceReplyPayload(const FrameHeader& header) {
  const PendingCall* call = FindPending(header.op);
  if (call == nullptr || call->result.has_value() || call->stopped() || header.status != 0) {
    return Placement();  // late, duplicate, stopped or an error: invariants (2), (4) and (5)
  }
  if (header.payload_bytes > call->into.size()) {
    Close(error::InvalidArgument("{} answers request {} with {} bytes where {} were asked for",
                                 peer_, header.op, header.payload_bytes, call->into.size()));
    return Placement();
  }
  return Placement{call->into.first(header.payload_bytes), call->revocation};
}

void Session::OnFrame(IncomingFrame frame) {
  frames_heard_ += 1;
  if (frame.header.is_reply()) {
    OnReply(std::move(frame));
  } else if (frame.header.type == FrameType::kCancel) {
    OnCancel(frame.header);
  } else {
    OnRequest(std::move(frame));
  }
}

void Session::OnReply(IncomingFrame&& frame) {
  PendingCall* call = FindPending(frame.header.op);
  if (call == nullptr || call->result.has_value()) {
    return;  // invariant (4)
  }
  if (frame.header.type != call->type) {
    Close(error::InvalidArgument("{} answers request {} of type {} as type {}", peer_,
                                 frame.header.op, static_cast<int>(call->type),
                                 static_cast<int>(frame.header.type)));
    return;
  }
  if (call->stopped()) {
    call->stop->wasted_bytes_ += frame.header.status == 0 ? frame.header.payload_bytes : 0;
    call->result = Stopped(peer_, call->op);
  } else if (frame.header.status != 0) {
    call->result = MakeStatus(static_cast<absl::StatusCode>(frame.header.status), frame.body);
  } else {
    Reply& reply = call->result.emplace(Reply()).value();
    reply.body = std::move(frame.body);
    reply.payload = frame.payload;
    reply.landed = frame.landed;
    reply.handles = std::move(frame.handles);
  }
  call->changed.NotifyAll();
}

void Session::OnRequest(IncomingFrame&& frame) {
  const bool over = requests_in_flight_ >= options_.requests_in_flight_max;
  const bool refused = std::exchange(refusing_, false) || over;
  if (refused) {
    Refuse(frame.header);
    return;
  }
  IncomingRequest request;
  request.header = frame.header;
  request.body = std::move(frame.body);
  request.payload = frame.payload;
  request.landed = frame.landed;
  request.payload_dropped = frame.payload_dropped;
  request.handles = std::move(frame.handles);
  if (frame.header.type == FrameType::kRead) {
    auto cancelled = std::make_shared<bool>(false);
    reads_[frame.header.op] = cancelled;
    request.cancelled = std::move(cancelled);
  }
  loop_->Spawn(Answer(Counted(shared_from_this(), &requests_in_flight_), std::move(request)));
}

// Of a read that is not answered yet. Whatever else it names is over, or not to be cancelled.
void Session::OnCancel(const FrameHeader& header) {
  const auto found = reads_.find(header.op);
  if (found != reads_.end()) {
    *found->second = true;
  }
}

void Session::Refuse(const FrameHeader& request) {
  if (refusals_in_flight_ >= kRefusalsUnsentMax) {
    Close(
        error::ResourceExhausted("{} sends requests and does not read its answers: {} wait for it",
                                 peer_, refusals_in_flight_));
    return;
  }
  loop_->Spawn(SendRefusal(Counted(shared_from_this(), &refusals_in_flight_), request));
}

Task<void> Session::SendRefusal(Counted counted, FrameHeader request) {
  Session* self = counted.session().get();
  if (!self->open_) {
    co_return;
  }
  Reply refusal = ErrorReply(
      error::ResourceExhausted("{} requests of this session are being answered: wait for some",
                               self->options_.requests_in_flight_max));
  OutgoingFrame frame = FrameOf(request, std::move(refusal));
  if (!self->connection_->TrySend(frame)) {
    // A failure closes the connection: OnClosed() tells.
    static_cast<void>(co_await self->connection_->Send(std::move(frame)));
  }
}

Task<void> Session::Answer(Counted counted, IncomingRequest request) {
  Session* self = counted.session().get();
  const FrameHeader header = request.header;
  const std::shared_ptr<const bool> cancelled = request.cancelled;
  AtEnd answered([session = self, op = header.op, cancelled] {
    const auto found = session->reads_.find(op);
    if (cancelled != nullptr && found != session->reads_.end() && found->second == cancelled) {
      session->reads_.erase(found);
    }
  });
  Reply reply;
  if (self->handler_ == nullptr) {
    reply.status = error::Unimplemented("this side of the session answers no requests");
  } else {
    if (Buggify(BuggifySite::kAnswerYields)) {
      co_await self->loop_->Yield();
    }
    if (self->handler_ == nullptr) {
      co_return;  // detached meanwhile
    }
    reply = co_await self->handler_->Handle(counted.session(), std::move(request));
  }
  if (!self->open_) {
    co_return;
  }
  bool unwanted = cancelled != nullptr && *cancelled;
  if (!unwanted) {
    OutgoingFrame frame = FrameOf(header, std::move(reply));
    frame.unwanted = cancelled;
    if (self->connection_->TrySend(frame)) {
      co_return;
    }
    const absl::Status sent = co_await self->connection_->Send(std::move(frame));
    unwanted = sent.code() == absl::StatusCode::kCancelled && self->open_;
  }
  // Another failure closes the connection: OnClosed() tells.
  if (unwanted) {
    OutgoingFrame frame =
        FrameOf(header, ErrorReply(error::Cancelled("request {} was cancelled", header.op)));
    static_cast<void>(co_await self->connection_->Send(std::move(frame)));
  }
}

void Session::OnClosed(absl::Status why) {
  std::shared_ptr<Session> self = shared_from_this();  // the handler may let go of us
  if (open_) {
    open_ = false;
    ended_why_ = why;
    FailPending(why);
  }
  if (handler_ != nullptr) {
    handler_->OnSessionClosed(this, ended_why_);
  }
}

}  // namespace gemel

// SPDX-License-Identifier: Apache-2.0
#include "server/holder.h"

#include <algorithm>
#include <utility>

#include "common/check.h"
#include "common/errors.h"
#include "common/fields.h"
#include "common/status_macros.h"

namespace gemel {

Holder::Holder(const ServerSeams& seams, const Parts& parts) : seams_(seams), parts_(parts) {
  GEMEL_CHECK(parts.control != nullptr && parts.identity != nullptr);
  GEMEL_CHECK(parts.objects != nullptr && parts.peers != nullptr && parts.receipts != nullptr);
  GEMEL_CHECK(parts.tier != nullptr && parts.admission != nullptr);
}

Holder::~Holder() {
  for (const std::shared_ptr<Session>& session : sessions_) {
    session->Detach();
  }
}

void Holder::Accept(std::unique_ptr<Connection> connection) {
  Session::Options options;
  std::shared_ptr<Session> session =
      Session::Start(seams_.loop, std::move(connection), this, options);
  session->user_state = std::make_shared<SessionState>();
  sessions_.push_back(session);
}

Holder::SessionState* Holder::StateOf(Session* session) {
  GEMEL_CHECK(session->user_state != nullptr);
  return static_cast<SessionState*>(session->user_state.get());
}

Task<Reply> Holder::Handle(std::shared_ptr<Session> session, IncomingRequest request) {
  absl::StatusOr<Reply> answer = co_await Dispatch(std::move(session), std::move(request));
  Reply reply;
  if (answer.ok()) {
    reply = *std::move(answer);
  } else {
    reply.status = answer.status();
  }
  co_return reply;
}

Task<absl::StatusOr<Reply>> Holder::Dispatch(std::shared_ptr<Session> session,
                                             IncomingRequest request) {
  const FrameType type = request.header.type;
  if (type == FrameType::kPeerHello) {
    co_return OnHello(session.get(), request);
  }
  if (type == FrameType::kProbe) {
    co_return Reply();
  }
  if (!StateOf(session.get())->hello_done) {
    co_return error::FailedPrecondition("a peer says hello first; frame type {} came",
                                        static_cast<int>(type));
  }
  switch (type) {
    case FrameType::kOffer:
      co_return co_await OnOffer(std::move(session), std::move(request));
    case FrameType::kAskCredit:
      co_return co_await OnAskCredit(std::move(request));
    case FrameType::kWrite:
      co_return OnWrite(session.get(), request);
    case FrameType::kPeerSeal:
      co_return OnPeerSeal(request);
    case FrameType::kRevoke:
      co_return OnRevoke(request);
    case FrameType::kDescribe:
      co_return co_await OnDescribe(std::move(request));
    case FrameType::kRead:
      co_return co_await OnRead(std::move(request));
    default:
      co_return error::InvalidArgument("frame type {} is not for a server's data address",
                                       static_cast<int>(type));
  }
}

absl::StatusOr<Reply> Holder::OnHello(Session* session, const IncomingRequest& request) {
  GEMEL_ASSIGN_OR_RETURN(const PeerHello hello, DecodeMessage<PeerHello>(request.body));
  GEMEL_RETURN_IF_ERROR(CheckPeerHello(hello, parts_.control->cluster()));
  if (hello.server == parts_.control->server()) {
    return error::FailedPrecondition("server {} calls itself, or two servers have one --dir",
                                     hello.server.ToShort());
  }
  if (check_member_) {
    GEMEL_RETURN_IF_ERROR(check_member_(hello));
  }
  StateOf(session)->hello_done = true;
  StateOf(session)->hello = hello;
  PeerHello own = parts_.peers->OwnHello();
  own.features = request.header.offset == kHelloReadsFeatures ? kPeerCancels : 0;
  Reply reply;
  reply.body = EncodeMessage(own);
  return reply;
}

void Holder::OnSessionClosed(Session* session, const absl::Status& /*why*/) {
  regions_.AbandonLane(session);
  unplaced_.erase(unplaced_.lower_bound({session, 0}),
                  unplaced_.upper_bound({session, UINT64_MAX}));
  const auto found = std::find_if(sessions_.begin(), sessions_.end(),
                                  [session](const auto& one) { return one.get() == session; });
  GEMEL_CHECK(found != sessions_.end());
  // The session may be the one that calls: it goes when the loop comes round.
  seams_.loop->Post([closed = *found] {});
  sessions_.erase(found);
}

void Holder::EndAll(const absl::Status& why) {
  while (!grants_.empty()) {
    const ShardId shard = grants_.begin()->first;
    const std::shared_ptr<Object> object = grants_.begin()->second.object;
    EndGrant(shard);
    parts_.objects->DropObject(object);
  }
  unplaced_.clear();
  const auto sessions = std::exchange(sessions_, {});
  for (const std::shared_ptr<Session>& session : sessions) {
    regions_.AbandonLane(session.get());
    session->Detach();
    session->Close(why);
  }
}

}  // namespace gemel

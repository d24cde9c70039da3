// SPDX-License-Identifier: Apache-2.0
#include "server/peers.h"

#include <algorithm>
#include <utility>

#include "common/check.h"
#include "common/errors.h"
#include "common/fields.h"
#include "common/status_macros.h"

namespace gemel {

absl::Status CheckPeerHello(const PeerHello& hello, const ClusterId& cluster) {
  if (hello.version != kPeerProtocolVersion) {
    return error::FailedPrecondition(
        "server {} speaks peer protocol {}, this one {}: install the same Gemel on both",
        hello.server_name, hello.version, kPeerProtocolVersion);
  }
  if (hello.cluster != cluster) {
    return error::FailedPrecondition("server {} is of cluster {}, this one of {}",
                                     hello.server_name, hello.cluster.ToHex(), cluster.ToHex());
  }
  return absl::OkStatus();
}

Peers::Peers(const ServerSeams& seams, const Control* control, std::string name)
    : seams_(seams), control_(control), name_(std::move(name)), was_reset_(seams.loop) {
  GEMEL_CHECK(control != nullptr);
}

Peers::~Peers() {
  for (auto& [id, peer] : peers_) {
    if (peer->session != nullptr) {
      peer->session->Detach();
    }
  }
}

PeerHello Peers::OwnHello() const {
  PeerHello hello;
  hello.cluster = control_->cluster();
  hello.server = control_->server();
  hello.incarnation = control_->incarnation();
  hello.server_name = name_;
  return hello;
}

Task<absl::StatusOr<std::shared_ptr<Session>>> Peers::SessionTo(PeerMember member,
                                                                TimePoint deadline) {
  GEMEL_CHECK(member.server != control_->server()) << "a session with oneself";
  std::unique_ptr<Peer>& slot = peers_[member.server];
  if (slot == nullptr) {
    slot = std::make_unique<Peer>(seams_.loop);
  }
  Peer* peer = slot.get();
  while (!closed_) {
    if (dead_.contains(member.incarnation)) {
      co_return error::Unavailable("placement calls incarnation {} of {} dead",
                                   member.incarnation.ToShort(), member.ToString());
    }
    const bool usable = peer->session != nullptr && peer->session->open();
    if (usable && peer->incarnation == member.incarnation) {
      co_return peer->session;
    }
    if (peer->connecting) {
      const bool changed = co_await peer->changed.WaitUntil(deadline);
      if (!changed) {
        co_return error::DeadlineExceeded("connecting to {} at {} takes too long",
                                          member.ToString(), member.data_address);
      }
      continue;
    }
    if (seams_.loop->Now() < peer->retry_at) {
      if (peer->retry_at >= deadline) {
        co_return peer->last_error;
      }
      co_await seams_.loop->SleepUntil(peer->retry_at);
      continue;
    }
    GEMEL_CO_RETURN_IF_ERROR(co_await Connect(peer, member, deadline));
  }
  co_return error::Unavailable("this server is stopping");
}

Task<absl::Status> Peers::Connect(Peer* peer, PeerMember member, TimePoint deadline) {
  GEMEL_CHECK(!peer->connecting) << member.ToString();
  peer->connecting = true;
  if (peer->session != nullptr) {
    if (!peer->session->open()) {
      unreachable_.insert(member.server);
    }
    peer->session->Detach();
    peer->session->Close(error::Unavailable("another incarnation of {} is wanted", member.name));
    peer->session = nullptr;
  }
  const TimePoint own_limit = Add(seams_.loop->Now(), kConnectDeadline);
  absl::StatusOr<std::shared_ptr<Session>> session =
      co_await OpenSession(member, std::min(deadline, own_limit));
  peer->connecting = false;
  peer->changed.NotifyAll();
  if (session.ok() && closed_) {
    (*session)->Detach();
    (*session)->Close(error::Unavailable("this server is stopping"));
    co_return error::Unavailable("this server is stopping");
  }
  if (!session.ok()) {
    peer->last_error = session.status();
    peer->retry_at = Add(seams_.loop->Now(), peer->delay.Next());
    if (session.status().code() == absl::StatusCode::kUnavailable) {
      unreachable_.insert(member.server);
    }
    co_return session.status();
  }
  peer->session = *std::move(session);
  peer->incarnation = member.incarnation;
  peer->delay.Reset();
  co_return absl::OkStatus();
}

Task<absl::StatusOr<std::shared_ptr<Session>>> Peers::OpenSession(PeerMember member,
                                                                  TimePoint deadline) {
  GEMEL_CO_ASSIGN_OR_RETURN(std::unique_ptr<Connection> connection,
                            co_await seams_.net->Connect(member.data_address, deadline));
  Session::Options options;
  options.silence_closes = true;
  std::shared_ptr<Session> session =
      Session::Start(seams_.loop, std::move(connection), this, options);
  Request request;
  request.type = FrameType::kPeerHello;
  request.body = EncodeMessage(OwnHello());
  absl::StatusOr<Reply> reply =
      co_await session->Call(std::move(request), MutableByteSpan(), deadline);
  absl::Status status = reply.ok() ? reply->status : reply.status();
  if (status.ok()) {
    const absl::StatusOr<PeerHello> hello = DecodeMessage<PeerHello>(reply->body);
    status = hello.ok() ? CheckPeerHello(*hello, control_->cluster()) : hello.status();
    if (status.ok() &&
        (hello->server != member.server || hello->incarnation != member.incarnation)) {
      status = error::FailedPrecondition(
          "{} was expected at {} in incarnation {}; there is {} ({}) in incarnation {}",
          member.ToString(), member.data_address, member.incarnation.ToShort(), hello->server_name,
          hello->server.ToShort(), hello->incarnation.ToShort());
    }
  }
  if (!status.ok()) {
    session->Detach();
    session->Close(status);
    co_return Annotate(status, fmt::format("hello to {}", member.ToString()));
  }
  co_return session;
}

std::vector<ServerId> Peers::TakeUnreachable() {
  std::vector<ServerId> taken(unreachable_.begin(), unreachable_.end());
  unreachable_.clear();
  reset_ = false;
  return taken;
}

Task<void> Peers::AwaitReset(TimePoint deadline) {
  while (!reset_ && seams_.loop->Now() < deadline) {
    co_await was_reset_.WaitUntil(deadline);
  }
}

void Peers::SetDead(std::set<Incarnation> dead) {
  dead_ = std::move(dead);
  for (auto& [id, peer] : peers_) {
    if (peer->session == nullptr || !dead_.contains(peer->incarnation)) {
      continue;
    }
    const std::shared_ptr<Session> session = std::exchange(peer->session, nullptr);
    session->Detach();
    session->Close(error::Unavailable("placement calls server {} dead", id.ToShort()));
    peer->changed.NotifyAll();
  }
}

void Peers::CloseAll(const absl::Status& why) {
  closed_ = true;
  for (auto& [id, peer] : peers_) {
    if (peer->session != nullptr) {
      peer->session->Detach();
      peer->session->Close(why);
      peer->session = nullptr;
    }
    peer->changed.NotifyAll();
  }
}

Task<Reply> Peers::Handle(std::shared_ptr<Session> session, IncomingRequest /*request*/) {
  Reply reply;
  reply.status =
      error::InvalidArgument("{} answers on this connection, it does not ask", session->peer());
  co_return reply;
}

void Peers::OnSessionClosed(Session* session, const absl::Status& why) {
  for (auto& [id, peer] : peers_) {
    if (peer->session.get() == session) {
      unreachable_.insert(id);
      reset_ = true;
      was_reset_.NotifyAll();
      seams_.events->Emit(
          Severity::kWarning, "peer_session_lost",
          fmt::format("the session with {} ended: {}", session->peer(), MessageOf(why)));
    }
  }
}

}  // namespace gemel

// SPDX-License-Identifier: Apache-2.0
#include "server/peers.h"

#include <algorithm>
#include <utility>

#include "common/check.h"
#include "common/errors.h"
#include "common/fields.h"
#include "common/points.h"
#include "common/status_macros.h"
#include "transport/addresses.h"

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
  *alive_ = false;
  for (auto& [id, peer] : peers_) {
    Drop(peer.get(), error::Unavailable("this server is stopping"));
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

absl::Status Peers::CheckNotDead(const PeerMember& member) const {
  if (dead_.contains(member.incarnation)) {
    return error::Unavailable("placement calls incarnation {} of {} dead",
                              member.incarnation.ToShort(), member.ToString());
  }
  return absl::OkStatus();
}

Peers::Peer* Peers::PeerOf(ServerId server) {
  GEMEL_CHECK(server != control_->server()) << "a session with oneself";
  std::unique_ptr<Peer>& slot = peers_[server];
  if (slot == nullptr) {
    slot = std::make_unique<Peer>(seams_.loop);
  }
  return slot.get();
}

// The peer, while its lanes lead to this very incarnation.
const Peers::Peer* Peers::FindLanes(const PeerMember& member) const {
  const auto found = peers_.find(member.server);
  const bool there = found != peers_.end() && found->second->incarnation == member.incarnation &&
                     found->second->addresses == member.data_address;
  return there ? found->second.get() : nullptr;
}

bool Peers::IsConnecting(const Peer& peer) {
  return std::any_of(peer.paths.begin(), peer.paths.end(),
                     [](const auto& path) { return path->connecting; });
}

size_t Peers::OpenLanesOf(const Peer& peer) {
  return static_cast<size_t>(std::count_if(peer.paths.begin(), peer.paths.end(),
                                           [](const auto& path) { return path->lane->open(); }));
}

// Ends all that leads to the peer. Attempts that are under way see that their path is not the
// peer's any more.
void Peers::Drop(Peer* peer, const absl::Status& why) {
  const std::vector<std::shared_ptr<Path>> paths = std::exchange(peer->paths, {});
  for (const std::shared_ptr<Path>& path : paths) {
    path->dropped = true;
    for (const std::shared_ptr<Session>& session : {path->lane->session, path->greeting}) {
      if (session != nullptr) {
        session->Detach();
        session->Close(why);
      }
    }
  }
  peer->incarnation = Incarnation();
  peer->changed->NotifyAll();
}

// Makes `peer` its paths, some for each address of the member; what led to another incarnation
// ends. How long an address that failed is left alone stays.
void Peers::LeadTo(Peer* peer, const PeerMember& member) {
  GEMEL_CHECK(!IsConnecting(*peer)) << member.ToString();
  const std::vector<std::shared_ptr<Path>> before = peer->paths;
  Drop(peer, error::Unavailable("another incarnation of {} is wanted", member.name));
  std::vector<std::string> addresses = SplitAddresses(member.data_address);
  if (addresses.empty()) {
    addresses.push_back(member.data_address);  // connecting says what is wrong with it
  }
  for (const std::string& address : addresses) {
    for (size_t lane = 0; lane < LanesTo(address); ++lane) {
      auto path = std::make_shared<Path>();
      path->lane = std::make_shared<Lane>(address, peer->changed);
      for (const std::shared_ptr<Path>& old : before) {
        if (old->lane->address == address) {
          path->delay = old->delay;
          path->retry_at = old->retry_at;
          path->last_error = old->last_error;
        }
      }
      peer->paths.push_back(std::move(path));
    }
  }
  GEMEL_CHECK(!peer->paths.empty()) << member.ToString();
  peer->incarnation = member.incarnation;
  peer->addresses = member.data_address;
}

// Null when no lane is open. Where all are late, the first one is as good as another.
std::shared_ptr<Session> Peers::FirstSession(const Peer& peer) const {
  std::shared_ptr<Session> first;
  for (const std::shared_ptr<Path>& path : peer.paths) {
    if (!path->lane->open()) {
      continue;
    }
    if (!path->lane->pace.IsLate(seams_.loop->Now())) {
      return path->lane->session;
    }
    first = first == nullptr ? path->lane->session : first;
  }
  return first;
}

// Begins to open what is not open; whether it began any.
bool Peers::StartPaths(Peer* peer, const PeerMember& member) {
  bool began = false;
  for (const std::shared_ptr<Path>& path : peer->paths) {
    if (!path->connecting && !path->lane->open() && path->retry_at <= seams_.loop->Now()) {
      began = true;
      path->connecting = true;
      seams_.loop->Spawn(Connect(peer, path, member));
    }
  }
  return began;
}

Task<absl::StatusOr<std::shared_ptr<Session>>> Peers::SessionTo(PeerMember member,
                                                                TimePoint deadline) {
  Peer* const peer = PeerOf(member.server);
  bool began = false;
  while (!closed_) {
    GEMEL_CO_RETURN_IF_ERROR(CheckNotDead(member));
    const bool others = FindLanes(member) == nullptr;
    if (others && !IsConnecting(*peer)) {
      LeadTo(peer, member);
    }
    if (FindLanes(member) != nullptr) {
      if (std::shared_ptr<Session> session = FirstSession(*peer)) {
        co_return session;
      }
      if (began && !IsConnecting(*peer)) {
        GEMEL_CHECK(!peer->paths.empty());
        co_return peer->paths.front()->last_error;
      }
      began = StartPaths(peer, member) || began;
    }
    if (!IsConnecting(*peer)) {
      GEMEL_CHECK(!peer->paths.empty());
      const auto next =
          std::min_element(peer->paths.begin(), peer->paths.end(),
                           [](const auto& a, const auto& b) { return a->retry_at < b->retry_at; });
      if ((*next)->retry_at >= deadline) {
        co_return (*next)->last_error;
      }
      co_await seams_.loop->SleepUntil((*next)->retry_at);
      continue;
    }
    const bool changed = co_await peer->changed->WaitUntil(deadline);
    if (!changed) {
      co_return error::DeadlineExceeded("connecting to {} at {} takes too long", member.ToString(),
                                        member.data_address);
    }
  }
  co_return error::Unavailable("this server is stopping");
}

std::shared_ptr<Session> Peers::FindSession(const PeerMember& member) const {
  const Peer* const peer = FindLanes(member);
  return closed_ || peer == nullptr ? nullptr : FirstSession(*peer);
}

std::shared_ptr<Lane> Peers::PickLane(const PeerMember& member) {
  if (closed_ || FindLanes(member) == nullptr || !CheckNotDead(member).ok()) {
    return nullptr;
  }
  Peer* const peer = PeerOf(member.server);
  StartPaths(peer, member);
  const TimePoint now = seams_.loop->Now();
  Duration fastest{};
  bool rested = false;  // an open lane that is not paused
  for (const std::shared_ptr<Path>& path : peer->paths) {
    const LanePace& pace = path->lane->pace;
    if (path->lane->open()) {
      rested = rested || !pace.IsPaused(now);
      const bool faster = fastest == Duration::zero() || pace.slice_time() < fastest;
      fastest = pace.slice_time() > Duration::zero() && faster ? pace.slice_time() : fastest;
    }
  }
  std::shared_ptr<Lane> best;
  for (const std::shared_ptr<Path>& path : peer->paths) {
    const std::shared_ptr<Lane>& lane = path->lane;
    const bool usable =
        lane->open() && lane->pace.HasRoom(fastest) && (!rested || !lane->pace.IsPaused(now));
    if (usable && (best == nullptr || lane->pace.Expected() < best->pace.Expected())) {
      best = lane;
    }
  }
  return best;
}

size_t Peers::open_lanes(const PeerMember& member) const {
  const Peer* const peer = FindLanes(member);
  return peer == nullptr ? 0 : OpenLanesOf(*peer);
}

bool Peers::HasLanes(const PeerMember& member) const {
  const Peer* const peer = FindLanes(member);
  return !closed_ && peer != nullptr && (OpenLanesOf(*peer) > 0 || IsConnecting(*peer));
}

Task<absl::StatusOr<std::shared_ptr<Lane>>> Peers::LaneTo(PeerMember member, TimePoint deadline) {
  while (true) {
    if (std::shared_ptr<Lane> lane = PickLane(member)) {
      co_return lane;
    }
    if (open_lanes(member) == 0) {
      const auto session = co_await SessionTo(member, deadline);
      GEMEL_CO_RETURN_IF_ERROR(session.status());
      continue;
    }
    if (seams_.loop->Now() >= deadline) {
      co_return error::DeadlineExceeded("no lane to {} had room in time", member.ToString());
    }
    co_await AwaitLane(member.server, deadline);
  }
}

Task<void> Peers::AwaitLane(ServerId member, TimePoint deadline) {
  const std::shared_ptr<WaitQueue> changed = PeerOf(member)->changed;
  co_await changed->WaitUntil(deadline);
}

// `peer` outlives this as long as the path is one of its own.
Task<void> Peers::Connect(Peer* peer, std::shared_ptr<Path> path, PeerMember member) {
  GEMEL_CHECK(path->connecting && path->greeting == nullptr) << path->lane->address;
  const std::shared_ptr<bool> alive = alive_;
  const TimePoint deadline = Add(seams_.loop->Now(), kConnectDeadline);
  absl::StatusOr<std::shared_ptr<Session>> session = co_await OpenSession(path, member, deadline);
  path->connecting = false;
  path->greeting = nullptr;
  if (!*alive || path->dropped) {
    if (session.ok()) {
      (*session)->Detach();
      (*session)->Close(error::Unavailable("nobody wants this session any more"));
    }
    co_return;
  }
  if (session.ok()) {
    path->lane->session = *std::move(session);
    path->delay.Reset();
  } else {
    path->last_error = session.status();
    path->retry_at = Add(seams_.loop->Now(), path->delay.Next());
    if (session.status().code() == absl::StatusCode::kUnavailable && OpenLanesOf(*peer) == 0) {
      unreachable_.insert(member.server);
    }
  }
  peer->changed->NotifyAll();
}

Task<absl::StatusOr<std::shared_ptr<Session>>> Peers::OpenSession(std::shared_ptr<Path> path,
                                                                  PeerMember member,
                                                                  TimePoint deadline) {
  const std::shared_ptr<bool> alive = alive_;
  const std::string address = path->lane->address;
  Request request;
  request.type = FrameType::kPeerHello;
  request.offset = kHelloReadsFeatures;
  request.body = EncodeMessage(OwnHello());
  GEMEL_CO_ASSIGN_OR_RETURN(std::unique_ptr<Connection> connection,
                            co_await seams_.net->Connect(address, deadline));
  if (!*alive || path->dropped) {
    co_return error::Unavailable("nobody wants this connection any more");
  }
  Session::Options options;
  options.silence_closes = true;
  std::shared_ptr<Session> session =
      Session::Start(seams_.loop, std::move(connection), this, options);
  path->greeting = session;
  absl::StatusOr<Reply> reply =
      co_await session->Call(std::move(request), MutableByteSpan(), deadline);
  absl::Status status = reply.ok() ? reply->status : reply.status();
  if (status.ok() && *alive) {
    status = CheckGreeting(*reply, member, address, session.get());
  }
  if (!status.ok()) {
    session->Detach();
    session->Close(status);
    co_return Annotate(status, fmt::format("hello to {}", member.ToString()));
  }
  co_return session;
}

absl::Status Peers::CheckGreeting(const Reply& reply, const PeerMember& member,
                                  const std::string& address, Session* session) const {
  GEMEL_ASSIGN_OR_RETURN(const PeerHello hello, DecodeMessage<PeerHello>(reply.body));
  GEMEL_RETURN_IF_ERROR(CheckPeerHello(hello, control_->cluster()));
  if (hello.server != member.server || hello.incarnation != member.incarnation) {
    return error::FailedPrecondition(
        "{} was expected at {} in incarnation {}; there is {} ({}) in incarnation {}",
        member.ToString(), address, member.incarnation.ToShort(), hello.server_name,
        hello.server.ToShort(), hello.incarnation.ToShort());
  }
  if ((hello.features & kPeerCancels) != 0) {
    session->SetPeerCancels();
  }
  return absl::OkStatus();
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
    if (dead_.contains(peer->incarnation)) {
      Drop(peer.get(), error::Unavailable("placement calls server {} dead", id.ToShort()));
    }
  }
}

void Peers::CloseAll(const absl::Status& why) {
  closed_ = true;
  for (auto& [id, peer] : peers_) {
    Drop(peer.get(), why);
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
    for (const std::shared_ptr<Path>& path : peer->paths) {
      if (path->lane->session.get() != session) {
        continue;
      }
      seams_.events->Emit(
          Severity::kWarning, "peer_session_lost",
          fmt::format("the session with {} ended: {}", session->peer(), MessageOf(why)));
      if (OpenLanesOf(*peer) > 0) {
        Sometimes(Situation::kLaneLost);
      } else {
        unreachable_.insert(id);
        reset_ = true;
        was_reset_.NotifyAll();
      }
      peer->changed->NotifyAll();
    }
  }
}

}  // namespace gemel

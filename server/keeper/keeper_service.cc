// SPDX-License-Identifier: Apache-2.0
#include "server/keeper/keeper_service.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "common/check.h"
#include "common/errors.h"
#include "common/status_macros.h"

namespace gemel {
namespace {

template <typename Message>
absl::StatusOr<Reply> ReplyOf(const Message& message) {
  Reply reply;
  reply.body = EncodeMessage(message);
  return reply;
}

}  // namespace

KeeperService::KeeperService(const Seams& seams) : seams_(seams), changed_(seams.loop) {
  GEMEL_CHECK(seams.loop != nullptr && seams.net != nullptr && seams.host != nullptr);
  GEMEL_CHECK(seams.events != nullptr);
}

KeeperService::~KeeperService() { Stop(); }

absl::Status KeeperService::Start(const std::string& address) {
  GEMEL_CHECK(listener_ == nullptr) << "started twice";
  GEMEL_ASSIGN_OR_RETURN(
      listener_, seams_.net->Listen(address, [this](std::unique_ptr<Connection> connection) {
        Accept(std::move(connection));
      }));
  return absl::OkStatus();
}

void KeeperService::Stop() {
  listener_ = nullptr;
  const auto sessions = std::move(sessions_);
  sessions_.clear();
  for (const std::shared_ptr<Session>& session : sessions) {
    session->Detach();
    if (!seams_.loop->is_shut_down()) {
      session->Close(error::Unavailable("the keeper is stopping"));
    }
  }
  owner_ = Owner();
  items_.clear();
}

void KeeperService::Accept(std::unique_ptr<Connection> connection) {
  if (sessions_.size() >= kSessionsMax) {
    seams_.events->Emit(Severity::kWarning, "connection_refused",
                        fmt::format("{} connections are open, the most there may be: one server "
                                    "needs one",
                                    sessions_.size()));
    return;
  }
  Session::Options options;
  options.requests_in_flight_max = 64;
  std::shared_ptr<Session> session =
      Session::Start(seams_.loop, std::move(connection), this, options);
  sessions_.push_back(session);
}

Placement KeeperService::PlaceRequestPayload(Session* /*session*/, const FrameHeader& /*header*/,
                                             std::string_view /*body*/) {
  return Placement();  // no message of a keeper has one
}

void KeeperService::OnSessionClosed(Session* session, const absl::Status& why) {
  const auto found = std::find_if(sessions_.begin(), sessions_.end(),
                                  [session](const auto& one) { return one.get() == session; });
  GEMEL_CHECK(found != sessions_.end());
  // The session is what calls: it goes when the loop comes round.
  seams_.loop->Post([gone = *found] {});
  sessions_.erase(found);
  if (owner_.session.get() == session) {
    owner_.session = nullptr;
    seams_.events->Emit(Severity::kInfo, "server_left",
                        fmt::format("{} (process {}) left: {}; {} items are kept", owner_.name,
                                    owner_.pid, MessageOf(why), items_.size()));
    changed_.NotifyAll();
  }
}

Task<Reply> KeeperService::Handle(std::shared_ptr<Session> session, IncomingRequest request) {
  absl::StatusOr<Reply> answer = co_await Dispatch(std::move(session), std::move(request));
  if (answer.ok()) {
    co_return *std::move(answer);
  }
  Reply reply;
  reply.status = answer.status();
  co_return reply;
}

Task<absl::StatusOr<Reply>> KeeperService::Dispatch(std::shared_ptr<Session> session,
                                                    IncomingRequest request) {
  const FrameType type = request.header.type;
  if (type == FrameType::kKeeperHello) {
    co_return co_await OnHello(std::move(session), std::move(request));
  }
  GEMEL_CO_RETURN_IF_ERROR(CheckIsOwner(session.get()));
  switch (type) {
    case FrameType::kKeeperTake: {
      GEMEL_CO_ASSIGN_OR_RETURN(const KeeperTake take, DecodeMessage<KeeperTake>(request.body));
      co_return OnTake(take);
    }
    case FrameType::kKeeperGive: {
      GEMEL_CO_ASSIGN_OR_RETURN(const KeeperGive give, DecodeMessage<KeeperGive>(request.body));
      co_return OnGive(give, request.handles);
    }
    case FrameType::kKeeperForget: {
      GEMEL_CO_ASSIGN_OR_RETURN(const KeeperForget forget,
                                DecodeMessage<KeeperForget>(request.body));
      co_return OnForget(forget);
    }
    default:
      co_return error::InvalidArgument("frame type {} is not for a keeper", static_cast<int>(type));
  }
}

absl::Status KeeperService::CheckIsOwner(const Session* session) const {
  if (session != nullptr && owner_.session.get() == session) {
    return absl::OkStatus();
  }
  return error::FailedPrecondition(
      "this connection is not that of the server that this keeper keeps for: say hello first");
}

absl::Status KeeperService::CheckOwner(const KeeperHello& hello) const {
  if (hello.version != kKeeperProtocolVersion) {
    return error::FailedPrecondition(
        "server {} speaks keeper protocol {}, this gemel-keeper {}: install the same Gemel",
        hello.server_name, hello.version, kKeeperProtocolVersion);
  }
  if (hello.server.IsZero() || hello.incarnation.IsZero()) {
    return error::InvalidArgument("server {} says hello without its id or incarnation",
                                  hello.server_name);
  }
  if (owner_.server.IsZero()) {
    return absl::OkStatus();
  }
  if (hello.server != owner_.server) {
    return error::FailedPrecondition(
        "this keeper keeps memory of server {} ({}); {} ({}) needs one of its own. End this "
        "gemel-keeper to drop what it keeps",
        owner_.name, owner_.server.ToShort(), hello.server_name, hello.server.ToShort());
  }
  const bool foreign =
      !owner_.cluster.IsZero() && !hello.cluster.IsZero() && owner_.cluster != hello.cluster;
  if (foreign) {
    return error::FailedPrecondition(
        "this keeper keeps memory of cluster {}, server {} is of cluster {} now: end this "
        "gemel-keeper to drop what it keeps",
        owner_.cluster.ToShort(), hello.server_name, hello.cluster.ToShort());
  }
  return absl::OkStatus();
}

// Invariant (2). An owner that connects again is itself.
Task<absl::Status> KeeperService::AwaitOwnerGone(KeeperHello hello) {
  const TimePoint give_up = Add(seams_.loop->Now(), kDeathPatience);
  const auto gone = [this, &hello] {
    const bool same = owner_.incarnation == hello.incarnation;
    const bool none = owner_.server.IsZero();
    return none || ((same || owner_.dead) && owner_.session == nullptr);
  };
  while (!gone()) {
    const bool notified = co_await changed_.WaitUntil(give_up);
    if (!notified && !gone()) {
      co_return error::FailedPrecondition(
          "{} (process {}, incarnation {}) has this memory and is not dead, stopped or hung as it "
          "may be: end it (kill -9 {}), then start {} again",
          owner_.name, owner_.pid, owner_.incarnation.ToShort(), owner_.pid, hello.server_name);
    }
  }
  co_return absl::OkStatus();
}

Task<absl::StatusOr<Reply>> KeeperService::OnHello(std::shared_ptr<Session> session,
                                                   IncomingRequest request) {
  GEMEL_CO_ASSIGN_OR_RETURN(const KeeperHello hello, DecodeMessage<KeeperHello>(request.body));
  if (request.handles.size() != 1) {
    co_return error::InvalidArgument(
        "the hello of server {} carries {} handles; it must carry its own process",
        hello.server_name, request.handles.size());
  }
  GEMEL_CO_RETURN_IF_ERROR(CheckOwner(hello));
  if (greeting_) {
    co_return error::FailedPrecondition("another server says hello to this keeper right now");
  }
  greeting_ = true;
  const absl::Status gone = co_await AwaitOwnerGone(hello);
  greeting_ = false;
  GEMEL_CO_RETURN_IF_ERROR(gone);
  GEMEL_CO_RETURN_IF_ERROR(CheckOwner(hello));
  GEMEL_CO_RETURN_IF_ERROR(TakeOver(session, hello, request.handles.front()));
  KeeperHelloReply answer;
  answer.items = static_cast<uint32_t>(items_.size());
  co_return ReplyOf(answer);
}

absl::Status KeeperService::TakeOver(const std::shared_ptr<Session>& session,
                                     const KeeperHello& hello,
                                     const std::shared_ptr<SharedHandle>& process) {
  if (!session->open()) {
    return error::Cancelled("server {} left while its hello was decided", hello.server_name);
  }
  Owner next;
  GEMEL_ASSIGN_OR_RETURN(next.pid, seams_.host->LivingPid(process));
  next.name = hello.server_name;
  next.server = hello.server;
  next.cluster = hello.cluster.IsZero() ? owner_.cluster : hello.cluster;
  next.incarnation = hello.incarnation;
  next.session = session;
  const auto died = [this, incarnation = hello.incarnation] {
    seams_.loop->Post([this, incarnation] {
      if (owner_.incarnation == incarnation) {
        owner_.dead = true;
        changed_.NotifyAll();
      }
    });
  };
  GEMEL_ASSIGN_OR_RETURN(next.watch, seams_.host->WatchExit(process, died));
  owner_ = std::move(next);
  seams_.events->Emit(Severity::kInfo, "server_greeted",
                      fmt::format("{} ({}, process {}) is incarnation {} and finds {} items",
                                  owner_.name, owner_.server.ToShort(), owner_.pid,
                                  owner_.incarnation.ToShort(), items_.size()));
  return absl::OkStatus();
}

absl::StatusOr<Reply> KeeperService::OnTake(const KeeperTake& take) const {
  KeeperTakeReply answer;
  Reply reply;
  if (take.first < items_.size()) {
    for (auto at = std::next(items_.begin(), take.first);
         at != items_.end() && answer.items.size() < kKeptPerFrameMax; ++at) {
      answer.items.push_back(at->first);
      reply.handles.push_back(at->second);
    }
  }
  GEMEL_CHECK_EQ(answer.items.size(), reply.handles.size());
  reply.body = EncodeMessage(answer);
  return reply;
}

absl::StatusOr<Reply> KeeperService::OnGive(const KeeperGive& give, const Handles& handles) {
  if (give.items.size() != handles.size()) {
    return error::InvalidArgument("{} items were given with {} handles", give.items.size(),
                                  handles.size());
  }
  const auto fresh = std::count_if(give.items.begin(), give.items.end(),
                                   [this](const KeptName& name) { return !items_.contains(name); });
  if (items_.size() + static_cast<size_t>(fresh) > kKeptItemsMax) {
    return error::ResourceExhausted("{} items are kept and {} are given; at most {} may be",
                                    items_.size(), fresh, kKeptItemsMax);
  }
  for (size_t i = 0; i < handles.size(); ++i) {
    items_[give.items[i]] = handles[i];
  }
  GEMEL_CHECK_LE(items_.size(), kKeptItemsMax);
  return ReplyOf(KeeperDone());
}

absl::StatusOr<Reply> KeeperService::OnForget(const KeeperForget& forget) {
  for (const KeptName& name : forget.items) {
    items_.erase(name);
  }
  return ReplyOf(KeeperDone());
}

}  // namespace gemel

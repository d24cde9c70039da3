// SPDX-License-Identifier: Apache-2.0
#include "server/client_session.h"

#include <utility>

#include "common/check.h"
#include "common/errors.h"
#include "common/fields.h"
#include "common/status_macros.h"

namespace gemel {

ClientSession::ClientSession(const ServerSeams& seams, const ClientParts& parts, uint64_t client)
    : seams_(seams), parts_(parts), client_(client) {
  GEMEL_CHECK(parts.control != nullptr && parts.identity != nullptr && parts.pool != nullptr);
  GEMEL_CHECK(parts.objects != nullptr && parts.uploads != nullptr && parts.restores != nullptr);
  GEMEL_CHECK(parts.stages != nullptr && parts.recovery != nullptr);
}

ClientSession::~ClientSession() {
  if (session_ != nullptr) {
    session_->Detach();
  }
}

void ClientSession::Start(std::unique_ptr<Connection> connection, Owner owner) {
  GEMEL_CHECK(session_ == nullptr);
  owner_ = std::move(owner);
  Session::Options options;
  session_ = Session::Start(seams_.loop, std::move(connection), this, options);
}

void ClientSession::Close(const absl::Status& why) {
  GEMEL_CHECK(session_ != nullptr);
  session_->Detach();
  session_->Close(why);
}

void ClientSession::EndWork(const std::string& why) {
  for (const std::shared_ptr<Upload>& upload : parts_.uploads->OfClient(client_)) {
    if (upload->sealing) {
      continue;  // all of its bytes are here: the save may still commit
    }
    seams_.loop->Spawn(
        parts_.uploads->AbortAtPlacement(upload->shard().snapshot, upload->object->token(), why));
    parts_.uploads->End(upload, error::Aborted("{}", why));
  }
  uploads_.clear();
  staged_.clear();
  parts_.stages->DropClient(client_);
  parts_.restores->ReleaseClient(client_);
}

Placement ClientSession::PlaceRequestPayload(Session* /*session*/, const FrameHeader& /*header*/,
                                             std::string_view /*body*/) {
  return Placement();  // clients send no payloads: their bytes are in slabs
}

void ClientSession::OnSessionClosed(Session* session, const absl::Status& /*why*/) {
  // Requests that wait for their turn are not begun: the process may be dead before it comes.
  session->Detach();
  if (owner_.closed) {
    owner_.closed(client_);
  }
}

Task<Reply> ClientSession::Handle(std::shared_ptr<Session> /*session*/, IncomingRequest request) {
  const auto self = shared_from_this();
  absl::StatusOr<Reply> answer = co_await Dispatch(std::move(request));
  Reply reply;
  if (answer.ok()) {
    reply = *std::move(answer);
  } else {
    reply.status = answer.status();
  }
  co_return reply;
}

// Decodes the request of one type and hands it to its handler.
#define GEMEL_CLIENT_CASE_(Name)                                                              \
  case FrameType::k##Name: {                                                                  \
    GEMEL_CO_ASSIGN_OR_RETURN(struct Name message, DecodeMessage<struct Name>(request.body)); \
    co_return co_await On##Name(std::move(message));                                          \
  }
#define GEMEL_CLIENT_CASE_AT_ONCE_(Name)                                                      \
  case FrameType::k##Name: {                                                                  \
    GEMEL_CO_ASSIGN_OR_RETURN(struct Name message, DecodeMessage<struct Name>(request.body)); \
    co_return On##Name(message);                                                              \
  }

ClientSession::Answer ClientSession::Dispatch(IncomingRequest request) {
  const FrameType type = request.header.type;
  if (type == FrameType::kClientHello) {
    co_return co_await OnHello(std::move(request));
  }
  if (!hello_done_) {
    co_return error::FailedPrecondition("a client says hello first; frame type {} came",
                                        static_cast<int>(type));
  }
  switch (type) {
    GEMEL_CLIENT_CASE_(AcquireEpoch)
    GEMEL_CLIENT_CASE_(OpenShard)
    GEMEL_CLIENT_CASE_AT_ONCE_(StageShard)
    GEMEL_CLIENT_CASE_AT_ONCE_(SealStage)
    GEMEL_CLIENT_CASE_AT_ONCE_(DropStage)
    GEMEL_CLIENT_CASE_AT_ONCE_(PrepareSlabs)
    GEMEL_CLIENT_CASE_AT_ONCE_(ReclaimSlabs)
    GEMEL_CLIENT_CASE_AT_ONCE_(ChunksFilled)
    GEMEL_CLIENT_CASE_(SealShard)
    GEMEL_CLIENT_CASE_(AwaitCommit)
    GEMEL_CLIENT_CASE_(AbortShard)
    GEMEL_CLIENT_CASE_(BeginRestore)
    GEMEL_CLIENT_CASE_(FetchChunks)
    GEMEL_CLIENT_CASE_(ReportRestore)
    GEMEL_CLIENT_CASE_(AwaitRestore)
    GEMEL_CLIENT_CASE_AT_ONCE_(ReleaseRestore)
    GEMEL_CLIENT_CASE_(BeginRead)
    GEMEL_CLIENT_CASE_(ListSnapshots)
    GEMEL_CLIENT_CASE_(RemoveSnapshot)
    default:
      co_return error::InvalidArgument("frame type {} is not for a server's client socket",
                                       static_cast<int>(type));
  }
}

#undef GEMEL_CLIENT_CASE_
#undef GEMEL_CLIENT_CASE_AT_ONCE_

ClientSession::Answer ClientSession::OnHello(IncomingRequest request) {
  GEMEL_CO_ASSIGN_OR_RETURN(const ClientHello hello, DecodeMessage<ClientHello>(request.body));
  if (hello.version != kClientProtocolVersion) {
    co_return error::FailedPrecondition(
        "the client library speaks protocol {}, server {} speaks {}: install the same Gemel",
        hello.version, parts_.server_name, kClientProtocolVersion);
  }
  if (hello_begun_) {
    co_return error::FailedPrecondition("client {} says hello twice", hello.pid);
  }
  if (request.handles.size() != 1) {
    co_return error::InvalidArgument(
        "the hello of client {} carries {} handles; it must carry its own process", hello.pid,
        request.handles.size());
  }
  hello_begun_ = true;
  GEMEL_CO_ASSIGN_OR_RETURN(holder_,
                            co_await owner_.admit(client_, hello.pid, request.handles.front()));
  GEMEL_CHECK_NE(holder_, kServerHolder);
  hello_done_ = true;
  ClientHelloReply answer;
  answer.cluster = parts_.control->cluster();
  answer.server = parts_.control->server();
  answer.incarnation = parts_.control->incarnation();
  answer.server_name = parts_.server_name;
  answer.slab_bytes = parts_.pool->slab_bytes();
  answer.holder = holder_;
  Reply reply;
  reply.body = EncodeMessage(answer);
  co_return reply;
}

absl::StatusOr<Reply> ClientSession::OnReclaimSlabs(const ReclaimSlabs& request) {
  if (request.holders.size() > kReclaimMax) {
    return error::InvalidArgument("{} connections are given up at once, at most {} may be",
                                  request.holders.size(), kReclaimMax);
  }
  owner_.reclaim(client_, request.holders);
  return ReplyWith(Acknowledged());
}

void ClientSession::AttachHandles(std::vector<SlabPiece>* pieces, Handles* handles) {
  for (SlabPiece& piece : *pieces) {
    if (sent_.contains(piece.slab)) {
      continue;
    }
    if (handles->size() == kFrameHandlesMax) {
      owed_.insert(piece.slab);
      continue;
    }
    piece.has_handle = true;
    handles->push_back(parts_.pool->memory(piece.slab));
    sent_.insert(piece.slab);
    owed_.erase(piece.slab);
  }
  GEMEL_CHECK_LE(handles->size(), kFrameHandlesMax);
}

}  // namespace gemel

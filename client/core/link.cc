// SPDX-License-Identifier: Apache-2.0
#include "client/core/link.h"

#include "common/errors.h"

namespace gemel {

Task<absl::StatusOr<std::shared_ptr<Link>>> Link::Connect(Loop* loop, Net* net, Host* host,
                                                          std::string address, TimePoint deadline) {
  GEMEL_CHECK(loop->OnLoopThread());
  std::shared_ptr<Link> link(new Link(loop, host, address));
  absl::StatusOr<std::unique_ptr<Connection>> connection = co_await net->Connect(address, deadline);
  GEMEL_CO_RETURN_IF_ERROR(connection.status());  // it names the address and the way out
  link->session_ = Session::Start(loop, std::move(*connection), nullptr, Session::Options());
  absl::StatusOr<std::shared_ptr<SharedHandle>> process = host->OwnProcess();
  GEMEL_CO_RETURN_IF_ERROR(process.status());
  ClientHello hello;
  Request request;
  request.type = FrameType::kClientHello;
  request.body = EncodeMessage(hello);
  request.handles.push_back(*process);
  absl::StatusOr<Reply> reply =
      co_await link->session_->Call(std::move(request), MutableByteSpan(), deadline);
  if (!reply.ok()) {
    co_return Annotate(reply.status(), fmt::format("hello to {}", address));
  }
  GEMEL_CO_RETURN_IF_ERROR(reply->status);
  GEMEL_CO_ASSIGN_OR_RETURN(link->server_, DecodeMessage<ClientHelloReply>(reply->body));
  if (link->server_.version != kClientProtocolVersion) {
    co_return error::FailedPrecondition(
        "the server at {} speaks client protocol {}, this library {}: install the same Gemel on "
        "both",
        address, link->server_.version, kClientProtocolVersion);
  }
  if (link->server_.slab_bytes == 0 || link->server_.slab_bytes % kChunkBytes != 0) {
    co_return error::Internal("the server at {} says that its slabs have {} bytes", address,
                              link->server_.slab_bytes);
  }
  co_return link;
}

Link::~Link() { Close(); }

void Link::Close() {
  if (session_ != nullptr && session_->open() && !loop_->is_shut_down()) {
    session_->Close(error::Cancelled("the client closed the connection"));
  }
}

absl::Status Link::Explain(const absl::Status& status) const {
  if (status.code() == absl::StatusCode::kUnavailable && session_ != nullptr && !session_->open()) {
    return error::Unavailable(
        "server {} at {} has ended, or was stopped: `gemel status` shows it, `gemel up --server "
        "{}` "
        "starts it again; what it held is on its peers",
        server_.server_name, address_, server_.server_name);
  }
  if (status.code() == absl::StatusCode::kDeadlineExceeded) {
    return error::DeadlineExceeded(
        "server {} at {} gave no answer in time, so the outcome is unknown; it may be waiting for "
        "gemel-placement: `gemel status` says what is dead",
        server_.server_name, address_);
  }
  // A refusal is a whole sentence that names who refuses; a connection that broke is not.
  if (status.code() == absl::StatusCode::kResourceExhausted ||
      status.code() == absl::StatusCode::kInvalidArgument ||
      status.code() == absl::StatusCode::kNotFound) {
    return status;
  }
  return Annotate(status, fmt::format("server {} at {}", server_.server_name, address_));
}

absl::StatusOr<Mapping*> Link::Find(const SlabPiece& piece, const Handles& handles,
                                    size_t* next_handle, Access access) {
  std::unique_ptr<Mapping>& mapping = slabs_[piece.slab];
  if (piece.has_handle) {
    if (*next_handle >= handles.size()) {
      return error::Internal("slab {} came without its memory", piece.slab);
    }
    if (mapping != nullptr) {
      replaced_.push_back(std::move(mapping));
    }
    const std::shared_ptr<SharedHandle>& memory = handles[*next_handle];
    *next_handle += 1;
    GEMEL_ASSIGN_OR_RETURN(mapping, host_->Map(memory, server_.slab_bytes, access, true));
  }
  if (mapping == nullptr) {
    return error::Internal("slab {} was never given to this client", piece.slab);
  }
  if (access == Access::kReadWrite && mapping->access() != Access::kReadWrite) {
    GEMEL_RETURN_IF_ERROR(mapping->Protect(Access::kReadWrite));
  }
  return mapping.get();
}

absl::StatusOr<std::vector<MutableByteSpan>> Link::Place(const std::vector<SlabPiece>& pieces,
                                                         const Handles& handles, Access access) {
  std::vector<MutableByteSpan> places;
  size_t next_handle = 0;
  for (const SlabPiece& piece : pieces) {
    if (piece.offset > server_.slab_bytes || piece.bytes > server_.slab_bytes - piece.offset) {
      return error::Internal("piece [{}, +{}) lies outside slab {} of {} bytes", piece.offset,
                             piece.bytes, piece.slab, server_.slab_bytes);
    }
    GEMEL_ASSIGN_OR_RETURN(Mapping * mapping, Find(piece, handles, &next_handle, access));
    places.push_back(mapping->bytes().subspan(piece.offset, piece.bytes));
  }
  return places;
}

absl::Status Link::MakeReadOnly(const std::vector<SlabPiece>& pieces) {
  for (const SlabPiece& piece : pieces) {
    auto found = slabs_.find(piece.slab);
    GEMEL_CHECK(found != slabs_.end()) << "slab " << piece.slab;
    if (found->second->access() == Access::kReadWrite) {
      GEMEL_RETURN_IF_ERROR(found->second->Protect(Access::kRead));
    }
  }
  return absl::OkStatus();
}

}  // namespace gemel

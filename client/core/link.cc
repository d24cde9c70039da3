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
        "{}` starts it again; what it held is with its keeper and on its peers",
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

bool Link::GiveUpMemory() {
  if (open() || use_.use_count() > 1) {
    return false;
  }
  given_up_ = true;
  slabs_.clear();
  replaced_.clear();
  return true;
}

absl::Status Link::Keep(const std::vector<SlabPiece>& pieces, const Handles& handles) {
  if (given_up_) {
    return error::Unavailable("the connection to {} has ended and its memory was given up",
                              address_);
  }
  size_t next_handle = 0;
  for (const SlabPiece& piece : pieces) {
    if (!piece.has_handle) {
      continue;
    }
    if (next_handle == handles.size()) {
      return error::Internal("slab {} came without its memory", piece.slab);
    }
    Slab& slab = slabs_[piece.slab];
    if (slab.mapping != nullptr) {
      replaced_.push_back(std::exchange(slab, Slab{}));
    }
    slab.memory = handles[next_handle];
    next_handle += 1;
  }
  return absl::OkStatus();
}

bool Link::HasMemoryOf(const std::vector<SlabPiece>& pieces, uint32_t* missing) const {
  for (const SlabPiece& piece : pieces) {
    if (!slabs_.contains(piece.slab)) {
      *missing = piece.slab;
      return false;
    }
  }
  return true;
}

Task<absl::Status> Link::FetchOwed(std::shared_ptr<Link> link, std::vector<SlabPiece> pieces) {
  uint32_t missing = 0;
  while (!link->HasMemoryOf(pieces, &missing)) {
    PrepareSlabs message;  // no bytes: only what is owed
    const TimePoint deadline = Add(link->loop_->Now(), kCallGrace);
    auto reply =
        co_await link->Call<PrepareSlabsReply>(FrameType::kPrepareSlabs, message, deadline);
    GEMEL_CO_RETURN_IF_ERROR(reply.status());
    GEMEL_CO_RETURN_IF_ERROR(link->Keep(reply->first.pieces, reply->second));
    if (reply->second.empty() && !link->HasMemoryOf(pieces, &missing)) {
      co_return error::Internal("slab {} was never given to this client", missing);
    }
  }
  co_return absl::OkStatus();
}

absl::StatusOr<Mapping*> Link::Find(const SlabPiece& piece, Access access) {
  const auto found = slabs_.find(piece.slab);
  if (found == slabs_.end()) {
    return error::Internal("slab {} was never given to this client", piece.slab);
  }
  Slab& slab = found->second;
  if (slab.mapping == nullptr) {
    GEMEL_ASSIGN_OR_RETURN(slab.mapping, host_->Map(slab.memory, server_.slab_bytes, access, true));
    slab.memory = nullptr;
  }
  if (access == Access::kReadWrite && slab.mapping->access() != Access::kReadWrite) {
    GEMEL_RETURN_IF_ERROR(slab.mapping->Protect(Access::kReadWrite));
  }
  return slab.mapping.get();
}

absl::StatusOr<std::vector<MutableByteSpan>> Link::Place(const std::vector<SlabPiece>& pieces,
                                                         Access access) {
  std::vector<MutableByteSpan> places;
  for (const SlabPiece& piece : pieces) {
    if (piece.offset > server_.slab_bytes || piece.bytes > server_.slab_bytes - piece.offset) {
      return error::Internal("piece [{}, +{}) lies outside slab {} of {} bytes", piece.offset,
                             piece.bytes, piece.slab, server_.slab_bytes);
    }
    GEMEL_ASSIGN_OR_RETURN(Mapping * mapping, Find(piece, access));
    places.push_back(mapping->bytes().subspan(piece.offset, piece.bytes));
  }
  return places;
}

Task<bool> Link::Pin(std::shared_ptr<Link> link, std::vector<SlabPiece> pieces, Device* device) {
  bool all = true;
  for (const SlabPiece& piece : pieces) {
    Slab& slab = link->slabs_[piece.slab];
    const bool asked = slab.pin.has_value() || slab.mapping == nullptr;
    if (!asked) {
      slab.pin = device->Pin(slab.mapping->bytes()).value_or(nullptr);
    }
    all = all && slab.pin.value_or(nullptr) != nullptr;
    if (!asked) {
      co_await link->loop_->Yield();
    }
  }
  co_return all;
}

absl::Status Link::MakeReadOnly(const std::vector<SlabPiece>& pieces) {
  if (given_up_) {
    return absl::OkStatus();
  }
  for (const SlabPiece& piece : pieces) {
    auto found = slabs_.find(piece.slab);
    GEMEL_CHECK(found != slabs_.end()) << "slab " << piece.slab;
    Mapping* const mapping = found->second.mapping.get();
    if (mapping != nullptr && mapping->access() == Access::kReadWrite) {
      GEMEL_RETURN_IF_ERROR(mapping->Protect(Access::kRead));
    }
  }
  return absl::OkStatus();
}

}  // namespace gemel

// SPDX-License-Identifier: Apache-2.0
#include "server/replicate.h"

#include <utility>

#include "common/check.h"
#include "common/errors.h"
#include "common/fields.h"
#include "common/points.h"
#include "common/status_macros.h"
#include "server/uploads.h"

namespace gemel {

Replication::Replication(const ServerSeams& seams, Peers* peers, std::shared_ptr<Upload> upload,
                         std::shared_ptr<UploadCopy> copy)
    : seams_(seams), peers_(peers), upload_(std::move(upload)), copy_(std::move(copy)) {
  GEMEL_CHECK(peers_ != nullptr && upload_ != nullptr && copy_ != nullptr);
}

absl::Status Replication::CheckWanted() const {
  if (upload_->ended) {
    return error::Aborted("{} has ended", upload_->shard().ToString());
  }
  if (!copy_->wanted) {
    return error::Aborted("{} shall not keep {} any more", copy_->holder.ToString(),
                          upload_->shard().ToString());
  }
  return absl::OkStatus();
}

Task<absl::Status> Replication::TryOnce() {
  const TimePoint connect_by = Add(seams_.loop->Now(), kConnectDeadline);
  GEMEL_CO_ASSIGN_OR_RETURN(std::shared_ptr<Session> session,
                            co_await peers_->SessionTo(copy_->holder, connect_by));
  GEMEL_CO_RETURN_IF_ERROR(CheckWanted());
  GEMEL_CO_ASSIGN_OR_RETURN(const OfferReply grant, co_await SendOffer(session));
  if (!grant.already_sealed) {
    GEMEL_CO_RETURN_IF_ERROR(co_await StreamChunks(session, grant));
    if (Buggify(BuggifySite::kCopyAgain)) {
      co_return error::Unavailable("the copy is offered once more");
    }
  }
  GEMEL_CO_RETURN_IF_ERROR(co_await WaitForSeal());
  if (grant.already_sealed) {
    if (grant.root == upload_->root) {
      co_return absl::OkStatus();
    }
    co_return error::DataLoss("{} holds {} under root {} where {} belongs",
                              copy_->holder.ToString(), upload_->shard().ToString(),
                              ToHex(grant.root), ToHex(upload_->root));
  }
  co_return co_await SealAtPeer(session, grant);
}

Task<absl::StatusOr<OfferReply>> Replication::SendOffer(std::shared_ptr<Session> session) {
  Offer offer;
  offer.shard = upload_->shard();
  offer.token = upload_->object->token();
  offer.bytes = upload_->object->bytes();
  offer.layout_bytes = upload_->object->layout_bytes();
  Request request;
  request.type = FrameType::kOffer;
  request.body = EncodeMessage(offer);
  const TimePoint deadline = Add(seams_.loop->Now(), kOfferDeadline);
  absl::StatusOr<Reply> reply =
      co_await session->Call(std::move(request), MutableByteSpan(), deadline);
  GEMEL_CO_RETURN_IF_ERROR(reply.status());
  GEMEL_CO_RETURN_IF_ERROR(reply->status);
  co_return DecodeMessage<OfferReply>(reply->body);
}

Request Replication::WriteRequest(const OfferReply& grant, uint32_t chunk) const {
  const Object& object = *upload_->object;
  GEMEL_CHECK(object.present(chunk)) << "chunk " << chunk;
  Write write;
  write.digest = object.digests()[chunk];
  Request request;
  request.type = FrameType::kWrite;
  request.region = grant.region;
  request.generation = grant.generation;
  request.offset = chunk * kChunkBytes;
  request.body = EncodeMessage(write);
  request.payload = object.Chunk(chunk);
  request.keep = upload_->object;
  return request;
}

Task<void> Replication::WriteChunk(ServerSeams seams, std::shared_ptr<Upload> upload,
                                   std::shared_ptr<Session> session, std::shared_ptr<Stream> stream,
                                   Request request) {
  const auto bytes = static_cast<int64_t>(request.payload.size());
  const TimePoint deadline = Add(seams.loop->Now(), kWriteDeadline);
  absl::StatusOr<Reply> reply =
      co_await session->Call(std::move(request), MutableByteSpan(), deadline);
  const absl::Status status = reply.ok() ? reply->status : reply.status();
  // Placed already: an earlier frame of the same grant arrived. The seal compares its digest.
  if (!status.ok() && status.code() != absl::StatusCode::kAlreadyExists) {
    stream->error.Update(status);
  } else {
    seams.metrics->Counter("gemel_replicated_bytes_total", "Bytes placed at other servers.")
        .Add(bytes);
  }
  stream->permits.Release(1);
  upload->changed.NotifyAll();
}

// Beside a slice, or under a grant that has ended: whoever takes it is wrong.
Task<void> Replication::WriteAstray(std::shared_ptr<Session> session, OfferReply grant,
                                    uint32_t chunk) {
  Request request = WriteRequest(grant, chunk);
  const bool beside = Buggify(BuggifySite::kWriteAstray);
  request.offset += beside ? 1 : 0;
  request.generation -= beside ? 0 : 1;
  const TimePoint deadline = Add(seams_.loop->Now(), kWriteDeadline);
  const absl::StatusOr<Reply> reply =
      co_await session->Call(std::move(request), MutableByteSpan(), deadline);
  GEMEL_CHECK(!reply.ok() || !reply->status.ok())
      << copy_->holder.ToString() << " took a write of " << upload_->shard().ToString()
      << (beside ? " beside its slice" : " under a grant that has ended");
}

Task<absl::Status> Replication::StreamChunks(std::shared_ptr<Session> session, OfferReply grant) {
  // Shared: the loop may destroy this coroutine and its writers in any order.
  const size_t window = Buggify(BuggifySite::kWriteWindowOne) ? 1 : kWriteWindow;
  auto stream = std::make_shared<Stream>(seams_.loop, window);
  size_t next = 0;
  absl::Status status;
  while (next < upload_->object->chunks()) {
    GEMEL_CHECK_LE(next, upload_->filled.size());
    status = CheckWanted();
    status.Update(stream->error);
    if (!status.ok()) {
      break;
    }
    if (next == upload_->filled.size()) {
      co_await upload_->changed.WaitUntil(kTimeNever);
      continue;
    }
    const bool permitted = co_await stream->permits.Acquire(1, kTimeNever);
    GEMEL_CHECK(permitted);
    if (Buggify(BuggifySite::kWriteAstray)) {
      co_await WriteAstray(session, grant, upload_->filled[next]);
    }
    Request request = WriteRequest(grant, upload_->filled[next]);
    next += 1;
    seams_.loop->Spawn(WriteChunk(seams_, upload_, session, stream, std::move(request)));
  }
  const bool drained = co_await stream->permits.Acquire(window, kTimeNever);
  GEMEL_CHECK(drained);
  status.Update(stream->error);
  co_return status;
}

Task<absl::Status> Replication::WaitForSeal() {
  while (!upload_->sealed) {
    GEMEL_CO_RETURN_IF_ERROR(CheckWanted());
    co_await upload_->changed.WaitUntil(kTimeNever);
  }
  co_return absl::OkStatus();
}

Task<absl::Status> Replication::SealAtPeer(std::shared_ptr<Session> session, OfferReply grant) {
  GEMEL_CHECK(upload_->sealed) << upload_->shard().ToString();
  if (Buggify(BuggifySite::kPeerSealLate)) {
    co_await seams_.loop->Sleep(kBackoffMax / 10);
  }
  PeerSeal seal;
  seal.shard = upload_->shard();
  seal.root = upload_->root;
  Request request;
  request.type = FrameType::kPeerSeal;
  request.region = grant.region;
  request.generation = grant.generation;
  request.body = EncodeMessage(seal);
  const TimePoint deadline = Add(seams_.loop->Now(), kPeerSealDeadline);
  absl::StatusOr<Reply> reply =
      co_await session->Call(std::move(request), MutableByteSpan(), deadline);
  GEMEL_CO_RETURN_IF_ERROR(reply.status());
  co_return reply->status;
}

}  // namespace gemel

// SPDX-License-Identifier: Apache-2.0
//
// Describe and Read: sealed objects, each chunk re-hashed before it is sent; and shards that are on
// this server's disk only, each chunk verified as it was read.
#include <algorithm>
#include <utility>

#include "common/errors.h"
#include "common/fields.h"
#include "common/points.h"
#include "common/status_macros.h"
#include "server/holder.h"

namespace gemel {

Task<absl::StatusOr<Reply>> Holder::OnDescribe(IncomingRequest request) {
  GEMEL_CO_ASSIGN_OR_RETURN(const Describe describe, DecodeMessage<Describe>(request.body));
  const absl::StatusOr<std::shared_ptr<Object>> object =
      parts_.objects->FindSealed(describe.shard, describe.root);
  const PersistedShard* on_disk = parts_.tier->Find(describe.shard, describe.root);
  DescribeReply answer;
  if (object.ok()) {
    answer.bytes = (*object)->bytes();
    answer.layout_bytes = (*object)->layout_bytes();
    answer.digests = (*object)->digests();
  } else if (on_disk != nullptr) {
    answer.bytes = on_disk->bytes;
    answer.layout_bytes = on_disk->layout_bytes;
    GEMEL_CO_ASSIGN_OR_RETURN(const Tier::Digests digests,
                              co_await parts_.tier->ReadDigests(describe.shard, describe.root));
    answer.digests = *digests;
  } else {
    co_return object.status();
  }
  Reply reply;
  reply.body = EncodeMessage(answer);
  co_return reply;
}

Task<absl::StatusOr<Reply>> Holder::OnRead(IncomingRequest request) {
  GEMEL_CO_ASSIGN_OR_RETURN(const Read read, DecodeMessage<Read>(request.body));
  if (request.IsCancelled()) {
    co_return error::Cancelled("nobody waits for chunk {} any more", read.chunk);
  }
  const absl::StatusOr<std::shared_ptr<Object>> object =
      parts_.objects->FindSealed(read.shard, read.root);
  const PersistedShard* on_disk = parts_.tier->Find(read.shard, read.root);
  if (!object.ok() && on_disk == nullptr) {
    co_return object.status();
  }
  const uint64_t bytes = object.ok() ? (*object)->bytes() : on_disk->bytes;
  if (read.chunk >= ChunkCount(bytes)) {
    co_return error::InvalidArgument("{} has {} chunks; chunk {} was asked for",
                                     read.shard.ToString(), ChunkCount(bytes), read.chunk);
  }
  absl::StatusOr<Reply> reply = error::Unavailable("not read yet");
  if (object.ok()) {
    reply = ReadMemory(*object, read.chunk);
  } else {
    reply = co_await ReadDisk(read, std::min(kChunkBytes, bytes - read.chunk * kChunkBytes));
  }
  if (reply.ok()) {
    seams_.metrics->Counter("gemel_read_bytes_total", "Bytes that other servers read here.")
        .Add(static_cast<int64_t>(reply->payload.size()));
  }
  co_return reply;
}

absl::StatusOr<Reply> Holder::ReadMemory(const std::shared_ptr<Object>& object, uint32_t chunk) {
  absl::Status checked = object->CheckChunk(chunk);
  if (!checked.ok()) {
    Sometimes(Situation::kReadDamaged);
    if (corrupt_) {
      corrupt_(object, checked);
    }
    return checked;
  }
  Reply reply;
  reply.payload = object->Chunk(chunk);
  reply.keep = object;
  return reply;
}

Task<absl::StatusOr<Reply>> Holder::ReadDisk(Read read, uint64_t bytes) {
  const auto buffer = std::make_shared<std::string>(bytes, '\0');
  const MutableByteSpan into = std::as_writable_bytes(std::span(*buffer));
  const absl::Status done =
      co_await parts_.tier->ReadChunk(read.shard, read.root, read.chunk, into, buffer);
  GEMEL_CO_RETURN_IF_ERROR(done);
  Reply reply;
  reply.payload = into;
  reply.keep = buffer;
  co_return reply;
}

}  // namespace gemel

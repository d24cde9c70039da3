// SPDX-License-Identifier: Apache-2.0
//
// Describe and Read: sealed objects, each chunk re-hashed before it is sent.
#include <utility>

#include "common/errors.h"
#include "common/fields.h"
#include "common/status_macros.h"
#include "server/holder.h"

namespace gemel {

absl::StatusOr<Reply> Holder::OnDescribe(const IncomingRequest& request) {
  GEMEL_ASSIGN_OR_RETURN(const Describe describe, DecodeMessage<Describe>(request.body));
  GEMEL_ASSIGN_OR_RETURN(const std::shared_ptr<Object> object,
                         parts_.objects->FindSealed(describe.shard, describe.root));
  DescribeReply answer;
  answer.bytes = object->bytes();
  answer.layout_bytes = object->layout_bytes();
  answer.digests = object->digests();
  Reply reply;
  reply.body = EncodeMessage(answer);
  return reply;
}

absl::StatusOr<Reply> Holder::OnRead(const IncomingRequest& request) {
  GEMEL_ASSIGN_OR_RETURN(const Read read, DecodeMessage<Read>(request.body));
  GEMEL_ASSIGN_OR_RETURN(const std::shared_ptr<Object> object,
                         parts_.objects->FindSealed(read.shard, read.root));
  if (read.chunk >= object->chunks()) {
    return error::InvalidArgument("{} has {} chunks; chunk {} was asked for", read.shard.ToString(),
                                  object->chunks(), read.chunk);
  }
  absl::Status checked = object->CheckChunk(read.chunk);
  if (!checked.ok()) {
    if (corrupt_) {
      corrupt_(object, checked);
    }
    return checked;
  }
  Reply reply;
  reply.payload = object->Chunk(read.chunk);
  reply.keep = object;
  seams_.metrics->Counter("gemel_read_bytes_total", "Bytes that other servers read here.")
      .Add(static_cast<int64_t>(reply.payload.size()));
  return reply;
}

}  // namespace gemel

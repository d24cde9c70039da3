// SPDX-License-Identifier: Apache-2.0
//
// What a client asks to write a shard before it has a name, and the open of what was staged.
#include <utility>

#include "common/check.h"
#include "common/errors.h"
#include "common/status_macros.h"
#include "server/client_session.h"

namespace gemel {

absl::StatusOr<Reply> ClientSession::OnStageShard(const StageShard& request) {
  StageShardReply done;
  GEMEL_ASSIGN_OR_RETURN(const std::shared_ptr<Stage> stage,
                         parts_.stages->Open(client_, holder_, request, &done.reason));
  if (stage == nullptr) {
    done.wait = true;
    return ReplyWith(done);
  }
  std::erase_if(staged_, [](const auto& one) { return one.second.expired(); });
  for (const auto& [number, staged] : staged_) {
    done.upload = staged.lock() == stage ? number : done.upload;
  }
  if (done.upload == 0) {
    done.upload = next_upload_++;
    staged_[done.upload] = stage;
  }
  done.pieces = stage->object->Pieces();
  Reply reply;
  AttachHandles(&done.pieces, &reply.handles);
  reply.body = EncodeMessage(done);
  return reply;
}

absl::StatusOr<std::shared_ptr<Stage>> ClientSession::FindStage(uint64_t upload) const {
  const auto found = staged_.find(upload);
  if (found == staged_.end()) {
    return error::NotFound("no stage {} is open on this connection", upload);
  }
  std::shared_ptr<Stage> stage = found->second.lock();
  if (stage == nullptr) {
    return error::FailedPrecondition("stage {} of this connection has ended", upload);
  }
  return stage;
}

absl::StatusOr<Reply> ClientSession::OnSealStage(const SealStage& request) {
  GEMEL_ASSIGN_OR_RETURN(const std::shared_ptr<Stage> stage, FindStage(request.upload));
  GEMEL_RETURN_IF_ERROR(parts_.stages->Seal(stage.get()));
  return ReplyWith(Acknowledged());
}

absl::StatusOr<Reply> ClientSession::OnDropStage(const DropStage& request) {
  GEMEL_RETURN_IF_ERROR(parts_.stages->Drop(client_, request.stage));
  return ReplyWith(Acknowledged());
}

// Before placement is asked, so that an open that cannot be opens nothing for the other ranks.
absl::Status ClientSession::CheckStage(const OpenShard& request) const {
  if (request.stage.IsZero()) {
    return absl::OkStatus();
  }
  for (const std::shared_ptr<Upload>& upload : parts_.uploads->OfClient(client_)) {
    const SnapshotId& snapshot = upload->shard().snapshot;
    if (upload->stage == request.stage && upload->shard().rank == request.rank &&
        snapshot.job == request.job && snapshot.name == request.name) {
      return absl::OkStatus();  // the answer to this open was lost: it is asked again
    }
  }
  Object::Shape shape;
  shape.bytes = request.shard_bytes;
  shape.layout_bytes = request.layout_bytes;
  return parts_.stages->FindSealed(request.stage, shape).status();
}

}  // namespace gemel

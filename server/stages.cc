// SPDX-License-Identifier: Apache-2.0
#include "server/stages.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "common/check.h"
#include "common/errors.h"
#include "common/status_macros.h"
#include "server/limits.h"

namespace gemel {
namespace {

std::string NameOf(const StageId& id) { return fmt::format("stage {}", id.ToShort()); }

}  // namespace

Stages::Stages(const ServerSeams& seams, SlabPool* pool, ObjectTable* objects)
    : seams_(seams), pool_(pool), objects_(objects) {
  GEMEL_CHECK(pool != nullptr && objects != nullptr);
  SetGauge();
}

absl::Status Stages::CheckRoom(uint64_t client, const StageShard& request) const {
  if (request.stage.IsZero() || request.shard_bytes == 0 ||
      request.layout_bytes > request.shard_bytes) {
    return error::InvalidArgument("{} of {} bytes with a layout of {}", NameOf(request.stage),
                                  request.shard_bytes, request.layout_bytes);
  }
  if (request.shard_bytes > pool_->capacity_bytes()) {
    return error::ResourceExhausted(
        "{} has {} bytes and this server keeps {} in all: raise --memory", NameOf(request.stage),
        request.shard_bytes, pool_->capacity_bytes());
  }
  if (ChunkCount(request.shard_bytes) > kStageChunksMax) {
    return error::InvalidArgument("{} has {} bytes; one stage may have {}: use more ranks",
                                  NameOf(request.stage), request.shard_bytes,
                                  kStageChunksMax * kChunkBytes);
  }
  const auto own = std::count_if(stages_.begin(), stages_.end(), [client](const auto& one) {
    return one.second->client == client;
  });
  if (static_cast<size_t>(own) >= kStagesPerClientMax || stages_.size() >= kStagesMax) {
    return error::ResourceExhausted(
        "this client has {} shards staged and all clients {}; at most {} and {} may be: open them "
        "under a name, or drop some",
        own, stages_.size(), kStagesPerClientMax, kStagesMax);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<Stage>> Stages::Open(uint64_t client, HolderKey holder,
                                                    const StageShard& request,
                                                    std::string* reason) {
  if (const auto found = stages_.find(request.stage); found != stages_.end()) {
    const std::shared_ptr<Stage>& there = found->second;
    const bool same = there->client == client && !there->sealed &&
                      there->object->bytes() == request.shard_bytes &&
                      there->object->layout_bytes() == request.layout_bytes;
    if (!same) {
      return error::AlreadyExists("{} is here already, with {} bytes{}", NameOf(request.stage),
                                  there->object->bytes(), there->sealed ? ", sealed" : "");
    }
    return there;
  }
  GEMEL_RETURN_IF_ERROR(CheckRoom(client, request));
  absl::StatusOr<std::shared_ptr<Object>> object =
      objects_->StageNameless(request.shard_bytes, request.layout_bytes, holder);
  if (object.status().code() == absl::StatusCode::kResourceExhausted) {
    *reason = MessageOf(object.status());
    return std::shared_ptr<Stage>();
  }
  GEMEL_RETURN_IF_ERROR(object.status());
  auto stage = std::make_shared<Stage>(request.stage, client, *std::move(object));
  stages_.emplace(request.stage, stage);
  SetGauge();
  return stage;
}

absl::Status Stages::Filled(Stage* stage, const ChunksFilled& report) {
  if (stage->ended) {
    return error::FailedPrecondition("{} has ended: {}", NameOf(stage->id), ToText(stage->why));
  }
  std::vector<uint32_t> filled;
  return TakeFilled(stage->object.get(), NameOf(stage->id), report, stage->sealed, &filled);
}

absl::Status Stages::Seal(Stage* stage) {
  if (stage->ended) {
    return error::FailedPrecondition("{} has ended: {}", NameOf(stage->id), ToText(stage->why));
  }
  const Object& object = *stage->object;
  if (!object.complete()) {
    return error::FailedPrecondition("{} of {} chunks of {} were filled before the seal",
                                     object.present_chunks(), object.chunks(), NameOf(stage->id));
  }
  stage->sealed = true;
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<Stage>> Stages::FindSealed(const StageId& id,
                                                          const Object::Shape& shape) const {
  const auto found = stages_.find(id);
  if (found == stages_.end()) {
    return error::NotFound(
        "{} is not on this host: it was never staged here, was opened already, or was dropped when "
        "its process left",
        NameOf(id));
  }
  const std::shared_ptr<Stage>& stage = found->second;
  GEMEL_CHECK(!stage->ended && stage->object != nullptr);
  if (!stage->sealed) {
    return error::FailedPrecondition("{} is not sealed: {} of {} chunks are filled", NameOf(id),
                                     stage->object->present_chunks(), stage->object->chunks());
  }
  if (stage->object->bytes() != shape.bytes ||
      stage->object->layout_bytes() != shape.layout_bytes) {
    return error::InvalidArgument(
        "{} has {} bytes with a layout of {}: it was opened with {} and {}", NameOf(id),
        stage->object->bytes(), stage->object->layout_bytes(), shape.bytes, shape.layout_bytes);
  }
  return stage;
}

absl::StatusOr<std::shared_ptr<Object>> Stages::TakeOver(const StageId& id,
                                                         const Object::Shape& shape) {
  GEMEL_ASSIGN_OR_RETURN(const std::shared_ptr<Stage> stage, FindSealed(id, shape));
  GEMEL_RETURN_IF_ERROR(objects_->Name(stage->object, shape.shard, shape.token));
  std::shared_ptr<Object> object = stage->object;
  End(stage, error::FailedPrecondition("it is {} now", shape.shard.ToString()));
  return object;
}

absl::Status Stages::Drop(uint64_t client, const StageId& id) {
  const auto found = stages_.find(id);
  if (found == stages_.end()) {
    return absl::OkStatus();
  }
  const std::shared_ptr<Stage> stage = found->second;
  if (stage->client != client) {
    return error::FailedPrecondition("{} is another client's to drop", NameOf(id));
  }
  End(stage, error::Aborted("it was dropped"));
  return absl::OkStatus();
}

void Stages::DropClient(uint64_t client) {
  const auto all = stages_;
  for (const auto& [id, stage] : all) {
    if (stage->client == client) {
      End(stage, error::Aborted("the connection that staged it ended"));
    }
  }
}

void Stages::End(const std::shared_ptr<Stage>& stage, absl::Status why) {
  GEMEL_CHECK(!stage->ended) << stage->id.ToHex();
  stage->ended = true;
  stage->why = std::move(why);
  stage->object = nullptr;
  stages_.erase(stage->id);
  SetGauge();
}

uint64_t Stages::bytes() const {
  uint64_t sum = 0;
  for (const auto& [id, stage] : stages_) {
    sum += DivideUp(stage->object->bytes(), pool_->slab_bytes()) * pool_->slab_bytes();
  }
  return sum;
}

void Stages::SetGauge() {
  seams_.metrics->Gauge("gemel_memory_staged_bytes", "Memory of staged shards without a name.")
      .Set(static_cast<int64_t>(bytes()));
}

}  // namespace gemel

// SPDX-License-Identifier: Apache-2.0
#include "client/core/shard_stage.h"

#include <algorithm>
#include <utility>

#include "common/check.h"
#include "common/errors.h"
#include "common/status_macros.h"

namespace gemel {
namespace {

// Between two questions for memory that was not there.
constexpr Duration kAskAgainFirst = 5ms;
constexpr Duration kAskAgainMax = 200ms;

}  // namespace

Task<absl::StatusOr<std::pair<StageShardReply, Handles>>> ShardStage::AskForMemory(
    std::shared_ptr<Link> link, StageOptions options) {
  StageShard message;
  message.stage = options.id;
  message.shard_bytes = options.shard_bytes;
  message.layout_bytes = options.layout_bytes;
  Duration pause = kAskAgainFirst;
  while (true) {
    const TimePoint reply_by = Add(link->loop()->Now(), kCallGrace);
    auto reply = co_await link->Call<StageShardReply>(FrameType::kStageShard, message, reply_by);
    if (!reply.ok() || !reply->first.wait) {
      co_return reply;
    }
    if (Add(link->loop()->Now(), pause) >= options.deadline) {
      co_return error::ResourceExhausted("staging a shard of {} bytes did not find memory: {}",
                                         options.shard_bytes, reply->first.reason);
    }
    co_await link->loop()->Sleep(pause);
    pause = std::min(2 * pause, kAskAgainMax);
  }
}

Task<absl::StatusOr<std::shared_ptr<ShardStage>>> ShardStage::Open(ClientCore* core,
                                                                   StageOptions options) {
  GEMEL_CHECK(!options.id.IsZero());
  GEMEL_CO_ASSIGN_OR_RETURN(std::shared_ptr<Link> link, co_await core->Connected(options.deadline));
  auto reply = co_await AskForMemory(link, options);
  if (!reply.ok()) {
    co_return reply.status();
  }
  std::shared_ptr<ShardStage> stage(new ShardStage(link, options));
  stage->upload_ = reply->first.upload;
  ShardFill::Given given{reply->first.upload, options.shard_bytes, std::move(reply->first.pieces)};
  auto fill = co_await ShardFill::Start(link, std::move(given), std::move(reply->second));
  if (!fill.ok()) {
    const absl::Status dropped = co_await stage->Drop();
    co_return dropped.ok() ? fill.status() : Annotate(fill.status(), gemel::MessageOf(dropped));
  }
  stage->fill_ = *std::move(fill);
  co_return stage;
}

Task<absl::Status> ShardStage::Seal(TimePoint deadline) {
  const std::shared_ptr<ShardStage> self = shared_from_this();
  GEMEL_CO_RETURN_IF_ERROR(fill_->Finish());
  fill_->PrepareNext();
  GEMEL_CO_RETURN_IF_ERROR(co_await fill_->ReportRest());
  SealStage message;
  message.upload = upload_;
  auto reply = co_await link_->Call<Acknowledged>(FrameType::kSealStage, message, deadline);
  co_return reply.status();
}

Task<absl::Status> ShardStage::Drop() {
  const std::shared_ptr<ShardStage> self = shared_from_this();
  if (fill_ != nullptr) {
    fill_->Stop();
  }
  DropStage message;
  message.stage = options_.id;
  const TimePoint deadline = Add(link_->loop()->Now(), kCallGrace);
  auto reply = co_await link_->Call<Acknowledged>(FrameType::kDropStage, message, deadline);
  co_return reply.status();
}

}  // namespace gemel

// SPDX-License-Identifier: Apache-2.0
#include "client/core/shard_writer.h"

#include <utility>

#include "common/errors.h"
#include "common/merkle.h"

namespace gemel {
namespace {

OpenShard MessageOf(const SaveOptions& options, const EpochToken& token) {
  OpenShard message;
  message.job = options.job;
  message.epoch = options.epoch;
  message.token = token;
  message.name = options.name;
  message.attempt = options.attempt;
  message.rank = options.rank;
  message.world_size = options.world_size;
  message.layout_hash = options.layout_hash;
  message.shard_bytes = options.shard_bytes;
  message.layout_bytes = options.layout_bytes;
  message.copies = options.copies;
  message.min_copies = options.min_copies;
  message.strategy = options.strategy;
  message.keep_latest = options.keep_latest;
  message.on_busy = options.on_busy;
  message.stage = options.stage;
  message.persist_every = options.persist_every;
  message.persist_interval_s = options.persist_interval_s;
  message.persist_copies = options.persist_copies;
  message.persist_keep = options.persist_keep;
  message.deadline_ms = static_cast<uint32_t>(
      std::chrono::ceil<std::chrono::milliseconds>(options.save_timeout).count());
  return message;
}

}  // namespace

ShardWriter::ShardWriter(ClientCore* core, std::shared_ptr<Link> link, SaveOptions options)
    : core_(core), link_(std::move(link)), options_(std::move(options)), sealed_(link_->loop()) {}

Task<absl::StatusOr<std::shared_ptr<ShardWriter>>> ShardWriter::Open(ClientCore* core,
                                                                     SaveOptions options) {
  GEMEL_CO_ASSIGN_OR_RETURN(EpochToken token, core->TokenOf(options.job));
  GEMEL_CO_ASSIGN_OR_RETURN(std::shared_ptr<Link> link, co_await core->Connected(options.deadline));
  const TimePoint started = link->loop()->Now();
  OpenShard message = MessageOf(options, token);
  auto reply = co_await AskToOpen(link, std::move(message), options.deadline);
  if (!reply.ok()) {
    co_return reply.status();
  }
  if (reply->first.decision == OpenDecision::kSkip) {
    co_return std::shared_ptr<ShardWriter>();
  }
  std::shared_ptr<ShardWriter> writer(new ShardWriter(core, link, std::move(options)));
  writer->waited_ = link->loop()->Now() - started;
  absl::Status accepted =
      co_await writer->Accept(std::move(reply->first), std::move(reply->second));
  if (!accepted.ok()) {
    // The attempt is open at the server: it must not wait for this rank.
    absl::Status aborted = co_await writer->Abort(std::string(gemel::MessageOf(accepted)));
    co_return aborted.ok() ? accepted : Annotate(accepted, gemel::MessageOf(aborted));
  }
  co_return writer;
}

Task<absl::StatusOr<std::pair<OpenShardReply, Handles>>> ShardWriter::AskToOpen(
    std::shared_ptr<Link> link, OpenShard message, TimePoint deadline) {
  while (true) {
    message.wait_ms = HoldFor(link->loop(), deadline);
    const TimePoint reply_by =
        Add(link->loop()->Now(), std::chrono::milliseconds(message.wait_ms) + kCallGrace);
    auto reply = co_await link->Call<OpenShardReply>(FrameType::kOpenShard, message, reply_by);
    if (!reply.ok() || reply->first.decision != OpenDecision::kWait) {
      co_return reply;
    }
    if (link->loop()->Now() >= deadline) {
      co_return error::DeadlineExceeded("saving {}@{} did not begin in time: {}", message.job,
                                        message.name, reply->first.reason);
    }
  }
}

Task<absl::Status> ShardWriter::Accept(OpenShardReply reply, Handles handles) {
  snapshot_ = std::move(reply.snapshot);
  upload_ = reply.upload;
  if (options_.stage.IsZero()) {
    ShardFill::Given given{upload_, options_.shard_bytes, std::move(reply.pieces)};
    auto fill = co_await ShardFill::Start(link_, std::move(given), std::move(handles));
    GEMEL_CO_RETURN_IF_ERROR(fill.status());
    fill_ = *std::move(fill);
    co_return absl::OkStatus();
  }
  staged_digests_ = std::move(reply.digests);
  if (staged_digests_.size() != ChunkCount(options_.shard_bytes)) {
    co_return error::Internal("stage {} of {} bytes was opened with {} digests",
                              options_.stage.ToShort(), options_.shard_bytes,
                              staged_digests_.size());
  }
  co_return absl::OkStatus();
}

Task<absl::Status> ShardWriter::Seal() {
  GEMEL_CHECK(open_) << snapshot_.ToString() << " is sealed or aborted already";
  open_ = fill_ != nullptr && !filler()->complete();
  if (fill_ != nullptr) {
    const absl::Status finished = fill_->Finish();
    if (!finished.ok()) {
      co_return Annotate(finished,
                         fmt::format("rank {} of {}", options_.rank, snapshot_.ToString()));
    }
    fill_->PrepareNext();
  }
  link_->loop()->Spawn(SealAtServer(shared_from_this()));
  co_return absl::OkStatus();
}

Task<void> ShardWriter::SealAtServer([[maybe_unused]] std::shared_ptr<ShardWriter> self) {
  if (fill_ != nullptr) {
    absl::Status reported = co_await fill_->ReportRest();
    if (!reported.ok()) {
      sealed_.Set(reported);
      co_return;
    }
  }
  const ShardId shard{snapshot_, options_.rank};
  SealShard message;
  message.upload = upload_;
  message.root = MerkleRoot(shard.RootOwner(), shard.RootName(),
                            fill_ != nullptr ? fill_->filler()->digests() : staged_digests_,
                            options_.shard_bytes, kChunkBytes);
  const TimePoint deadline = Add(link_->loop()->Now(), options_.save_timeout);
  auto reply = co_await link_->Call<Acknowledged>(FrameType::kSealShard, message, deadline);
  sealed_.Set(reply.status());
}

Task<absl::StatusOr<SaveResult>> ShardWriter::AwaitCommit(TimePoint deadline) {
  GEMEL_CHECK(!open_) << snapshot_.ToString() << " is awaited before its seal";
  const bool sealed = co_await sealed_.WaitUntil(deadline);
  if (!sealed) {
    co_return error::DeadlineExceeded("{} is not sealed yet", snapshot_.ToString());
  }
  std::shared_ptr<Link> link = link_;
  const bool server_died =
      sealed_.value().code() == absl::StatusCode::kUnavailable && !link->open();
  // Nobody told whether it was sealed: placement knows, from what the server's next life reports.
  GEMEL_CO_RETURN_IF_ERROR(server_died ? absl::OkStatus() : sealed_.value());
  while (true) {
    if (!link->open()) {
      absl::StatusOr<std::shared_ptr<Link>> next = co_await core_->Connected(deadline);
      GEMEL_CO_RETURN_IF_ERROR(Annotate(next.status(), snapshot_.ToString()));
      link = *std::move(next);
    }
    struct gemel::AwaitCommit message;
    message.snapshot = snapshot_;
    message.rank = options_.rank;
    message.wait_ms = HoldFor(link->loop(), deadline);
    const TimePoint reply_by =
        Add(link->loop()->Now(), std::chrono::milliseconds(message.wait_ms) + kCallGrace);
    auto reply = co_await link->Call<AwaitCommitDone>(FrameType::kAwaitCommit, message, reply_by);
    if (reply.status().code() == absl::StatusCode::kUnavailable && !link->open() &&
        link->loop()->Now() < deadline) {
      continue;
    }
    if (!reply.ok()) {
      co_return reply.status();
    }
    const AwaitCommitDone& done = reply->first;
    if (done.state == CommitState::kCommitted) {
      co_return SaveResult{done.redundancy_full, done.copies, done.root};
    }
    if (done.state == CommitState::kAborted) {
      co_return MakeStatus(static_cast<absl::StatusCode>(done.code),
                           snapshot_.AbortedBecause(done.why));
    }
    if (link->loop()->Now() >= deadline) {
      co_return error::DeadlineExceeded("{} is not committed yet: {}", snapshot_.ToString(),
                                        done.why);
    }
  }
}

Task<absl::Status> ShardWriter::Abort(std::string why) {
  open_ = false;
  if (fill_ != nullptr) {
    fill_->Stop();
  }
  AbortShard message;
  message.upload = upload_;
  message.why = why;
  const TimePoint deadline = Add(link_->loop()->Now(), kCallGrace);
  auto reply =
      co_await link_->Call<Acknowledged>(FrameType::kAbortShard, std::move(message), deadline);
  co_return reply.status();
}

}  // namespace gemel

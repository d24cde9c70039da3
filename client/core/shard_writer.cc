// SPDX-License-Identifier: Apache-2.0
#include "client/core/shard_writer.h"

#include <algorithm>

#include "common/errors.h"
#include "common/merkle.h"

namespace gemel {
namespace {

constexpr uint32_t kReportChunksMax = 4096;  // digests in one report: 64 KiB

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
  message.keep_latest = options.keep_latest;
  message.on_busy = options.on_busy;
  message.persist_every = options.persist_every;
  message.persist_interval_s = options.persist_interval_s;
  message.persist_copies = options.persist_copies;
  message.persist_keep = options.persist_keep;
  message.deadline_ms = static_cast<uint32_t>(
      std::chrono::ceil<std::chrono::milliseconds>(options.save_timeout).count());
  return message;
}

}  // namespace

ShardWriter::ShardWriter(std::shared_ptr<Link> link, SaveOptions options)
    : link_(std::move(link)),
      options_(std::move(options)),
      report_turn_(link_->loop(), 1),
      sealed_(link_->loop()) {}

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
  std::shared_ptr<ShardWriter> writer(new ShardWriter(link, std::move(options)));
  writer->waited_ = link->loop()->Now() - started;
  absl::Status accepted = writer->Accept(reply->first, reply->second);
  if (!accepted.ok()) {
    // The attempt is open at the server: it must not wait for this rank.
    absl::Status aborted = co_await writer->Abort(std::string(gemel::MessageOf(accepted)));
    co_return aborted.ok() ? accepted : Annotate(accepted, gemel::MessageOf(aborted));
  }
  link->loop()->Spawn(writer->ReportWhileFilling(writer));
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

absl::Status ShardWriter::Accept(const OpenShardReply& reply, const Handles& handles) {
  snapshot_ = reply.snapshot;
  upload_ = reply.upload;
  pieces_ = reply.pieces;
  GEMEL_ASSIGN_OR_RETURN(std::vector<MutableByteSpan> places,
                         link_->Place(pieces_, handles, Access::kReadWrite));
  uint64_t bytes = 0;
  for (size_t i = 0; i < places.size(); ++i) {
    bytes += places[i].size();
    const bool whole = i + 1 == places.size() || places[i].size() % kChunkBytes == 0;
    if (!whole) {
      return error::Internal("piece {} of {} bytes splits a chunk", i, places[i].size());
    }
  }
  if (bytes != options_.shard_bytes) {
    return error::Internal("the server gave {} bytes for a shard of {}", bytes,
                           options_.shard_bytes);
  }
  filler_ = std::make_unique<ChunkFiller>(places, bytes);
  return absl::OkStatus();
}

Task<void> ShardWriter::ReportWhileFilling([[maybe_unused]] std::shared_ptr<ShardWriter> self) {
  while (filling_ && report_status_.ok()) {
    co_await link_->loop()->Sleep(kReportEvery);
    if (filling_ && filler_->filled() > reported_) {
      absl::Status status = co_await ReportNew();
      report_status_.Update(status);
    }
  }
}

Task<absl::Status> ShardWriter::ReportNew() {
  const bool my_turn = co_await report_turn_.Acquire(1, kTimeNever);
  GEMEL_CHECK(my_turn);
  absl::Status status = report_status_;
  while (status.ok() && reported_ < filler_->filled()) {
    ChunksFilled message;
    message.upload = upload_;
    message.first_chunk = reported_;
    const uint32_t count = std::min(filler_->filled() - reported_, kReportChunksMax);
    for (uint32_t i = 0; i < count; ++i) {
      message.digests.push_back(filler_->digest(reported_ + i));
    }
    reported_ += count;
    const TimePoint deadline = Add(link_->loop()->Now(), kCallGrace);
    auto reply =
        co_await link_->Call<Acknowledged>(FrameType::kChunksFilled, std::move(message), deadline);
    status = reply.status();
  }
  report_turn_.Release(1);
  co_return status;
}

Task<absl::Status> ShardWriter::Seal() {
  GEMEL_CHECK(filling_) << snapshot_.ToString() << " is sealed or aborted already";
  if (!filler_->complete()) {
    co_return error::FailedPrecondition(
        "{} of {} bytes of rank {} of {} were written before the seal", filler_->appended(),
        options_.shard_bytes, options_.rank, snapshot_.ToString());
  }
  filling_ = false;
  GEMEL_CO_RETURN_IF_ERROR(link_->MakeReadOnly(pieces_));
  link_->loop()->Spawn(SealAtServer(shared_from_this()));
  link_->loop()->Spawn(PrepareNext(shared_from_this()));
  co_return absl::OkStatus();
}

Task<void> ShardWriter::SealAtServer([[maybe_unused]] std::shared_ptr<ShardWriter> self) {
  absl::Status reported = co_await ReportNew();
  if (!reported.ok()) {
    sealed_.Set(reported);
    co_return;
  }
  const ShardId shard{snapshot_, options_.rank};
  SealShard message;
  message.upload = upload_;
  message.root = MerkleRoot(shard.RootOwner(), shard.RootName(), filler_->digests(),
                            options_.shard_bytes, kChunkBytes);
  const TimePoint deadline = Add(link_->loop()->Now(), options_.save_timeout);
  auto reply =
      co_await link_->Call<Acknowledged>(FrameType::kSealShard, std::move(message), deadline);
  sealed_.Set(reply.status());
}

Task<void> ShardWriter::PrepareNext([[maybe_unused]] std::shared_ptr<ShardWriter> self) {
  PrepareSlabs message;
  message.bytes = options_.shard_bytes;
  const TimePoint deadline = Add(link_->loop()->Now(), kCallGrace);
  auto reply = co_await link_->Call<PrepareSlabsReply>(FrameType::kPrepareSlabs, std::move(message),
                                                       deadline);
  if (reply.ok()) {
    // Only warmth: when it fails, the next open maps them on its own path and reports the error.
    link_->Place(reply->first.pieces, reply->second, Access::kReadWrite).status().IgnoreError();
  }
}

Task<absl::StatusOr<SaveResult>> ShardWriter::AwaitCommit(TimePoint deadline) {
  GEMEL_CHECK(!filling_) << snapshot_.ToString() << " is awaited before its seal";
  const bool sealed = co_await sealed_.WaitUntil(deadline);
  if (!sealed) {
    co_return error::DeadlineExceeded("{} is not sealed yet", snapshot_.ToString());
  }
  GEMEL_CO_RETURN_IF_ERROR(sealed_.value());
  while (true) {
    struct gemel::AwaitCommit message;
    message.snapshot = snapshot_;
    message.rank = options_.rank;
    message.wait_ms = HoldFor(link_->loop(), deadline);
    const TimePoint reply_by =
        Add(link_->loop()->Now(), std::chrono::milliseconds(message.wait_ms) + kCallGrace);
    auto reply = co_await link_->Call<AwaitCommitDone>(FrameType::kAwaitCommit, message, reply_by);
    if (!reply.ok()) {
      co_return reply.status();
    }
    const AwaitCommitDone& done = reply->first;
    if (done.state == CommitState::kCommitted) {
      co_return SaveResult{done.redundancy_full, done.copies, done.root};
    }
    if (done.state == CommitState::kAborted) {
      co_return MakeStatus(static_cast<absl::StatusCode>(done.code),
                           fmt::format("{} was aborted: {}", snapshot_.ToString(), done.why));
    }
    if (link_->loop()->Now() >= deadline) {
      co_return error::DeadlineExceeded("{} is not committed yet: {}", snapshot_.ToString(),
                                        done.why);
    }
  }
}

Task<absl::Status> ShardWriter::Abort(std::string why) {
  filling_ = false;
  AbortShard message;
  message.upload = upload_;
  message.why = why;
  const TimePoint deadline = Add(link_->loop()->Now(), kCallGrace);
  auto reply =
      co_await link_->Call<Acknowledged>(FrameType::kAbortShard, std::move(message), deadline);
  co_return reply.status();
}

}  // namespace gemel

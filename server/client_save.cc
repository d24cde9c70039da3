// SPDX-License-Identifier: Apache-2.0
//
// What a client asks to save a shard: epoch, open, slabs, chunks, seal, commit, abort.
#include <algorithm>
#include <utility>

#include "common/check.h"
#include "common/errors.h"
#include "common/fields.h"
#include "common/points.h"
#include "common/status_macros.h"
#include "placement/model/records.h"
#include "server/client_session.h"

namespace gemel {
namespace {

absl::Status CheckOpen(const OpenShard& request) {
  GEMEL_RETURN_IF_ERROR(model::CheckJobName(request.job));
  GEMEL_RETURN_IF_ERROR(model::CheckSnapshotName(request.name));
  if (request.world_size == 0 || request.world_size > model::kWorldSizeMax ||
      request.rank >= request.world_size) {
    return error::InvalidArgument("rank {} of a world of {} (at most {})", request.rank,
                                  request.world_size, model::kWorldSizeMax);
  }
  if (request.shard_bytes == 0 || request.layout_bytes > request.shard_bytes) {
    return error::InvalidArgument("a shard of {} bytes with a layout of {}", request.shard_bytes,
                                  request.layout_bytes);
  }
  return absl::OkStatus();
}

pb::OpenRequest OpenRequestOf(const OpenShard& request) {
  pb::OpenRequest ask;
  ask.set_job(request.job);
  WriteEpochId(request.epoch, ask.mutable_epoch());
  ask.set_token(request.token.ToBytes());
  ask.set_name(request.name);
  ask.set_attempt(request.attempt);
  ask.set_rank(request.rank);
  ask.set_world_size(request.world_size);
  ask.set_layout_hash(DigestBytes(request.layout_hash));
  ask.set_shard_bytes(request.shard_bytes);
  ask.set_layout_bytes(request.layout_bytes);
  ask.set_copies(request.copies);
  ask.set_min_copies(request.min_copies);
  ask.set_strategy(request.strategy == StrategyChoice::kRing ? pb::STRATEGY_RING
                                                             : pb::STRATEGY_GROUP);
  ask.set_keep_latest(request.keep_latest);
  ask.set_on_busy(request.on_busy == OnBusyPolicy::kSkip ? pb::ON_BUSY_SKIP : pb::ON_BUSY_WAIT);
  ask.set_wait_ms(std::min(request.wait_ms, kWaitMsMax));
  ask.set_deadline_ms(request.deadline_ms);
  ask.mutable_persist()->set_every(request.persist_every);
  ask.mutable_persist()->set_interval_s(request.persist_interval_s);
  ask.mutable_persist()->set_copies(request.persist_copies);
  ask.mutable_persist()->set_keep(request.persist_keep);
  return ask;
}

absl::StatusOr<CommitState> ReadCommitState(pb::SnapshotState state) {
  switch (state) {
    case pb::SNAPSHOT_OPEN:
      return CommitState::kOpen;
    case pb::SNAPSHOT_COMMITTED:
      return CommitState::kCommitted;
    case pb::SNAPSHOT_ABORTED:
      return CommitState::kAborted;
    default:
      return error::Internal("placement answered snapshot state {}", static_cast<int>(state));
  }
}

absl::StatusOr<Reply> CommitReply(const pb::AwaitCommitReply& answer, const SnapshotId& snapshot) {
  AwaitCommitDone done;
  GEMEL_ASSIGN_OR_RETURN(done.state, ReadCommitState(answer.state()));
  done.redundancy_full = answer.redundancy_full();
  done.copies = answer.copies();
  done.why = answer.why();
  done.code = answer.code();
  if (done.state == CommitState::kCommitted) {
    GEMEL_ASSIGN_OR_RETURN(done.root,
                           ReadDigestField(answer.root(), "root of " + snapshot.ToString()));
  }
  return ReplyWith(done);
}

}  // namespace

ClientSession::Answer ClientSession::OnAcquireEpoch(AcquireEpoch request) {
  GEMEL_CO_RETURN_IF_ERROR(model::CheckJobName(request.job));
  pb::AcquireEpochRequest ask;
  ask.set_job(request.job);
  ask.set_token(request.token.ToBytes());
  const absl::StatusOr<pb::AcquireEpochReply> answer =
      co_await parts_.control->CallPatiently<pb::AcquireEpochReply>("AcquireEpoch", std::move(ask),
                                                                    0s);
  GEMEL_CO_RETURN_IF_ERROR(answer.status());
  AcquireEpochDone done;
  done.epoch = ReadEpochId(answer->epoch());
  co_return ReplyWith(done);
}

ClientSession::Answer ClientSession::OnOpenShard(OpenShard request) {
  GEMEL_CO_RETURN_IF_ERROR(CheckOpen(request));
  GEMEL_CO_RETURN_IF_ERROR(parts_.identity->CheckEpoch(request.job, request.epoch));
  if (uploads_.size() >= kUploadsPerClientMax) {
    std::erase_if(uploads_, [](const auto& one) {
      return one.second.upload.expired() && one.second.writable == nullptr;
    });
  }
  if (uploads_.size() >= kUploadsPerClientMax) {
    co_return error::ResourceExhausted("this client has {} uploads open: wait for their commits",
                                       uploads_.size());
  }
  GEMEL_CO_RETURN_IF_ERROR(CheckStage(request));
  pb::OpenRequest ask = OpenRequestOf(request);
  const Duration held = std::chrono::milliseconds(ask.wait_ms());
  const absl::StatusOr<pb::OpenReply> answer =
      co_await parts_.control->CallPatiently<pb::OpenReply>("Open", std::move(ask), held);
  GEMEL_CO_RETURN_IF_ERROR(answer.status());
  // The epoch may have ended while placement answered.
  GEMEL_CO_RETURN_IF_ERROR(parts_.identity->CheckEpoch(request.job, request.epoch));
  OpenShardReply reply;
  reply.reason = answer->reason();
  switch (answer->decision()) {
    case pb::OpenReply::ACCEPT:
      co_return Accepted(request, *answer);
    case pb::OpenReply::WAIT:
      reply.decision = OpenDecision::kWait;
      co_return ReplyWith(reply);
    case pb::OpenReply::SKIP:
      reply.decision = OpenDecision::kSkip;
      co_return ReplyWith(reply);
    default:
      co_return error::Internal("placement answered decision {} to the open of {}@{}",
                                static_cast<int>(answer->decision()), request.job, request.name);
  }
}

absl::StatusOr<Reply> ClientSession::Accepted(const OpenShard& request,
                                              const pb::OpenReply& answer) {
  GEMEL_CHECK(answer.decision() == pb::OpenReply::ACCEPT);
  ShardId shard;
  shard.snapshot = ReadSnapshotId(answer.snapshot());
  shard.rank = request.rank;
  if (!session_->open()) {
    seams_.loop->Spawn(parts_.uploads->AbortAtPlacement(
        shard.snapshot, request.token, "the client left while its shard was opened"));
    return error::Cancelled("the client left");
  }
  GEMEL_ASSIGN_OR_RETURN(const std::shared_ptr<Upload> upload, StartUpload(request, shard, answer));
  OpenShardReply done;
  done.decision = OpenDecision::kAccept;
  done.snapshot = shard.snapshot;
  for (const auto& [id, open] : uploads_) {
    done.upload = open.upload.lock() == upload ? id : done.upload;
  }
  GEMEL_CHECK_NE(done.upload, 0U);
  if (upload->stage.IsZero()) {
    done.pieces = upload->object->Pieces();
  } else {
    done.digests = upload->object->digests();
  }
  Reply reply;
  AttachHandles(&done.pieces, &reply.handles);
  reply.body = EncodeMessage(done);
  return reply;
}

// The upload that an earlier, unanswered open of this session began, or a new one.
absl::StatusOr<std::shared_ptr<Upload>> ClientSession::StartUpload(const OpenShard& request,
                                                                   const ShardId& shard,
                                                                   const pb::OpenReply& answer) {
  if (std::shared_ptr<Upload> open = parts_.uploads->Find(shard)) {
    const bool same = open->client == client_ && open->stage == request.stage &&
                      open->object->bytes() == request.shard_bytes &&
                      open->object->layout_bytes() == request.layout_bytes;
    if (same && !open->sealing) {
      return open;
    }
    return error::AlreadyExists(
        "{} is being saved already, {} bytes with a layout of {}{}: it was opened again with {} "
        "and {}",
        shard.ToString(), open->object->bytes(), open->object->layout_bytes(),
        open->client == client_ ? "" : " by another client", request.shard_bytes,
        request.layout_bytes);
  }
  GEMEL_ASSIGN_OR_RETURN(const std::vector<PeerMember> holders, ReadPeerMembers(answer.holders()));
  Object::Shape shape;
  shape.shard = shard;
  shape.token = request.token;
  shape.bytes = request.shard_bytes;
  shape.layout_bytes = request.layout_bytes;
  absl::StatusOr<std::shared_ptr<Object>> object =
      request.stage.IsZero() ? parts_.objects->Stage(std::move(shape), holder_)
                             : parts_.stages->TakeOver(request.stage, shape);
  if (!object.ok()) {
    // The other ranks must not wait for this one, unless its shard is here by another open.
    if (object.status().code() != absl::StatusCode::kAlreadyExists) {
      seams_.loop->Spawn(
          parts_.uploads->AbortAtPlacement(shard.snapshot, request.token, ToText(object.status())));
    }
    return object.status();
  }
  std::shared_ptr<Upload> upload = parts_.uploads->Start(*std::move(object), client_, holders);
  upload->stage = request.stage;
  Reach(CrashPoint::kUploadStaged);
  uploads_[next_upload_++] = {upload, request.stage.IsZero() ? upload->object : nullptr};
  GEMEL_CHECK_LE(uploads_.size(), kUploadsPerClientMax);
  return upload;
}

absl::StatusOr<std::shared_ptr<Upload>> ClientSession::FindUpload(uint64_t upload) const {
  const auto found = uploads_.find(upload);
  if (found == uploads_.end()) {
    return error::NotFound("upload {} is not open on this connection", upload);
  }
  std::shared_ptr<Upload> open = found->second.upload.lock();
  if (open == nullptr) {
    return error::FailedPrecondition("upload {} has ended: ask for its commit", upload);
  }
  return open;
}

absl::StatusOr<Reply> ClientSession::OnPrepareSlabs(const PrepareSlabs& request) {
  PrepareSlabsReply done;
  // Handles that an earlier reply had no room for go first.
  std::set<uint32_t> slabs = owed_;
  if (request.bytes > 0) {
    const std::vector<uint32_t> prepared = parts_.pool->Prepare(holder_, request.bytes);
    slabs.insert(prepared.begin(), prepared.end());
  }
  size_t handles_left = kFrameHandlesMax;
  for (const uint32_t slab : slabs) {
    const bool needs_handle = !sent_.contains(slab);
    if (needs_handle && handles_left == 0) {
      continue;
    }
    handles_left -= needs_handle ? 1 : 0;
    SlabPiece& piece = done.pieces.emplace_back();
    piece.slab = slab;
    piece.bytes = parts_.pool->slab_bytes();
  }
  Reply reply;
  AttachHandles(&done.pieces, &reply.handles);
  reply.body = EncodeMessage(done);
  return reply;
}

absl::StatusOr<Reply> ClientSession::OnChunksFilled(const ChunksFilled& request) {
  if (staged_.contains(request.upload)) {
    GEMEL_ASSIGN_OR_RETURN(const std::shared_ptr<Stage> stage, FindStage(request.upload));
    GEMEL_RETURN_IF_ERROR(parts_.stages->Filled(stage.get(), request));
    return ReplyWith(Acknowledged());
  }
  GEMEL_ASSIGN_OR_RETURN(const std::shared_ptr<Upload> upload, FindUpload(request.upload));
  GEMEL_RETURN_IF_ERROR(parts_.uploads->Filled(upload.get(), request));
  return ReplyWith(Acknowledged());
}

ClientSession::Answer ClientSession::OnSealShard(SealShard request) {
  if (const auto found = uploads_.find(request.upload); found != uploads_.end()) {
    found->second.writable.reset();
  }
  GEMEL_CO_ASSIGN_OR_RETURN(const std::shared_ptr<Upload> upload, FindUpload(request.upload));
  GEMEL_CO_RETURN_IF_ERROR(co_await parts_.uploads->Seal(upload, request.root));
  co_return ReplyWith(Acknowledged());
}

ClientSession::Answer ClientSession::OnAwaitCommit(struct AwaitCommit request) {
  GEMEL_CO_RETURN_IF_ERROR(model::CheckJobName(request.snapshot.job));
  pb::AwaitCommitRequest ask;
  WriteSnapshotId(request.snapshot, ask.mutable_snapshot());
  ask.set_rank(request.rank);
  const uint32_t wait_ms = std::min(request.wait_ms, kWaitMsMax);
  ask.set_wait_ms(wait_ms);
  const ShardId shard{request.snapshot, request.rank};
  ask.set_unsent(parts_.uploads->Find(shard) == nullptr);
  const absl::StatusOr<pb::AwaitCommitReply> answer =
      co_await parts_.control->CallPatiently<pb::AwaitCommitReply>(
          "AwaitCommit", std::move(ask), std::chrono::milliseconds(wait_ms));
  GEMEL_CO_RETURN_IF_ERROR(answer.status());
  if (answer->state() == pb::SNAPSHOT_COMMITTED) {
    Reach(CrashPoint::kCommitHeard);
  }
  co_return CommitReply(*answer, request.snapshot);
}

ClientSession::Answer ClientSession::OnAbortShard(AbortShard request) {
  const absl::StatusOr<std::shared_ptr<Upload>> found = FindUpload(request.upload);
  uploads_.erase(request.upload);
  GEMEL_CO_RETURN_IF_ERROR(found.status());
  const std::shared_ptr<Upload>& upload = *found;
  const std::string why = "rank gave up: " + request.why;
  co_await parts_.uploads->AbortAtPlacement(upload->shard().snapshot, upload->object->token(), why);
  parts_.uploads->End(upload, error::Aborted("{}", why));
  co_return ReplyWith(Acknowledged());
}

}  // namespace gemel

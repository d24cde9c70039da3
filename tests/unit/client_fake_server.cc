// SPDX-License-Identifier: Apache-2.0
#include "tests/unit/client_fake_server.h"

#include <algorithm>

#include "common/errors.h"
#include "common/merkle.h"
#include "common/status_macros.h"

namespace gemel {
namespace {

template <typename Message>
Reply Say(const Message& message) {
  Reply reply;
  reply.body = EncodeMessage(message);
  return reply;
}

}  // namespace

FakeServer::FakeServer() {
  loop_ = *EpollLoop::Create();
  thread_ = std::thread([this]() { RunLoop(); });
  listening_.wait(false);
}

FakeServer::~FakeServer() {
  loop_->Stop();
  thread_.join();
}

void FakeServer::RunLoop() {
  host_ = std::make_unique<RealHost>(loop_.get());
  net_ = std::make_unique<RealNet>(loop_.get(), nullptr, RealNet::Options());
  auto accept = [this](std::unique_ptr<Connection> connection) {
    sessions_.push_back(Session::Start(loop_.get(), std::move(connection), this, {}));
  };
  absl::StatusOr<std::unique_ptr<Listener>> listener = net_->Listen(address(), accept);
  GEMEL_CHECK(listener.ok()) << ToText(listener.status());
  listener_ = std::move(*listener);
  listening_.store(true);
  listening_.notify_all();
  loop_->Run();
  for (const std::shared_ptr<Session>& session : sessions_) {
    session->Detach();
    session->Close(error::Cancelled("the server stops"));
  }
  listener_ = nullptr;
  loop_->Shutdown();
  sessions_.clear();
}

Task<Reply> FakeServer::Handle(std::shared_ptr<Session> session, IncomingRequest request) {
  absl::StatusOr<Reply> answer = Dispatch(session.get(), request);
  // A held call: the client asks again.
  if (request.header.type == FrameType::kAwaitCommit && faults.hold_commits.load()) {
    co_await loop_->Sleep(20ms);
  }
  Reply reply;
  reply.status = answer.status();
  if (answer.ok()) {
    reply = std::move(*answer);
  }
  co_return reply;
}

absl::StatusOr<Reply> FakeServer::Dispatch(Session* session, const IncomingRequest& request) {
  switch (request.header.type) {
    case FrameType::kClientHello:
      return Hello(request);
    case FrameType::kAcquireEpoch: {
      AcquireEpochDone done;
      done.epoch = {1, 1};
      return Say(done);
    }
    case FrameType::kOpenShard: {
      GEMEL_ASSIGN_OR_RETURN(OpenShard message, DecodeMessage<OpenShard>(request.body));
      return Open(session, message);
    }
    case FrameType::kPrepareSlabs:
      return Say(PrepareSlabsReply());
    case FrameType::kChunksFilled: {
      GEMEL_ASSIGN_OR_RETURN(ChunksFilled message, DecodeMessage<ChunksFilled>(request.body));
      return Filled(message);
    }
    case FrameType::kSealShard: {
      GEMEL_ASSIGN_OR_RETURN(SealShard message, DecodeMessage<SealShard>(request.body));
      return Seal(message);
    }
    case FrameType::kAwaitCommit: {
      AwaitCommitDone done;
      done.state = faults.hold_commits.load() ? CommitState::kOpen : CommitState::kCommitted;
      done.copies = 1;
      done.why = "held by the test";
      return Say(done);
    }
    case FrameType::kAbortShard: {
      GEMEL_ASSIGN_OR_RETURN(AbortShard message, DecodeMessage<AbortShard>(request.body));
      aborts += 1;
      uploads_.erase(message.upload);
      return Say(Acknowledged());
    }
    default:
      return DispatchRead(session, request);
  }
}

absl::StatusOr<Reply> FakeServer::DispatchRead(Session* session, const IncomingRequest& request) {
  switch (request.header.type) {
    case FrameType::kBeginRestore: {
      GEMEL_RETURN_IF_ERROR(DecodeMessage<BeginRestore>(request.body).status());
      return Begin("");
    }
    case FrameType::kBeginRead: {
      GEMEL_ASSIGN_OR_RETURN(BeginRead message, DecodeMessage<BeginRead>(request.body));
      GEMEL_ASSIGN_OR_RETURN(Reply begun, Begin(message.name));
      GEMEL_ASSIGN_OR_RETURN(BeginRestoreDone done, DecodeMessage<BeginRestoreDone>(begun.body));
      if (done.decision == RestoreDecision::kNeverCommitted) {
        return error::NotFound("job {} has no snapshot '{}'", message.job, message.name);
      }
      return begun;
    }
    case FrameType::kListSnapshots: {
      GEMEL_ASSIGN_OR_RETURN(ListSnapshots message, DecodeMessage<ListSnapshots>(request.body));
      return List(message.job);
    }
    case FrameType::kRemoveSnapshot: {
      GEMEL_ASSIGN_OR_RETURN(RemoveSnapshot message, DecodeMessage<RemoveSnapshot>(request.body));
      return Remove(message);
    }
    case FrameType::kFetchChunks: {
      GEMEL_ASSIGN_OR_RETURN(FetchChunks message, DecodeMessage<FetchChunks>(request.body));
      return Fetch(session, message);
    }
    case FrameType::kReportRestore: {
      GEMEL_ASSIGN_OR_RETURN(ReportRestore message, DecodeMessage<ReportRestore>(request.body));
      unreadable_shards = static_cast<int>(message.unreadable_shards.size());
      return Say(Acknowledged());
    }
    case FrameType::kAwaitRestore: {
      AwaitRestoreDone done;
      done.outcome = unreadable_shards.load() == 0 ? RestoreOutcome::kVerified
                     : faults.nothing_lost.load()  ? RestoreOutcome::kPending
                                                   : RestoreOutcome::kMoved;
      return Say(done);
    }
    case FrameType::kReleaseRestore:
      releases += 1;
      return Say(Acknowledged());
    default:
      return DispatchStage(session, request);
  }
}

absl::StatusOr<Reply> FakeServer::DispatchStage(Session* session, const IncomingRequest& request) {
  switch (request.header.type) {
    case FrameType::kStageShard: {
      GEMEL_ASSIGN_OR_RETURN(StageShard message, DecodeMessage<StageShard>(request.body));
      return Stage(session, message);
    }
    case FrameType::kSealStage: {
      GEMEL_ASSIGN_OR_RETURN(SealStage message, DecodeMessage<SealStage>(request.body));
      Object& object = uploads_[message.upload];
      if (object.digests.size() != ChunkCount(object.bytes)) {
        return error::Internal("a stage sealed with {} chunks", object.digests.size());
      }
      object.stage_sealed = true;
      return Say(Acknowledged());
    }
    case FrameType::kDropStage: {
      GEMEL_ASSIGN_OR_RETURN(DropStage message, DecodeMessage<DropStage>(request.body));
      drops += 1;
      std::erase_if(uploads_, [&message](const auto& one) {
        return one.second.stage == message.stage && one.second.snapshot.job.empty();
      });
      return Say(Acknowledged());
    }
    default:
      return error::Unimplemented("frame type {}", static_cast<int>(request.header.type));
  }
}

absl::StatusOr<Reply> FakeServer::Stage(Session* session, const StageShard& message) {
  StageShardReply staged;
  if (faults.no_memory.load() != 0) {
    faults.no_memory -= faults.no_memory.load() > 0 ? 1 : 0;
    staged.wait = true;
    staged.reason = "7 bytes are free";
    return Say(staged);
  }
  staged.upload = NextUpload();
  Object object;
  object.bytes = message.shard_bytes;
  object.layout_bytes = message.layout_bytes;
  object.stage = message.stage;
  return Begun(session, std::move(object), &staged);
}

absl::StatusOr<Reply> FakeServer::OpenStaged(const OpenShard& message) {
  for (auto& [number, object] : uploads_) {
    if (object.stage != message.stage || !object.snapshot.job.empty()) {
      continue;
    }
    if (!object.stage_sealed || object.bytes != message.shard_bytes) {
      return error::FailedPrecondition("the stage is not sealed or has {} bytes", object.bytes);
    }
    object.snapshot = {message.job, message.epoch, number, message.name, message.attempt};
    OpenShardReply open;
    open.upload = number;
    open.snapshot = object.snapshot;
    open.digests = object.digests;
    open.digests.resize(open.digests.size() - (faults.wrong_digests.load() ? 1 : 0));
    return Say(open);
  }
  return error::NotFound("stage {} is not on this host", message.stage.ToShort());
}

absl::StatusOr<Reply> FakeServer::Hello(const IncomingRequest& request) {
  GEMEL_RETURN_IF_ERROR(DecodeMessage<ClientHello>(request.body).status());
  if (request.handles.size() != 1) {
    return error::InvalidArgument("hello with {} handles", request.handles.size());
  }
  ClientHelloReply reply;
  reply.version = faults.version.load();
  reply.cluster.bytes.fill(0xab);
  reply.server.bytes.fill(0xcd);
  reply.server_name = "fake";
  reply.slab_bytes = kSlabBytes;
  return Say(reply);
}

SlabPiece FakeServer::Piece(Session* session, uint32_t slab, std::pair<uint64_t, uint64_t> range,
                            Reply* reply) {
  SlabPiece piece{slab, range.first, range.second, given_[session].insert(slab).second};
  if (piece.has_handle) {
    reply->handles.push_back(slabs_[slab]);
  }
  return piece;
}

absl::StatusOr<Reply> FakeServer::Open(Session* session, const OpenShard& message) {
  OpenShardReply open;
  persist_every = message.persist_every;
  persist_keep = message.persist_keep;
  if (faults.skip.load()) {
    open.decision = OpenDecision::kSkip;
    return Say(open);
  }
  if (!message.stage.IsZero()) {
    return OpenStaged(message);
  }
  open.upload = NextUpload();
  Object object;
  object.snapshot = {message.job, message.epoch, open.upload, message.name, message.attempt};
  object.bytes = message.shard_bytes;
  object.layout_bytes = message.layout_bytes;
  open.snapshot = object.snapshot;
  return Begun(session, std::move(object), &open);
}

uint64_t FakeServer::NextUpload() const {
  return uploads_.empty() ? 1 : uploads_.rbegin()->first + 1;
}

template <typename Message>
absl::StatusOr<Reply> FakeServer::Begun(Session* session, Object object, Message* message) {
  Reply reply;
  GEMEL_ASSIGN_OR_RETURN(message->pieces, GiveSlabs(session, &object, &reply));
  uploads_[message->upload] = std::move(object);
  opened_at_ = loop_->Now();
  first_report_ms = -1;
  reply.body = EncodeMessage(*message);
  return reply;
}

absl::StatusOr<std::vector<SlabPiece>> FakeServer::GiveSlabs(Session* session, Object* object,
                                                             Reply* reply) {
  std::vector<SlabPiece> pieces;
  for (uint64_t at = 0; at < object->bytes; at += kSlabBytes) {
    GEMEL_ASSIGN_OR_RETURN(std::shared_ptr<SharedHandle> memory,
                           host_->CreateMemory("gemel-slab", kSlabBytes));
    object->slabs.push_back(static_cast<uint32_t>(slabs_.size()));
    slabs_.push_back(std::move(memory));
    const std::pair<uint64_t, uint64_t> range(0, std::min(kSlabBytes, object->bytes - at));
    pieces.push_back(Piece(session, object->slabs.back(), range, reply));
  }
  return pieces;
}

absl::StatusOr<Reply> FakeServer::Filled(const ChunksFilled& message) {
  Object& object = uploads_[message.upload];
  if (message.first_chunk != object.digests.size()) {
    return error::Internal("chunks from {} after {}", message.first_chunk, object.digests.size());
  }
  if (object.digests.empty()) {
    first_report_ms = static_cast<int64_t>(Milliseconds(loop_->Now() - opened_at_));
  }
  object.digests.insert(object.digests.end(), message.digests.begin(), message.digests.end());
  return Say(Acknowledged());
}

absl::StatusOr<Reply> FakeServer::Seal(const SealShard& message) {
  Object& object = uploads_[message.upload];
  const ShardId shard{object.snapshot, 0};
  if (object.digests.size() != ChunkCount(object.bytes)) {
    return error::Internal("sealed with {} chunks", object.digests.size());
  }
  object.root =
      MerkleRoot(shard.RootOwner(), shard.RootName(), object.digests, object.bytes, kChunkBytes);
  if (object.root != message.root) {
    return error::DataLoss("another root");
  }
  object.committed = true;
  return Say(Acknowledged());
}

Reply FakeServer::List(const std::string& job) const {
  ListSnapshotsReply listed;
  for (const auto& [number, object] : uploads_) {
    if (object.committed && object.snapshot.job == job) {
      listed.snapshots.push_back({.snapshot = object.snapshot,
                                  .world_size = 1,
                                  .bytes = object.bytes,
                                  .committed_unix_s = 1'700'000'000,
                                  .in_memory = true});
    }
  }
  return Say(listed);
}

absl::StatusOr<Reply> FakeServer::Remove(const RemoveSnapshot& message) {
  const size_t removed = std::erase_if(uploads_, [&message](const auto& one) {
    return one.second.committed && one.second.snapshot.name == message.name;
  });
  if (removed == 0) {
    return error::NotFound("job {} has no snapshot '{}'", message.job, message.name);
  }
  return Say(Acknowledged());
}

absl::StatusOr<Reply> FakeServer::Begin(const std::string& name) {
  BeginRestoreDone begun;
  begun.decision = RestoreDecision::kNeverCommitted;
  for (const auto& [number, object] : uploads_) {
    if (object.committed && (name.empty() || object.snapshot.name == name)) {
      begun.decision = RestoreDecision::kChosen;
      begun.restore = number;
      begun.snapshot = object.snapshot;
      begun.shards = {{object.root, object.bytes, object.layout_bytes}};
    }
  }
  return Say(begun);
}

absl::StatusOr<Reply> FakeServer::Fetch(Session* session, const FetchChunks& message) {
  const Object& object = uploads_[message.restore];
  FetchChunksReply fetched;
  Reply reply;
  for (uint32_t chunk = message.first_chunk; chunk < message.first_chunk + message.count; ++chunk) {
    const uint64_t at = chunk * kChunkBytes;
    const std::pair<uint64_t, uint64_t> range(at % kSlabBytes,
                                              std::min(kChunkBytes, object.bytes - at));
    fetched.pieces.push_back(Piece(session, object.slabs[at / kSlabBytes], range, &reply));
    Digest128 digest = object.digests[chunk];
    digest.low ^= faults.wrong_digests.load() ? 1 : 0;
    fetched.digests.push_back(digest);
    fetched.local_bytes += range.second;
  }
  reply.body = EncodeMessage(fetched);
  return reply;
}

}  // namespace gemel

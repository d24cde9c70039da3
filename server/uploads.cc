// SPDX-License-Identifier: Apache-2.0
#include "server/uploads.h"

#include <algorithm>
#include <utility>

#include "common/check.h"
#include "common/errors.h"
#include "common/points.h"
#include "common/status_macros.h"
#include "server/replicate.h"

namespace gemel {
namespace {

// Placement's last word on an attempt: it does not know it, a newer epoch went by it, or all copies
// of a shard are gone.
bool IsFinal(const absl::Status& refused) {
  return refused.code() == absl::StatusCode::kNotFound ||
         refused.code() == absl::StatusCode::kFailedPrecondition ||
         refused.code() == absl::StatusCode::kDataLoss;
}

}  // namespace

void Upload::Vouch(uint32_t chunk, bool sent_fenced) {
  Vouched& before = vouched[chunk];
  if (sent_fenced && before != Vouched::kYes) {
    before = Vouched::kYes;
    vouched_chunks += 1;
    GEMEL_CHECK_LE(vouched_chunks, object->chunks());
  } else if (before == Vouched::kNo) {
    before = Vouched::kBeforeFence;
  }
}

Uploads::Uploads(const ServerSeams& seams, Control* control, ObjectTable* objects, Peers* peers,
                 Receipts* receipts)
    : seams_(seams), control_(control), objects_(objects), peers_(peers), receipts_(receipts) {
  GEMEL_CHECK(control != nullptr && objects != nullptr);
  GEMEL_CHECK(peers != nullptr && receipts != nullptr);
}

std::shared_ptr<Upload> Uploads::Start(std::shared_ptr<Object> object, uint64_t client,
                                       const std::vector<PeerMember>& holders) {
  GEMEL_CHECK(gate_ != nullptr && object->state() == ObjectState::kStaging);
  auto upload = std::make_shared<Upload>(seams_.loop, std::move(object), client);
  for (uint32_t chunk = 0; chunk < upload->object->chunks(); ++chunk) {
    if (upload->object->present(chunk)) {
      upload->filled.push_back(chunk);  // it was staged
    }
  }
  upload->fenced = upload->object->complete();  // its stage was sealed
  const bool inserted = uploads_.emplace(upload->shard(), upload).second;
  GEMEL_CHECK(inserted) << upload->shard().ToString();
  SetHolders(upload->shard(), holders);
  seams_.loop->Spawn(Follow(upload));
  return upload;
}

std::shared_ptr<Upload> Uploads::Find(const ShardId& shard) const {
  const auto found = uploads_.find(shard);
  return found == uploads_.end() ? nullptr : found->second;
}

absl::Status Uploads::Filled(Upload* upload, const ChunksFilled& report) {
  if (upload->ended) {
    return error::FailedPrecondition("{} has ended: {}", upload->shard().ToString(),
                                     ToText(upload->why));
  }
  GEMEL_RETURN_IF_ERROR(TakeFilled(upload->object.get(), upload->shard().ToString(), report,
                                   upload->sealing, &upload->filled));
  GEMEL_CHECK_EQ(upload->filled.size(), upload->object->present_chunks());
  upload->changed.NotifyAll();
  return absl::OkStatus();
}

Task<absl::Status> Uploads::Seal(std::shared_ptr<Upload> upload, Digest128 root) {
  while (upload->sealing && !upload->sealed && !upload->ended) {
    co_await upload->changed.WaitUntil(kTimeNever);
  }
  if (upload->sealed) {
    co_return upload->root == root
        ? absl::OkStatus()
        : error::AlreadyExists("{} is sealed under root {}", upload->shard().ToString(),
                               ToHex(upload->root));
  }
  if (upload->ended) {
    co_return error::FailedPrecondition("{} has ended: {}", upload->shard().ToString(),
                                        ToText(upload->why));
  }
  if (!upload->object->complete()) {
    co_return error::FailedPrecondition("{} of {} chunks of {} were filled before the seal",
                                        upload->object->present_chunks(), upload->object->chunks(),
                                        upload->shard().ToString());
  }
  upload->sealing = true;
  upload->fenced = true;
  absl::Status checked = co_await CheckFenced(upload);
  if (upload->ended) {
    co_return error::FailedPrecondition("{} ended meanwhile: {}", upload->shard().ToString(),
                                        ToText(upload->why));
  }
  if (checked.ok()) {
    checked = objects_->Seal(upload->object, root);
  }
  if (!checked.ok()) {
    seams_.events->Emit(Severity::kError, "seal_refused", ToText(checked));
    seams_.loop->Spawn(
        AbortAtPlacement(upload->shard().snapshot, upload->object->token(), ToText(checked)));
    End(upload, checked);
    co_return checked;
  }
  GEMEL_CHECK(upload->sealing && !upload->sealed);
  upload->sealed = true;
  upload->root = root;
  Reach(CrashPoint::kUploadSealed);
  upload->changed.NotifyAll();
  receipts_->Add(*upload->object);
  co_return absl::OkStatus();
}

absl::Status Uploads::HashChunk(Upload* upload, uint32_t chunk) {
  seams_.metrics
      ->Counter("gemel_seal_hashed_bytes_total",
                "Bytes that seals hashed: no holder had found them right after the writing.")
      .Add(static_cast<int64_t>(upload->object->Chunk(chunk).size()));
  return upload->object->CheckChunk(chunk);
}

// First what was sent too early to be vouched for. Then, as long as holders vouch for one chunk
// after the other, those that are sent last: nothing is hashed here that is hashed there anyway.
Task<absl::Status> Uploads::CheckFenced(std::shared_ptr<Upload> upload) {
  const uint32_t chunks = upload->object->chunks();
  std::vector<bool> hashed(chunks, false);
  for (uint32_t chunk = 0; chunk < chunks && !upload->ended; ++chunk) {
    if (upload->vouched[chunk] == Vouched::kBeforeFence) {
      GEMEL_CO_RETURN_IF_ERROR(HashChunk(upload.get(), chunk));
      hashed[chunk] = true;
      co_await seams_.loop->Yield();
    }
  }
  uint32_t seen = upload->vouched_chunks;
  TimePoint patient_until = Add(seams_.loop->Now(), kVouchPatience);
  for (uint32_t left = chunks; left > 0 && !upload->ended;) {
    const uint32_t chunk = left - 1;
    if (hashed[chunk] || upload->vouched[chunk] == Vouched::kYes) {
      --left;
      continue;
    }
    const TimePoint now = seams_.loop->Now();
    if (std::exchange(seen, upload->vouched_chunks) != upload->vouched_chunks) {
      patient_until = Add(now, kVouchPatience);
    }
    const bool awaited = upload->vouched[chunk] == Vouched::kNo && !upload->copies.empty();
    if (awaited && now < patient_until) {
      co_await upload->changed.WaitUntil(patient_until);
      continue;
    }
    GEMEL_CO_RETURN_IF_ERROR(HashChunk(upload.get(), chunk));
    --left;
    co_await seams_.loop->Yield();
  }
  co_return absl::OkStatus();
}

void Uploads::SetHolders(const ShardId& shard, const std::vector<PeerMember>& holders) {
  const std::shared_ptr<Upload> upload = Find(shard);
  if (upload == nullptr || holders.empty()) {
    return;
  }
  std::map<ServerId, std::shared_ptr<UploadCopy>> before = std::exchange(upload->copies, {});
  for (const PeerMember& holder : holders) {
    if (holder.server == control_->server()) {
      continue;
    }
    std::shared_ptr<UploadCopy>& old = before[holder.server];
    if (old != nullptr && old->holder.incarnation == holder.incarnation &&
        old->holder.data_address == holder.data_address) {
      upload->copies[holder.server] = std::exchange(old, nullptr);
      continue;
    }
    auto copy = std::make_shared<UploadCopy>();
    copy->holder = holder;
    upload->copies[holder.server] = copy;
    seams_.loop->Spawn(RunCopy(upload, copy));
  }
  for (auto& [server, copy] : before) {
    if (copy != nullptr) {
      Sometimes(Situation::kCopyUnwanted);
      copy->wanted = false;
    }
  }
  upload->changed.NotifyAll();
}

Task<void> Uploads::RunCopy(std::shared_ptr<Upload> upload, std::shared_ptr<UploadCopy> copy) {
  Gate::Pass pass = gate_->Enter();
  RetryDelay delay;
  Replication replication(seams_, peers_, upload, copy);
  while (pass && !upload->ended && copy->wanted) {
    const absl::Status status = co_await replication.TryOnce();
    if (status.ok()) {
      copy->verified = true;
      co_return;
    }
    const bool refused = status.code() == absl::StatusCode::kDataLoss;
    if (upload->ended || !copy->wanted || (refused && !co_await IsSourceSound(upload))) {
      co_return;
    }
    seams_.metrics->Counter("gemel_replication_retries_total", "Copies that had to start again.")
        .Add(1);
    seams_.events->Emit(
        Severity::kWarning, "copy_delayed",
        fmt::format("the copy of {} at {} is tried again: {}", upload->shard().ToString(),
                    copy->holder.ToString(), ToText(status)));
    co_await upload->changed.WaitUntil(Add(seams_.loop->Now(), delay.Next()));
  }
}

// A holder that was sent other bytes than were announced: was it the wire, or what is sent here?
// What is not sealed yet is looked at by the seal.
Task<bool> Uploads::IsSourceSound(std::shared_ptr<Upload> upload) {
  if (!upload->sealed) {
    co_return true;
  }
  const absl::Status checked = co_await CheckAllChunks(seams_.loop, upload->object);
  if (!checked.ok() && corrupt_) {
    corrupt_(upload->object, checked);
  }
  co_return checked.ok();
}

Task<void> Uploads::Follow(std::shared_ptr<Upload> upload) {
  Gate::Pass pass = gate_->Enter();
  RetryDelay delay;
  while (pass && !gate_->closed() && !upload->ended) {
    pb::AwaitCommitRequest request;
    WriteSnapshotId(upload->shard().snapshot, request.mutable_snapshot());
    request.set_rank(upload->shard().rank);
    absl::StatusOr<pb::AwaitCommitReply> reply =
        co_await control_->Poll<pb::AwaitCommitReply>("AwaitCommit", std::move(request), kPollMs);
    if (upload->ended) {
      co_return;
    }
    if (reply.ok()) {
      delay.Reset();
      ApplyCommitState(upload, *reply).IgnoreError();
      co_await seams_.loop->Sleep(kPollPause);
      continue;
    }
    if (IsFinal(reply.status())) {
      End(upload, Annotate(reply.status(), "placement follows the attempt no longer"));
      co_return;
    }
    co_await seams_.loop->Sleep(delay.Next());
  }
}

absl::Status Uploads::ApplyCommitState(const std::shared_ptr<Upload>& upload,
                                       const pb::AwaitCommitReply& reply) {
  if (reply.state() == pb::SNAPSHOT_ABORTED) {
    End(upload, MakeStatus(static_cast<absl::StatusCode>(reply.code()), reply.why()));
    return absl::OkStatus();
  }
  if (reply.state() == pb::SNAPSHOT_COMMITTED && (reply.redundancy_full() || reply.closed())) {
    End(upload, absl::OkStatus());
    return absl::OkStatus();
  }
  GEMEL_ASSIGN_OR_RETURN(const std::vector<PeerMember> holders, ReadPeerMembers(reply.holders()));
  SetHolders(upload->shard(), holders);
  return absl::OkStatus();
}

void Uploads::End(const std::shared_ptr<Upload>& upload, absl::Status why) {
  if (upload->ended) {
    return;
  }
  GEMEL_CHECK_EQ(upload->sealed, upload->object->state() == ObjectState::kSealed);
  upload->ended = true;
  upload->why = std::move(why);
  // What is sealed stays until placement says otherwise (amendment 4).
  if (upload->object->state() == ObjectState::kStaging) {
    objects_->DropObject(upload->object);
  }
  uploads_.erase(upload->shard());
  upload->changed.NotifyAll();
}

void Uploads::EndSnapshot(const SnapshotId& snapshot, const absl::Status& why) {
  const auto all = uploads_;
  for (const auto& [shard, upload] : all) {
    if (shard.snapshot == snapshot) {
      End(upload, why);
    }
  }
}

void Uploads::EndBelow(const std::string& job, const EpochId& epoch, const absl::Status& why) {
  const auto all = uploads_;
  for (const auto& [shard, upload] : all) {
    if (shard.snapshot.job == job && shard.snapshot.epoch < epoch) {
      End(upload, why);
    }
  }
}

void Uploads::EndAll(const absl::Status& why) {
  const auto all = uploads_;
  for (const auto& [shard, upload] : all) {
    End(upload, why);
  }
}

Task<void> Uploads::AbortAtPlacement(SnapshotId snapshot, EpochToken token, std::string why) {
  Gate::Pass pass = gate_->Enter();
  RetryDelay delay;
  for (uint32_t i = 0; pass && !gate_->closed() && i < kAbortTriesMax; ++i) {
    pb::AbortSnapshotRequest request;
    WriteSnapshotId(snapshot, request.mutable_snapshot());
    request.set_token(token.ToBytes());
    request.set_why(TextField(why));
    const absl::StatusOr<pb::AbortSnapshotReply> reply =
        co_await control_->Call<pb::AbortSnapshotReply>("AbortSnapshot", std::move(request), 0s);
    if (!Control::IsUnknown(reply.status())) {
      co_return;
    }
    co_await seams_.loop->Sleep(delay.Next());
  }
}

std::vector<std::shared_ptr<Upload>> Uploads::OfClient(uint64_t client) const {
  std::vector<std::shared_ptr<Upload>> found;
  for (const auto& [shard, upload] : uploads_) {
    if (upload->client == client) {
      found.push_back(upload);
    }
  }
  return found;
}

}  // namespace gemel

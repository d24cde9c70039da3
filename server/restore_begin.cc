// SPDX-License-Identifier: Apache-2.0
//
// BeginRestore: placement's choice for the job's epoch, with record and manifest checked.
#include <algorithm>
#include <utility>

#include "common/check.h"
#include "common/errors.h"
#include "common/status_macros.h"
#include "server/restore.h"

namespace gemel {

Restores::Restores(const ServerSeams& seams, Control* control, Fetches* fetches)
    : seams_(seams), control_(control), fetches_(fetches) {
  GEMEL_CHECK(control != nullptr && fetches != nullptr);
}

absl::Status Restores::CheckRoom(uint64_t client) const {
  const auto own = std::count_if(restores_.begin(), restores_.end(), [client](const auto& one) {
    return one.second->client == client;
  });
  if (static_cast<size_t>(own) >= kRestoresPerClientMax) {
    return error::ResourceExhausted("this client has {} restores and reads open: release some",
                                    own);
  }
  return absl::OkStatus();
}

Task<absl::StatusOr<BeginRestoreDone>> Restores::Begin(uint64_t client, BeginRestore request) {
  GEMEL_CO_RETURN_IF_ERROR(CheckRoom(client));
  pb::BeginRestoreRequest ask;
  ask.set_job(request.job);
  WriteEpochId(request.epoch, ask.mutable_epoch());
  ask.set_token(request.token.ToBytes());
  ask.set_rank(request.rank);
  ask.set_world_size(request.world_size);
  const uint32_t wait_ms = std::min(request.wait_ms, kWaitMsMax);
  ask.set_wait_ms(wait_ms);
  absl::StatusOr<pb::BeginRestoreReply> reply =
      co_await control_->CallPatiently<pb::BeginRestoreReply>("BeginRestore", std::move(ask),
                                                              std::chrono::milliseconds(wait_ms));
  GEMEL_CO_RETURN_IF_ERROR(reply.status());
  BeginRestoreDone done;
  switch (reply->decision()) {
    case pb::BeginRestoreReply::CHOSEN: {
      auto restore = std::make_shared<Restore>();
      restore->client = client;
      restore->epoch = request.epoch;
      restore->round = reply->round();
      restore->rank = request.rank;
      GEMEL_CO_ASSIGN_OR_RETURN(
          done, Chosen(std::move(restore),
                       {request.job, reply->record(), reply->manifest(), reply->sources()}));
      done.lost.assign(reply->lost().begin(), reply->lost().end());
      co_return done;
    }
    case pb::BeginRestoreReply::WAIT:
      done.decision = RestoreDecision::kWait;
      done.progress = reply->progress();
      co_return done;
    case pb::BeginRestoreReply::NEVER_COMMITTED:
      done.decision = RestoreDecision::kNeverCommitted;
      co_return done;
    default:
      co_return error::Internal("placement answered decision {} to a restore of {}",
                                static_cast<int>(reply->decision()), request.job);
  }
}

absl::Status Restores::CheckRecord(const std::string& job,
                                   const model::CommitRecord& record) const {
  if (record.snapshot.job != job) {
    return error::DataLoss("placement chose {} for a restore of job {}", record.snapshot.ToString(),
                           job);
  }
  if (record.cluster != control_->cluster()) {
    return error::DataLoss("the commit record of {} is of cluster {}, not of {}",
                           record.snapshot.ToString(), record.cluster.ToHex(),
                           control_->cluster().ToHex());
  }
  return absl::OkStatus();
}

absl::StatusOr<BeginRestoreDone> Restores::Chosen(std::shared_ptr<Restore> restore,
                                                  const Choice& choice) {
  GEMEL_ASSIGN_OR_RETURN(const model::CommitRecord record,
                         model::DecodeCommitRecord(choice.record));
  GEMEL_RETURN_IF_ERROR(CheckRecord(choice.job, record));
  GEMEL_ASSIGN_OR_RETURN(restore->manifest, model::DecodeManifestOf(record, choice.manifest));
  restore->sources.resize(restore->manifest.shards.size());
  for (const pb::ShardSources& sources : choice.sources) {
    if (sources.rank() >= restore->sources.size()) {
      return error::InvalidArgument("sources of rank {} of {} ranks", sources.rank(),
                                    restore->sources.size());
    }
    GEMEL_ASSIGN_OR_RETURN(restore->sources[sources.rank()], ReadPeerMembers(sources.holders()));
  }
  BeginRestoreDone done;
  done.decision = RestoreDecision::kChosen;
  done.restore = next_restore_++;
  done.round = restore->round;
  done.snapshot = record.snapshot;
  for (const model::ManifestShard& shard : restore->manifest.shards) {
    RestoreShard& out = done.shards.emplace_back();
    out.root = shard.root;
    out.bytes = shard.bytes;
    out.layout_bytes = shard.layout_bytes;
  }
  restores_.emplace(done.restore, std::move(restore));
  return done;
}

absl::StatusOr<std::shared_ptr<Restores::Restore>> Restores::Find(uint64_t client,
                                                                  uint64_t restore) const {
  const auto found = restores_.find(restore);
  if (found == restores_.end() || found->second->client != client) {
    return error::NotFound("restore {} is not open on this connection: begin again", restore);
  }
  return found->second;
}

}  // namespace gemel

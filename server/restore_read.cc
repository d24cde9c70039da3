// SPDX-License-Identifier: Apache-2.0
//
// BeginRead: one committed snapshot, by name, for one client; and the end of a read, which
// placement must hear of because it keeps the snapshot until then.
#include <algorithm>
#include <utility>

#include "common/check.h"
#include "common/errors.h"
#include "common/status_macros.h"
#include "server/restore.h"

namespace gemel {

Task<absl::StatusOr<BeginRestoreDone>> Restores::Begin(uint64_t client, BeginRead request) {
  GEMEL_CO_RETURN_IF_ERROR(CheckRoom(client));
  const ReadId read = ReadId::Draw(&random_);
  pb::BeginReadRequest ask;
  ask.set_job(request.job);
  ask.set_name(request.name);
  ask.set_read_id(read.ToBytes());
  const uint32_t wait_ms = std::min(request.wait_ms, kWaitMsMax);
  ask.set_wait_ms(wait_ms);
  const absl::StatusOr<pb::BeginReadReply> reply =
      co_await control_->CallPatiently<pb::BeginReadReply>("BeginRead", std::move(ask),
                                                           std::chrono::milliseconds(wait_ms));
  if (!reply.ok() && !Control::IsUnknown(reply.status())) {
    co_return reply.status();
  }
  absl::StatusOr<BeginRestoreDone> done =
      reply.ok() ? ReadChosen(client, read, request, *reply) : reply.status();
  if (!done.ok() || done->decision != RestoreDecision::kChosen) {
    // Placement may keep a snapshot for it, and the client asks again as another read.
    seams_.loop->Spawn(EndRead(read));
  }
  co_return done;
}

absl::StatusOr<BeginRestoreDone> Restores::ReadChosen(uint64_t client, const ReadId& read,
                                                      const BeginRead& request,
                                                      const pb::BeginReadReply& reply) {
  if (reply.decision() == pb::BeginReadReply::WAIT) {
    BeginRestoreDone done;
    done.decision = RestoreDecision::kWait;
    done.progress = reply.progress();
    return done;
  }
  if (reply.decision() != pb::BeginReadReply::CHOSEN) {
    return error::Internal("placement answered decision {} to a read of {}@{}",
                           static_cast<int>(reply.decision()), request.job, request.name);
  }
  auto restore = std::make_shared<Restore>();
  restore->client = client;
  restore->read = read;
  GEMEL_ASSIGN_OR_RETURN(
      BeginRestoreDone done,
      Chosen(std::move(restore), {request.job, reply.record(), reply.manifest(), reply.sources()}));
  if (!request.name.empty() && done.snapshot.name != request.name) {
    restores_.erase(done.restore);
    return error::DataLoss("placement chose {} for a read of {}@{}", done.snapshot.ToString(),
                           request.job, request.name);
  }
  return done;
}

Task<void> Restores::EndRead(ReadId read) {
  GEMEL_CHECK(gate_ != nullptr && !read.IsZero());
  Gate::Pass pass = gate_->Enter();
  const Incarnation begun_by = control_->incarnation();
  RetryDelay delay;
  // Placement ends the reads of an incarnation that is gone by itself.
  while (pass && !gate_->closed() && control_->incarnation() == begun_by) {
    pb::EndReadRequest request;
    request.set_read_id(read.ToBytes());
    const absl::StatusOr<pb::EndReadReply> reply =
        co_await control_->Call<pb::EndReadReply>("EndRead", std::move(request), 0s);
    if (!Control::IsUnknown(reply.status())) {
      co_return;
    }
    co_await seams_.loop->Sleep(delay.Next());
  }
}

absl::Status Restores::CheckReported(const Restore& restore) const {
  if (restore.read.IsZero()) {
    return absl::OkStatus();
  }
  return error::FailedPrecondition("a read of {} is neither reported nor awaited: release it",
                                   restore.manifest.snapshot.ToString());
}

absl::Status Restores::Release(uint64_t client, uint64_t restore) {
  GEMEL_ASSIGN_OR_RETURN(const std::shared_ptr<Restore> released, Find(client, restore));
  if (!released->read.IsZero()) {
    seams_.loop->Spawn(EndRead(released->read));
  }
  restores_.erase(restore);
  return absl::OkStatus();
}

void Restores::ReleaseClient(uint64_t client) {
  std::vector<uint64_t> own;
  for (const auto& [id, restore] : restores_) {
    if (restore->client == client) {
      own.push_back(id);
    }
  }
  for (const uint64_t id : own) {
    const absl::Status released = Release(client, id);
    GEMEL_CHECK(released.ok()) << ToText(released);
  }
}

}  // namespace gemel

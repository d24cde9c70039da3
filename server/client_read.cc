// SPDX-License-Identifier: Apache-2.0
//
// What a client asks without an epoch: to read one committed snapshot, to list what is committed,
// to remove it.
#include <algorithm>
#include <utility>

#include "common/errors.h"
#include "common/fields.h"
#include "common/status_macros.h"
#include "placement/model/records.h"
#include "server/client_session.h"

namespace gemel {
namespace {

ListSnapshotsReply CommittedOf(const pb::ListSnapshotsReply& answer) {
  ListSnapshotsReply done;
  for (const pb::SnapshotInfo& info : answer.snapshots()) {
    if (info.state() != pb::SNAPSHOT_COMMITTED) {
      continue;
    }
    ListedSnapshot& listed = done.snapshots.emplace_back();
    listed.snapshot = ReadSnapshotId(info.snapshot());
    listed.world_size = info.world_size();
    listed.bytes = info.bytes();
    listed.committed_unix_s = info.committed_unix_s();
    listed.persisted = info.persisted() == pb::PERSIST_DONE;
    listed.in_memory = info.in_memory();
  }
  std::sort(done.snapshots.begin(), done.snapshots.end(),
            [](const ListedSnapshot& a, const ListedSnapshot& b) {
              return std::pair(a.snapshot.epoch, a.snapshot.sequence) <
                     std::pair(b.snapshot.epoch, b.snapshot.sequence);
            });
  return done;
}

}  // namespace

ClientSession::Answer ClientSession::OnBeginRead(BeginRead request) {
  GEMEL_CO_RETURN_IF_ERROR(model::CheckJobName(request.job));
  if (!request.name.empty()) {
    GEMEL_CO_RETURN_IF_ERROR(model::CheckSnapshotName(request.name));
  }
  GEMEL_CO_ASSIGN_OR_RETURN(const BeginRestoreDone done,
                            co_await parts_.restores->Begin(client_, std::move(request)));
  co_return Begun(done);
}

ClientSession::Answer ClientSession::OnListSnapshots(ListSnapshots request) {
  GEMEL_CO_RETURN_IF_ERROR(model::CheckJobName(request.job));
  pb::ListSnapshotsRequest ask;
  ask.set_job(request.job);
  const absl::StatusOr<pb::ListSnapshotsReply> answer =
      co_await parts_.control->CallPatiently<pb::ListSnapshotsReply>("ListSnapshots",
                                                                     std::move(ask), 0s);
  if (answer.status().code() == absl::StatusCode::kNotFound) {
    co_return ReplyWith(ListSnapshotsReply());  // a job that was never seen has nothing
  }
  GEMEL_CO_RETURN_IF_ERROR(answer.status());
  Reply reply = ReplyWith(CommittedOf(*answer));
  if (reply.body.size() > kFrameBodyBytesMax) {
    co_return error::ResourceExhausted(
        "the list of {} snapshots of job {} has {} bytes, more than the {} of an answer: remove "
        "some",
        answer->snapshots_size(), request.job, reply.body.size(), kFrameBodyBytesMax);
  }
  co_return reply;
}

ClientSession::Answer ClientSession::OnRemoveSnapshot(RemoveSnapshot request) {
  GEMEL_CO_RETURN_IF_ERROR(model::CheckJobName(request.job));
  GEMEL_CO_RETURN_IF_ERROR(model::CheckSnapshotName(request.name));
  pb::RemoveSnapshotsRequest ask;
  ask.set_job(request.job);
  ask.set_name(request.name);
  absl::StatusOr<pb::RemoveSnapshotsReply> answer =
      co_await parts_.control->Call<pb::RemoveSnapshotsReply>("RemoveSnapshots", ask, 0s);
  const bool unknown = Control::IsUnknown(answer.status());
  if (unknown) {
    answer = co_await parts_.control->CallPatiently<pb::RemoveSnapshotsReply>("RemoveSnapshots",
                                                                              std::move(ask), 0s);
  }
  const bool none = answer.status().code() == absl::StatusCode::kNotFound ||
                    (answer.ok() && answer->removed() == 0);
  if (none && unknown) {
    co_return ReplyWith(Acknowledged());  // by the call whose answer was lost
  }
  GEMEL_CO_RETURN_IF_ERROR(answer.status());
  if (none) {
    co_return error::NotFound("job {} has no snapshot '{}'", request.job, request.name);
  }
  co_return ReplyWith(Acknowledged());
}

}  // namespace gemel

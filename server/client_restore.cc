// SPDX-License-Identifier: Apache-2.0
//
// What a client asks to restore a snapshot.
#include <utility>

#include "common/fields.h"
#include "common/status_macros.h"
#include "placement/model/records.h"
#include "server/client_session.h"

namespace gemel {
ClientSession::Answer ClientSession::OnBeginRestore(BeginRestore request) {
  GEMEL_CO_RETURN_IF_ERROR(model::CheckJobName(request.job));
  GEMEL_CO_RETURN_IF_ERROR(parts_.identity->CheckEpoch(request.job, request.epoch));
  GEMEL_CO_ASSIGN_OR_RETURN(const BeginRestoreDone done,
                            co_await parts_.restores->Begin(client_, std::move(request)));
  co_return Begun(done);
}

Reply ClientSession::Begun(const BeginRestoreDone& done) {
  if (!session_->open()) {
    parts_.restores->ReleaseClient(client_);
  }
  return ReplyWith(done);
}

ClientSession::Answer ClientSession::OnFetchChunks(FetchChunks request) {
  GEMEL_CO_ASSIGN_OR_RETURN(const Restores::Chunks chunks,
                            co_await parts_.restores->Fetch(client_, request));
  FetchChunksReply done;
  for (uint32_t i = 0; i < request.count; ++i) {
    const uint32_t chunk = request.first_chunk + i;
    done.pieces.push_back(chunks.object->PieceOf(chunk));
    done.digests.push_back(chunks.object->digests()[chunk]);
  }
  done.local_bytes = chunks.local_bytes;
  done.peer_bytes = chunks.peer_bytes;
  Reply reply;
  AttachHandles(&done.pieces, &reply.handles);
  reply.body = EncodeMessage(done);
  co_return reply;
}

ClientSession::Answer ClientSession::OnReportRestore(ReportRestore request) {
  GEMEL_CO_RETURN_IF_ERROR(co_await parts_.restores->Report(client_, std::move(request)));
  co_return ReplyWith(Acknowledged());
}

ClientSession::Answer ClientSession::OnAwaitRestore(AwaitRestore request) {
  GEMEL_CO_ASSIGN_OR_RETURN(const AwaitRestoreDone done,
                            co_await parts_.restores->Await(client_, request));
  co_return ReplyWith(done);
}

absl::StatusOr<Reply> ClientSession::OnReleaseRestore(const ReleaseRestore& request) {
  GEMEL_RETURN_IF_ERROR(parts_.restores->Release(client_, request.restore));
  return ReplyWith(Acknowledged());
}

}  // namespace gemel

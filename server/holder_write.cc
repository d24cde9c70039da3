// SPDX-License-Identifier: Apache-2.0
//
// Write: one chunk from the socket to its final place, checked against the digest sent with it.
#include <utility>

#include "common/errors.h"
#include "common/fields.h"
#include "common/points.h"
#include "common/status_macros.h"
#include "server/holder.h"

namespace gemel {

Placement Holder::PlaceRequestPayload(Session* session, const FrameHeader& header,
                                      std::string_view body) {
  if (header.type != FrameType::kWrite || !StateOf(session)->hello_done) {
    return Placement();
  }
  const absl::StatusOr<Write> write = DecodeMessage<Write>(body);
  RegionTable::Arrival arrival;
  arrival.lane = session;
  arrival.writer = StateOf(session)->hello.incarnation;
  arrival.again = write.ok() && write->sent == WriteSent::kAgain;
  absl::StatusOr<Placement> placement = regions_.BeginPlacing(header, arrival);
  if (placement.ok()) {
    return *std::move(placement);
  }
  Sometimes(Situation::kWriteRefused);
  unplaced_[{session, header.op}] = placement.status();
  return Placement();
}

absl::StatusOr<Reply> Holder::OnWrite(Session* session, const IncomingRequest& request) {
  absl::Status why;
  if (const auto unplaced = unplaced_.find({session, request.header.op});
      unplaced != unplaced_.end()) {
    why = std::move(unplaced->second);
    unplaced_.erase(unplaced);
  }
  GEMEL_RETURN_IF_ERROR(why);
  if (request.header.payload_bytes == 0) {
    return error::InvalidArgument("a write without a payload");
  }
  if (request.payload_dropped &&
      regions_.IsOpen(request.header.region, request.header.generation)) {
    return error::Unavailable("the slice at {} of region {} came over another lane meanwhile",
                              request.header.offset, request.header.region);
  }
  if (request.payload_dropped) {
    Sometimes(Situation::kWriteFenced);
    return error::FailedPrecondition("the grant of region {} ended while the chunk at {} arrived",
                                     request.header.region, request.header.offset);
  }
  GEMEL_ASSIGN_OR_RETURN(const Write write, DecodeMessage<Write>(request.body));
  const absl::Status placed =
      regions_.FinishPlacing(request.header, write.digest, session, request.landed);
  if (placed.code() == absl::StatusCode::kDataLoss) {
    Sometimes(Situation::kWriteCorrupt);
    seams_.metrics->Counter("gemel_chunks_corrupt_total", "Chunks that failed their digest.")
        .Add(1);
    seams_.events->Emit(Severity::kWarning, "chunk_corrupt", ToText(placed));
  }
  GEMEL_RETURN_IF_ERROR(placed);
  Reach(CrashPoint::kChunkPlaced);
  seams_.metrics->Counter("gemel_placed_bytes_total", "Bytes that other servers placed here.")
      .Add(request.header.payload_bytes);
  CountArrival(request.header.region);
  return CreditReply(request.header.region);
}

}  // namespace gemel

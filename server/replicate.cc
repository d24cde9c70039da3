// SPDX-License-Identifier: Apache-2.0
#include "server/replicate.h"

#include <algorithm>
#include <utility>

#include "common/check.h"
#include "common/errors.h"
#include "common/fields.h"
#include "common/points.h"
#include "common/status_macros.h"
#include "server/limits.h"
#include "server/uploads.h"

namespace gemel {

Replication::Replication(const ServerSeams& seams, Peers* peers, std::shared_ptr<Upload> upload,
                         std::shared_ptr<UploadCopy> copy)
    : seams_(seams), peers_(peers), upload_(std::move(upload)), copy_(std::move(copy)) {
  GEMEL_CHECK(peers_ != nullptr && upload_ != nullptr && copy_ != nullptr);
}

Replication::Stream::Stream(std::shared_ptr<Upload> of)
    : upload(std::move(of)),
      spray(upload->object->chunks()),
      failures(upload->object->chunks(), 0) {}

absl::Status Replication::CheckWanted() const {
  if (upload_->ended) {
    return error::Aborted("{} has ended", upload_->shard().ToString());
  }
  if (!copy_->wanted) {
    return error::Aborted("{} shall not keep {} any more", copy_->holder.ToString(),
                          upload_->shard().ToString());
  }
  return absl::OkStatus();
}

// Of one call: what one lane does not bring in time another one does.
TimePoint Replication::DeadlineOf(Duration alone) const {
  const bool others = peers_->open_lanes(copy_->holder) > 1;
  return Add(seams_.loop->Now(), others ? std::min(alone, kLaneDeadline) : alone);
}

Task<absl::Status> Replication::TryOnce() {
  const TimePoint connect_by = Add(seams_.loop->Now(), kConnectDeadline);
  GEMEL_CO_ASSIGN_OR_RETURN(std::shared_ptr<Session> session,
                            co_await peers_->SessionTo(copy_->holder, connect_by));
  GEMEL_CO_RETURN_IF_ERROR(CheckWanted());
  GEMEL_CO_ASSIGN_OR_RETURN(const OfferReply grant, co_await SendOffer(session));
  if (!grant.already_sealed) {
    GEMEL_CO_RETURN_IF_ERROR(co_await StreamChunks(grant));
    if (Buggify(BuggifySite::kCopyAgain)) {
      co_return error::Unavailable("the copy is offered once more");
    }
  }
  GEMEL_CO_RETURN_IF_ERROR(co_await WaitForSeal());
  if (grant.already_sealed) {
    if (grant.root == upload_->root) {
      co_return absl::OkStatus();
    }
    co_return error::DataLoss("{} holds {} under root {} where {} belongs",
                              copy_->holder.ToString(), upload_->shard().ToString(),
                              ToHex(grant.root), ToHex(upload_->root));
  }
  // The lane of the offer may have ended meanwhile; the grant is the server's.
  const TimePoint again_by = Add(seams_.loop->Now(), kConnectDeadline);
  GEMEL_CO_ASSIGN_OR_RETURN(session, co_await peers_->SessionTo(copy_->holder, again_by));
  co_return co_await SealAtPeer(session, grant);
}

Task<absl::StatusOr<OfferReply>> Replication::SendOffer(std::shared_ptr<Session> session) {
  Offer offer;
  offer.shard = upload_->shard();
  offer.token = upload_->object->token();
  offer.bytes = upload_->object->bytes();
  offer.layout_bytes = upload_->object->layout_bytes();
  offer.limit = GrantLimit::kCredit;
  Request request;
  request.type = FrameType::kOffer;
  request.body = EncodeMessage(offer);
  const TimePoint deadline = DeadlineOf(kOfferDeadline);
  absl::StatusOr<Reply> reply =
      co_await session->Call(std::move(request), MutableByteSpan(), deadline);
  GEMEL_CO_RETURN_IF_ERROR(reply.status());
  GEMEL_CO_RETURN_IF_ERROR(reply->status);
  co_return DecodeMessage<OfferReply>(reply->body);
}

Request Replication::WriteRequest(const OfferReply& grant, const Spray::Pick& pick) const {
  const Object& object = *upload_->object;
  const uint32_t chunk = pick.slice;
  GEMEL_CHECK(object.present(chunk)) << "chunk " << chunk;
  Write write;
  write.digest = object.digests()[chunk];
  write.sent = pick.again ? WriteSent::kAgain : WriteSent::kOnce;
  Request request;
  request.type = FrameType::kWrite;
  request.region = grant.region;
  request.generation = grant.generation;
  request.offset = chunk * kChunkBytes;
  request.body = EncodeMessage(write);
  request.payload = object.Chunk(chunk);
  request.keep = upload_->object;
  return request;
}

// Whether the chunk is there. What another lane may mend counts against the chunk, any other
// refusal ends the try.
bool Replication::Judge(const absl::Status& outcome, uint32_t chunk, Stream* stream) {
  // Placed already: an earlier frame of the same grant arrived. The seal compares its digest.
  if (outcome.ok() || outcome.code() == absl::StatusCode::kAlreadyExists) {
    return true;
  }
  const bool damaged = outcome.code() == absl::StatusCode::kDataLoss;
  const bool mended_elsewhere = damaged || Control::IsUnknown(outcome);
  stream->failures[chunk] += 1;
  if (!mended_elsewhere || stream->failures[chunk] > (damaged ? 1 : kChunkFailuresMax)) {
    stream->error.Update(outcome);
  }
  stream->lane_error = outcome;
  return false;
}

Task<void> Replication::WriteChunk(ServerSeams seams, std::shared_ptr<Stream> stream,
                                   std::shared_ptr<Lane> lane, Sent sent,
                                   Task<absl::StatusOr<Reply>> call) {
  const uint32_t chunk = sent.chunk;
  const absl::StatusOr<Reply> reply = co_await std::move(call);
  const absl::Status outcome = reply.ok() ? reply->status : reply.status();
  const bool arrived = Judge(outcome, chunk, stream.get());
  if (outcome.ok() && !reply->body.empty()) {
    stream->error.Update(TakeCredit(reply, stream.get()));
  }
  if (outcome.code() == absl::StatusCode::kDataLoss) {
    lane->pace.Blame(seams.loop->Now());
  }
  if (outcome.ok()) {
    stream->upload->Vouch(chunk, sent.fenced);
  }
  stream->spray.End(chunk, *lane, arrived);
  if (arrived) {
    seams.metrics->Counter("gemel_replicated_bytes_total", "Bytes placed at other servers.")
        .Add(static_cast<int64_t>(stream->upload->object->Chunk(chunk).size()));
  }
  stream->upload->changed.NotifyAll();
}

// The answer to a write or an AskCredit. Only what is more than before counts: answers of several
// lanes come in any order.
absl::Status Replication::TakeCredit(const absl::StatusOr<Reply>& reply, Stream* stream) {
  GEMEL_RETURN_IF_ERROR(reply.status());
  GEMEL_RETURN_IF_ERROR(reply->status);
  GEMEL_ASSIGN_OR_RETURN(const Credit credit, DecodeMessage<Credit>(reply->body));
  stream->credit.chunks = std::max(stream->credit.chunks, credit.chunks);
  stream->spray.Allow(stream->credit.chunks);
  return absl::OkStatus();
}

// Tells the holder that `ready` chunks could be sent: when it does not know of all of them, and
// when none is under way whose answer would tell of more credit.
void Replication::AskForCredit(const std::shared_ptr<Stream>& stream, const OfferReply& grant,
                               uint32_t ready) {
  CreditState& credit = stream->credit;
  const bool useful = credit.told < ready || stream->spray.starved();
  if (credit.asking || credit.chunks >= ready || !useful) {
    return;
  }
  std::shared_ptr<Session> session = peers_->FindSession(copy_->holder);
  if (session == nullptr) {
    return;
  }
  AskCredit ask;
  ask.wanted = ready;
  ask.have = credit.chunks;
  Request request;
  request.type = FrameType::kAskCredit;
  request.region = grant.region;
  request.generation = grant.generation;
  request.body = EncodeMessage(ask);
  credit.asking = true;
  credit.told = ready;
  const TimePoint deadline = DeadlineOf(kCreditDeadline);
  seams_.loop->Spawn(RunAsk(seams_, stream, std::move(session), std::move(request), deadline));
}

Task<void> Replication::RunAsk(ServerSeams seams, std::shared_ptr<Stream> stream,
                               std::shared_ptr<Session> session, Request request,
                               TimePoint deadline) {
  const absl::StatusOr<Reply> reply =
      co_await session->Call(std::move(request), MutableByteSpan(), deadline);
  const absl::Status taken = TakeCredit(reply, stream.get());
  if (Control::IsUnknown(taken)) {
    stream->lane_error = taken;
    stream->credit.told = 0;
    co_await seams.loop->Sleep(kBackoffMin);
  } else {
    stream->error.Update(taken);
  }
  stream->credit.asking = false;
  stream->upload->changed.NotifyAll();
}

// Beside a slice, or under a grant that has ended: whoever takes it is wrong.
Task<void> Replication::WriteAstray(std::shared_ptr<Session> session, OfferReply grant,
                                    uint32_t chunk) {
  Request request = WriteRequest(grant, Spray::Pick{chunk, false});
  const bool beside = Buggify(BuggifySite::kWriteAstray);
  request.offset += beside ? 1 : 0;
  request.generation -= beside ? 0 : 1;
  const TimePoint deadline = DeadlineOf(kWriteDeadline);
  const absl::StatusOr<Reply> reply =
      co_await session->Call(std::move(request), MutableByteSpan(), deadline);
  GEMEL_CHECK(!reply.ok() || !reply->status.ok())
      << copy_->holder.ToString() << " took a write of " << upload_->shard().ToString()
      << (beside ? " beside its slice" : " under a grant that has ended");
}

void Replication::SendChunk(std::shared_ptr<Stream> stream, std::shared_ptr<Lane> lane,
                            const OfferReply& grant, const Spray::Pick& pick) {
  if (pick.again) {
    seams_.metrics->Counter("gemel_slices_again_total", "Slices sent again over another lane.")
        .Add(1);
  }
  const TimePoint expected = Add(seams_.loop->Now(), kLatenessMax * lane->pace.Expected());
  const TimePoint deadline = std::max(DeadlineOf(kWriteDeadline), expected);
  Task<absl::StatusOr<Reply>> call =
      CallOn(lane, WriteRequest(grant, pick), MutableByteSpan(), deadline);
  const Sent sent{.chunk = pick.slice, .fenced = upload_->fenced};
  seams_.loop->Spawn(WriteChunk(seams_, std::move(stream), std::move(lane), sent, std::move(call)));
}

// Returns when every chunk is there, or the try is over: what is still under way ends by itself,
// and the holder fences it.
Task<absl::Status> Replication::StreamChunks(OfferReply grant) {
  auto stream = std::make_shared<Stream>(upload_);
  const bool limited = grant.limit == GrantLimit::kCredit;
  stream->spray.Allow(limited ? 0 : upload_->object->chunks());
  const bool one_by_one = Buggify(BuggifySite::kWriteWindowOne);
  size_t added = 0;
  while (!stream->spray.done()) {
    absl::Status status = CheckWanted();
    status.Update(stream->error);
    GEMEL_CO_RETURN_IF_ERROR(status);
    for (; added < upload_->filled.size(); ++added) {
      stream->spray.Add(upload_->filled[added]);
    }
    if (limited) {
      AskForCredit(stream, grant, static_cast<uint32_t>(added));
    }
    if (one_by_one && stream->spray.under_way() > 0) {
      co_await upload_->changed.WaitUntil(kTimeNever);
      continue;
    }
    const TimePoint now = seams_.loop->Now();
    const std::shared_ptr<Lane> lane = peers_->PickLane(copy_->holder);
    if (lane == nullptr) {
      if (!peers_->HasLanes(copy_->holder)) {
        co_return stream->lane_error.ok()
            ? error::Unavailable("no lane to {} is open", copy_->holder.ToString())
            : stream->lane_error;
      }
      co_await peers_->AwaitLane(copy_->holder.server, Add(now, kLaneWait));
      continue;
    }
    const std::optional<Spray::Pick> pick =
        stream->spray.Take(*lane, now, Buggify(BuggifySite::kSliceAgain));
    if (pick.has_value()) {
      if (Buggify(BuggifySite::kWriteAstray)) {
        co_await WriteAstray(lane->session, grant, pick->slice);
      }
      SendChunk(stream, lane, grant, *pick);
      continue;
    }
    co_await upload_->changed.WaitUntil(stream->spray.LookAgainAt(*lane, now));
  }
  co_return stream->error;
}

Task<absl::Status> Replication::WaitForSeal() {
  while (!upload_->sealed) {
    GEMEL_CO_RETURN_IF_ERROR(CheckWanted());
    co_await upload_->changed.WaitUntil(kTimeNever);
  }
  co_return absl::OkStatus();
}

Task<absl::Status> Replication::SealAtPeer(std::shared_ptr<Session> session, OfferReply grant) {
  GEMEL_CHECK(upload_->sealed) << upload_->shard().ToString();
  if (Buggify(BuggifySite::kPeerSealLate)) {
    co_await seams_.loop->Sleep(kBackoffMax / 10);
  }
  PeerSeal seal;
  seal.shard = upload_->shard();
  seal.root = upload_->root;
  Request request;
  request.type = FrameType::kPeerSeal;
  request.region = grant.region;
  request.generation = grant.generation;
  request.body = EncodeMessage(seal);
  const TimePoint deadline = DeadlineOf(kPeerSealDeadline);
  absl::StatusOr<Reply> reply =
      co_await session->Call(std::move(request), MutableByteSpan(), deadline);
  GEMEL_CO_RETURN_IF_ERROR(reply.status());
  co_return reply->status;
}

}  // namespace gemel

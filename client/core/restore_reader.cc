// SPDX-License-Identifier: Apache-2.0
#include "client/core/restore_reader.h"

#include <algorithm>

#include "common/check.h"
#include "common/copies.h"
#include "common/errors.h"
#include "common/points.h"
#include "common/xxh3.h"

namespace gemel {
namespace {

constexpr uint32_t kFetchChunksMax = 16;  // chunks asked for in one call
constexpr size_t kFetchWindow = 4;        // such calls in flight
// Placement has the holders of an unreadable shard hash their copies: lost is told by then.
constexpr Duration kReadAgainAfter = 500ms;

}  // namespace

RestoreReader::RestoreReader(std::shared_ptr<Link> link, BeginRestoreDone begun, TimePoint deadline)
    : link_(std::move(link)),
      use_(link_->UseMemory()),
      begun_(std::move(begun)),
      deadline_(deadline),
      window_(link_->loop(), kFetchWindow) {
  GEMEL_CHECK(link_ != nullptr);
  for (const RestoreShard& shard : begun_.shards) {
    chunks_.emplace_back(ChunkCount(shard.bytes));
  }
}

Task<absl::StatusOr<std::shared_ptr<RestoreReader>>> RestoreReader::Begin(ClientCore* core,
                                                                          RestoreOptions options) {
  GEMEL_CO_ASSIGN_OR_RETURN(EpochToken token, core->TokenOf(options.job));
  GEMEL_CO_ASSIGN_OR_RETURN(std::shared_ptr<Link> link, co_await core->Connected(options.deadline));
  Question<BeginRestore> question;
  question.type = FrameType::kBeginRestore;
  question.message.job = options.job;
  question.message.epoch = options.epoch;
  question.message.token = token;
  question.message.rank = options.rank;
  question.message.world_size = options.world_size;
  question.what = fmt::format("restoring job {}", options.job);
  question.deadline = options.deadline;
  question.progress = std::move(options.progress);
  co_return co_await AskToBegin(std::move(link), std::move(question));
}

Task<absl::StatusOr<std::shared_ptr<RestoreReader>>> RestoreReader::BeginRead(ClientCore* core,
                                                                              ReadOptions options) {
  GEMEL_CO_ASSIGN_OR_RETURN(std::shared_ptr<Link> link, co_await core->Connected(options.deadline));
  Question<struct gemel::BeginRead> question;
  question.type = FrameType::kBeginRead;
  question.message.job = options.job;
  question.message.name = options.name;
  question.what =
      fmt::format("reading {} of job {}",
                  options.name.empty() ? "the newest snapshot" : options.name, options.job);
  question.deadline = options.deadline;
  co_return co_await AskToBegin(std::move(link), std::move(question));
}

template <typename Message>
Task<absl::StatusOr<std::shared_ptr<RestoreReader>>> RestoreReader::AskToBegin(
    std::shared_ptr<Link> link, Question<Message> question) {
  while (true) {
    question.message.wait_ms = HoldFor(link->loop(), question.deadline);
    const TimePoint reply_by =
        Add(link->loop()->Now(), std::chrono::milliseconds(question.message.wait_ms) + kCallGrace);
    auto reply = co_await link->Call<BeginRestoreDone>(question.type, question.message, reply_by);
    if (!reply.ok()) {
      co_return reply.status();
    }
    BeginRestoreDone& begun = reply->first;
    if (begun.decision == RestoreDecision::kNeverCommitted) {
      co_return std::shared_ptr<RestoreReader>();
    }
    if (begun.decision == RestoreDecision::kChosen) {
      co_return std::shared_ptr<RestoreReader>(
          new RestoreReader(link, std::move(begun), question.deadline));
    }
    if (question.progress) {
      question.progress(begun.progress);
    }
    if (link->loop()->Now() >= question.deadline) {
      co_return error::DeadlineExceeded("{} still waits: {}", question.what, begun.progress);
    }
  }
}

absl::Status RestoreReader::CheckRange(uint32_t shard, uint64_t offset, uint64_t bytes) const {
  if (shard >= begun_.shards.size()) {
    return error::InvalidArgument("shard {} of {}: it has {} shards", shard,
                                  begun_.snapshot.ToString(), begun_.shards.size());
  }
  const uint64_t shard_bytes = begun_.shards[shard].bytes;
  if (offset > shard_bytes || bytes > shard_bytes - offset) {
    return error::InvalidArgument("bytes [{}, +{}) lie outside shard {} of {} bytes", offset, bytes,
                                  shard, shard_bytes);
  }
  return absl::OkStatus();
}

Task<absl::Status> RestoreReader::Ensure(uint32_t shard, uint64_t offset, uint64_t bytes) {
  GEMEL_CO_RETURN_IF_ERROR(CheckRange(shard, offset, bytes));
  if (bytes == 0) {
    co_return absl::OkStatus();
  }
  const auto end = static_cast<uint32_t>(ChunkCount(offset + bytes));
  GEMEL_CHECK_LE(end, chunks_[shard].size());
  std::vector<Task<absl::Status>> fetches;
  for (auto chunk = static_cast<uint32_t>(offset / kChunkBytes); chunk < end;) {
    if (chunks_[shard][chunk].here) {
      ++chunk;
      continue;
    }
    uint32_t count = 1;
    while (count < kFetchChunksMax && chunk + count < end && !chunks_[shard][chunk + count].here) {
      ++count;
    }
    fetches.push_back(FetchRange(shared_from_this(), shard, chunk, count));
    GEMEL_CHECK_LE(count, kFetchChunksMax);
    chunk += count;
  }
  std::vector<absl::Status> statuses = co_await Gather(link_->loop(), std::move(fetches));
  co_return FirstError(statuses);
}

Task<absl::Status> RestoreReader::FetchRange([[maybe_unused]] std::shared_ptr<RestoreReader> self,
                                             uint32_t shard, uint32_t first_chunk, uint32_t count) {
  const bool acquired = co_await window_.Acquire(1, deadline_);
  if (!acquired) {
    co_return error::DeadlineExceeded("chunk {} of shard {} of {} was not fetched in time",
                                      first_chunk, shard, begun_.snapshot.ToString());
  }
  FetchChunks message;
  message.restore = begun_.restore;
  message.shard = shard;
  message.first_chunk = first_chunk;
  message.count = count;
  auto reply = co_await link_->Call<FetchChunksReply>(FrameType::kFetchChunks, message, deadline_);
  window_.Release(1);
  if (!reply.ok()) {
    co_return reply.status();
  }
  co_return Install(message, reply->first, reply->second);
}

absl::Status RestoreReader::Install(const FetchChunks& asked, const FetchChunksReply& reply,
                                    const Handles& handles) {
  if (reply.pieces.size() != asked.count || reply.digests.size() != asked.count) {
    return error::Internal("{} chunks were asked for, {} came", asked.count, reply.pieces.size());
  }
  GEMEL_RETURN_IF_ERROR(link_->Keep(reply.pieces, handles));
  GEMEL_ASSIGN_OR_RETURN(std::vector<MutableByteSpan> places,
                         link_->Place(reply.pieces, Access::kRead));
  GEMEL_CHECK_EQ(places.size(), asked.count);
  const uint64_t shard_bytes = begun_.shards[asked.shard].bytes;
  for (uint32_t i = 0; i < asked.count; ++i) {
    const uint64_t at = uint64_t{asked.first_chunk + i} * kChunkBytes;
    if (places[i].size() != std::min(kChunkBytes, shard_bytes - at)) {
      return error::Internal("chunk {} of shard {} came with {} bytes", asked.first_chunk + i,
                             asked.shard, places[i].size());
    }
    Chunk& chunk = chunks_[asked.shard][asked.first_chunk + i];
    chunk.bytes = places[i];
    chunk.digest = reply.digests[i];
    chunk.here = true;
  }
  local_bytes_ += reply.local_bytes;
  peer_bytes_ += reply.peer_bytes;
  return absl::OkStatus();
}

absl::Status RestoreReader::CopyOut(uint32_t shard, uint64_t offset, MutableByteSpan destination) {
  GEMEL_RETURN_IF_ERROR(CheckRange(shard, offset, destination.size()));
  while (!destination.empty()) {
    const auto index = static_cast<uint32_t>(offset / kChunkBytes);
    const Chunk& chunk = chunks_[shard][index];
    GEMEL_CHECK(chunk.here) << "chunk " << index << " of shard " << shard << " was not ensured";
    const size_t at = offset % kChunkBytes;
    GEMEL_CHECK_LT(at, chunk.bytes.size()) << "chunk " << index << " of shard " << shard;
    const size_t size = std::min(destination.size(), chunk.bytes.size() - at);
    GEMEL_RETURN_IF_ERROR(CopyFromChunk(shard, index, at, destination.first(size)));
    destination = destination.subspan(size);
    offset += size;
  }
  return absl::OkStatus();
}

absl::Status RestoreReader::CopyFromChunk(uint32_t shard, uint32_t index, size_t at,
                                          MutableByteSpan destination) {
  Chunk& chunk = chunks_[shard][index];
  const bool whole = destination.size() == chunk.bytes.size();
  if (!chunk.verified) {
    const Digest128 found =
        whole ? CopyAndDigest(destination.data(), chunk.bytes.data(), destination.size())
              : Xxh3_128(chunk.bytes);
    if (found != chunk.digest) {
      if (whole) {
        std::ranges::fill(destination, std::byte{0});
      }
      return error::DataLoss(
          "chunk {} of shard {} of {} hashes to {}, not {}: this host's memory changed it", index,
          shard, begun_.snapshot.ToString(), ToHex(found), ToHex(chunk.digest));
    }
    chunk.verified = true;
    if (whole) {
      CountCopied(destination.size());
      return absl::OkStatus();
    }
  }
  CopyState(destination.data(), chunk.bytes.data() + at, destination.size());
  return absl::OkStatus();
}

Task<absl::Status> RestoreReader::Report(bool verified, std::vector<uint32_t> unreadable,
                                         std::string why) {
  ReportRestore message;
  message.restore = begun_.restore;
  message.verified = verified;
  reported_unreadable_ = !verified;
  message.unreadable_shards = std::move(unreadable);
  message.why = std::move(why);
  const TimePoint reply_by = Add(link_->loop()->Now(), kCallGrace);
  auto reply =
      co_await link_->Call<Acknowledged>(FrameType::kReportRestore, std::move(message), reply_by);
  co_return reply.status();
}

Task<absl::StatusOr<RestoreEnd>> RestoreReader::AwaitEnd(TimePoint deadline) {
  const TimePoint again_at = Add(link_->loop()->Now(), kReadAgainAfter);
  const TimePoint until = reported_unreadable_ ? std::min(deadline, again_at) : deadline;
  while (true) {
    AwaitRestore message;
    message.restore = begun_.restore;
    message.wait_ms = HoldFor(link_->loop(), until);
    const TimePoint reply_by =
        Add(link_->loop()->Now(), std::chrono::milliseconds(message.wait_ms) + kCallGrace);
    auto reply =
        co_await link_->Call<AwaitRestoreDone>(FrameType::kAwaitRestore, message, reply_by);
    if (!reply.ok()) {
      co_return reply.status();
    }
    if (reply->first.outcome != RestoreOutcome::kPending) {
      co_return RestoreEnd{.moved = reply->first.outcome == RestoreOutcome::kMoved,
                           .lost = std::move(reply->first.lost)};
    }
    if (reported_unreadable_ && link_->loop()->Now() >= until && until < deadline) {
      Sometimes(Situation::kReadAgain);
      co_return RestoreEnd{.read_again = true};
    }
    if (link_->loop()->Now() >= deadline) {
      co_return error::DeadlineExceeded("restoring {} is not verified by all ranks yet: {}",
                                        begun_.snapshot.ToString(), reply->first.progress);
    }
  }
}

Task<absl::Status> RestoreReader::Release() {
  ReleaseRestore message;
  message.restore = begun_.restore;
  const TimePoint reply_by = Add(link_->loop()->Now(), kCallGrace);
  auto reply = co_await link_->Call<Acknowledged>(FrameType::kReleaseRestore, message, reply_by);
  co_return reply.status();
}

}  // namespace gemel

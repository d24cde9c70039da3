// SPDX-License-Identifier: Apache-2.0
#include "client/core/shard_fill.h"

#include <algorithm>
#include <utility>

#include "common/check.h"
#include "common/errors.h"
#include "common/points.h"
#include "common/status_macros.h"

namespace gemel {
namespace {

constexpr uint32_t kReportChunksMax = 4096;  // digests in one report: 64 KiB

absl::Status CheckPlaces(const std::vector<MutableByteSpan>& places, uint64_t wanted) {
  uint64_t bytes = 0;
  for (size_t i = 0; i < places.size(); ++i) {
    bytes += places[i].size();
    const bool whole = i + 1 == places.size() || places[i].size() % kChunkBytes == 0;
    if (!whole) {
      return error::Internal("piece {} of {} bytes splits a chunk", i, places[i].size());
    }
  }
  return bytes == wanted
             ? absl::OkStatus()
             : error::Internal("the server gave {} bytes for a shard of {}", bytes, wanted);
}

}  // namespace

ShardFill::ShardFill(std::shared_ptr<Link> link, Given given,
                     const std::vector<MutableByteSpan>& places)
    : link_(std::move(link)),
      given_(std::move(given)),
      filler_(places, given_.bytes),
      report_turn_(link_->loop(), 1),
      use_(link_->UseMemory()) {}

Task<absl::StatusOr<std::shared_ptr<ShardFill>>> ShardFill::Start(std::shared_ptr<Link> link,
                                                                  Given given, Handles handles) {
  GEMEL_CO_RETURN_IF_ERROR(link->Keep(given.pieces, handles));
  GEMEL_CO_RETURN_IF_ERROR(co_await Link::FetchOwed(link, given.pieces));
  GEMEL_CO_ASSIGN_OR_RETURN(std::vector<MutableByteSpan> places,
                            link->Place(given.pieces, Access::kReadWrite));
  GEMEL_CO_RETURN_IF_ERROR(CheckPlaces(places, given.bytes));
  Loop* const loop = link->loop();
  std::shared_ptr<ShardFill> fill(new ShardFill(std::move(link), std::move(given), places));
  loop->Spawn(ReportWhileFilling(fill));
  co_return fill;
}

Task<void> ShardFill::ReportWhileFilling(std::shared_ptr<ShardFill> self) {
  co_await self->link_->loop()->Sleep(kReportAfter);
  while (self->filling_ && self->report_status_.ok()) {
    const bool late = Buggify(BuggifySite::kReportLate);
    co_await self->link_->loop()->Sleep(late ? 30 * kReportEvery : kReportEvery);
    if (self->filling_ && self->filler_.filled() > self->reported_) {
      absl::Status status = co_await ReportNew(self);
      self->report_status_.Update(status);
    }
  }
}

Task<absl::Status> ShardFill::ReportNew(std::shared_ptr<ShardFill> self) {
  Link* const link = self->link_.get();
  const bool my_turn = co_await self->report_turn_.Acquire(1, kTimeNever);
  GEMEL_CHECK(my_turn);
  absl::Status status = self->report_status_;
  while (status.ok() && self->reported_ < self->filler_.filled()) {
    ChunksFilled message;
    message.upload = self->given_.upload;
    message.first_chunk = self->reported_;
    const uint32_t count = std::min(self->filler_.filled() - self->reported_, kReportChunksMax);
    for (uint32_t i = 0; i < count; ++i) {
      message.digests.push_back(self->filler_.digest(self->reported_ + i));
    }
    self->reported_ += count;
    const TimePoint deadline = Add(link->loop()->Now(), kCallGrace);
    auto reply =
        co_await link->Call<Acknowledged>(FrameType::kChunksFilled, std::move(message), deadline);
    status = reply.status();
  }
  self->report_turn_.Release(1);
  co_return status;
}

Task<absl::StatusOr<bool>> ShardFill::Pin(std::shared_ptr<ShardFill> fill, Device* device) {
  // While it is filled its memory stays mapped; after a Stop() nothing is to be registered.
  const std::shared_ptr<void> use = fill->use_;
  const bool all = use != nullptr && co_await Link::Pin(fill->link_, fill->given_.pieces, device);
  fill->pinned_ = all;
  co_return all;
}

absl::Status ShardFill::Finish() {
  GEMEL_CHECK(filling_) << "upload " << given_.upload << " is sealed or aborted already";
  if (!filler_.complete()) {
    return error::FailedPrecondition("{} of {} bytes were written before the seal",
                                     filler_.appended(), given_.bytes);
  }
  filling_ = false;
  const absl::Status read_only = link_->MakeReadOnly(given_.pieces);
  use_ = read_only.ok() ? nullptr : std::move(use_);
  return read_only;
}

void ShardFill::PrepareNext() { link_->loop()->Spawn(Prepare(link_, given_.bytes)); }

Task<void> ShardFill::Prepare(std::shared_ptr<Link> link, uint64_t bytes) {
  PrepareSlabs message;
  message.bytes = bytes;
  const TimePoint deadline = Add(link->loop()->Now(), kCallGrace);
  auto reply = co_await link->Call<PrepareSlabsReply>(FrameType::kPrepareSlabs, message, deadline);
  if (reply.ok() && link->Keep(reply->first.pieces, reply->second).ok()) {
    // Only warmth: when it fails, the next open maps them on its own path and reports the error.
    link->Place(reply->first.pieces, Access::kReadWrite).status().IgnoreError();
  }
}

}  // namespace gemel

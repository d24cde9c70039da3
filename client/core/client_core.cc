// SPDX-License-Identifier: Apache-2.0
#include "client/core/client_core.h"

#include <algorithm>

#include "common/errors.h"
#include "common/points.h"

namespace gemel {

uint32_t HoldFor(Loop* loop, TimePoint deadline) {
  const TimePoint now = loop->Now();
  if (deadline <= now || Buggify(BuggifySite::kHoldNot)) {
    return 0;
  }
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - now).count();
  return static_cast<uint32_t>(std::min<int64_t>(left, kHoldMs));
}

Task<absl::StatusOr<std::shared_ptr<Link>>> ClientCore::Connected(TimePoint deadline) {
  if (link_ != nullptr && link_->open()) {
    co_return link_;
  }
  absl::StatusOr<std::shared_ptr<Link>> link =
      co_await Link::Connect(loop_, net_, host_, address_, deadline);
  if (link.ok()) {
    link_ = *link;
  }
  co_return link;
}

Task<absl::StatusOr<EpochId>> ClientCore::AcquireEpoch(std::string job, EpochToken token,
                                                       TimePoint deadline) {
  GEMEL_CO_ASSIGN_OR_RETURN(std::shared_ptr<Link> link, co_await Connected(deadline));
  // gemel::AcquireEpoch is the message; here it would name this function.
  struct gemel::AcquireEpoch message;
  message.job = job;
  message.token = token;
  auto reply =
      co_await link->Call<AcquireEpochDone>(FrameType::kAcquireEpoch, std::move(message), deadline);
  if (!reply.ok()) {
    co_return reply.status();
  }
  tokens_[job] = token;
  co_return reply->first.epoch;
}

Task<absl::StatusOr<std::vector<ListedSnapshot>>> ClientCore::List(std::string job,
                                                                   TimePoint deadline) {
  GEMEL_CO_ASSIGN_OR_RETURN(std::shared_ptr<Link> link, co_await Connected(deadline));
  ListSnapshots message;
  message.job = std::move(job);
  auto reply = co_await link->Call<ListSnapshotsReply>(FrameType::kListSnapshots,
                                                       std::move(message), deadline);
  if (!reply.ok()) {
    co_return reply.status();
  }
  co_return std::move(reply->first.snapshots);
}

Task<absl::Status> ClientCore::Remove(std::string job, std::string name, TimePoint deadline) {
  GEMEL_CO_ASSIGN_OR_RETURN(std::shared_ptr<Link> link, co_await Connected(deadline));
  RemoveSnapshot message;
  message.job = std::move(job);
  message.name = std::move(name);
  auto reply =
      co_await link->Call<Acknowledged>(FrameType::kRemoveSnapshot, std::move(message), deadline);
  co_return reply.status();
}

absl::StatusOr<EpochToken> ClientCore::TokenOf(const std::string& job) const {
  auto found = tokens_.find(job);
  if (found == tokens_.end()) {
    return error::FailedPrecondition("acquire the epoch of job {} before saving or restoring it",
                                     job);
  }
  return found->second;
}

void ClientCore::Close() {
  if (link_ != nullptr) {
    link_->Close();
    link_ = nullptr;
  }
}

}  // namespace gemel

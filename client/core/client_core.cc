// SPDX-License-Identifier: Apache-2.0
#include "client/core/client_core.h"

#include <algorithm>

#include "common/errors.h"
#include "common/points.h"

namespace gemel {
namespace {

constexpr Duration kReconnectPauseMin = 5ms;
constexpr Duration kReconnectPauseMax = 200ms;
constexpr size_t kReclaimedPerCallMax = 64;

}  // namespace

uint32_t HoldFor(Loop* loop, TimePoint deadline) {
  const TimePoint now = loop->Now();
  if (deadline <= now || Buggify(BuggifySite::kHoldNot)) {
    return 0;
  }
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - now).count();
  return static_cast<uint32_t>(std::min<int64_t>(left, kHoldMs));
}

Task<absl::StatusOr<std::shared_ptr<Link>>> ClientCore::Connected(TimePoint deadline) {
  while (connecting_) {
    const bool told = co_await connected_.WaitUntil(deadline);
    if (!told && connecting_) {
      co_return error::DeadlineExceeded("the server at {} did not answer in time", address_);
    }
  }
  if (link_ == nullptr || !link_->open()) {
    connecting_ = true;
    const absl::Status connected = co_await Reconnect(deadline);
    connecting_ = false;
    connected_.NotifyAll();
    GEMEL_CO_RETURN_IF_ERROR(connected);
  }
  co_await ReclaimLost();
  co_return link_;
}

Task<absl::Status> ClientCore::Reconnect(TimePoint deadline) {
  const bool was_there = link_ != nullptr;
  const TimePoint patience = Add(loop_->Now(), was_there ? kReconnectPatience : Duration::zero());
  const TimePoint give_up = std::min(patience, deadline);
  Duration pause = kReconnectPauseMin;
  while (true) {
    absl::StatusOr<std::shared_ptr<Link>> link =
        co_await Link::Connect(loop_, net_, host_, address_, deadline);
    if (link.ok()) {
      if (link_ != nullptr) {
        lost_.push_back({link_, link_->server().holder});
      }
      link_ = *std::move(link);
      co_return absl::OkStatus();
    }
    const bool again = link.status().code() == absl::StatusCode::kUnavailable &&
                       Add(loop_->Now(), pause) < give_up;
    GEMEL_CO_RETURN_IF_ERROR(again ? absl::OkStatus() : link.status());
    co_await loop_->Sleep(pause);
    pause = std::min(2 * pause, kReconnectPauseMax);
  }
}

// What fails now is tried again at the next call.
Task<void> ClientCore::ReclaimLost() {
  ReclaimSlabs message;
  for (const LostLink& lost : lost_) {
    const std::shared_ptr<Link> link = lost.link.lock();
    const bool unmapped = link == nullptr || link->GiveUpMemory();
    if (unmapped && message.holders.size() < kReclaimedPerCallMax) {
      message.holders.push_back(lost.holder);
    }
  }
  if (message.holders.empty()) {
    co_return;
  }
  const std::vector<uint64_t> given_up = message.holders;
  const std::shared_ptr<Link> link = link_;
  const TimePoint deadline = Add(loop_->Now(), kCallGrace);
  auto reply =
      co_await link->Call<Acknowledged>(FrameType::kReclaimSlabs, std::move(message), deadline);
  if (reply.ok()) {
    std::erase_if(lost_, [&given_up](const LostLink& lost) {
      return std::find(given_up.begin(), given_up.end(), lost.holder) != given_up.end();
    });
  }
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

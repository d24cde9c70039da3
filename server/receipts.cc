// SPDX-License-Identifier: Apache-2.0
#include "server/receipts.h"

#include <utility>

#include "common/check.h"
#include "common/errors.h"
#include "common/points.h"

namespace gemel {

Receipts::Receipts(const ServerSeams& seams, Control* control, const ObjectTable* objects)
    : seams_(seams), control_(control), objects_(objects), added_(seams.loop) {
  GEMEL_CHECK(control != nullptr && objects != nullptr);
}

void Receipts::Add(const Object& object) {
  GEMEL_CHECK(object.state() == ObjectState::kSealed) << object.shard().ToString();
  pending_.insert(object.shard());
  added_.NotifyAll();
}

void Receipts::Hold(bool held) {
  joins_ += 1;
  held_ = held;
  added_.NotifyAll();
}

Task<void> Receipts::Run(Gate* gate) {
  Gate::Pass pass = gate->Enter();
  RetryDelay delay;
  while (pass && !gate->closed()) {
    if (pending_.empty() || held_) {
      co_await added_.WaitUntil(kTimeNever);
      // Everything that is sealed in this turn goes along.
      co_await seams_.loop->Yield();
      continue;
    }
    const uint64_t joins = joins_;
    const absl::Status sent = co_await SendBatch();
    if (sent.ok()) {
      delay.Reset();
      continue;
    }
    const bool refused = sent.code() == absl::StatusCode::kFailedPrecondition;
    if (refused && joins == joins_ && not_member_) {  // else a join overtook it
      not_member_();
    }
    seams_.events->Emit(
        Severity::kWarning, "receipts_delayed",
        fmt::format("{} receipts are not acknowledged: {}", pending_.size(), ToText(sent)));
    co_await seams_.loop->Sleep(delay.Next());
  }
}

Task<absl::Status> Receipts::SendBatch() {
  pb::ReportReceiptsRequest request;
  std::vector<ShardId> batch;
  for (auto at = pending_.begin(); at != pending_.end() && batch.size() < kReceiptsPerCallMax;) {
    const std::shared_ptr<Object> object = objects_->Find(*at);
    if (object == nullptr || object->state() != ObjectState::kSealed) {
      at = pending_.erase(at);
      continue;
    }
    WriteHeldObject(*object, request.add_receipts()->mutable_object());
    batch.push_back(*at);
    ++at;
  }
  GEMEL_CHECK_LE(batch.size(), kReceiptsPerCallMax);
  if (batch.empty()) {
    co_return absl::OkStatus();
  }
  Reach(CrashPoint::kReceiptSending);
  absl::StatusOr<pb::ReportReceiptsReply> reply =
      co_await control_->Call<pb::ReportReceiptsReply>("ReportReceipts", std::move(request), 0s);
  if (!reply.ok()) {
    co_return reply.status();
  }
  Reach(CrashPoint::kReceiptSent);
  for (const ShardId& shard : batch) {
    pending_.erase(shard);
  }
  Apply(*reply);
  co_return absl::OkStatus();
}

void Receipts::Apply(const pb::ReportReceiptsReply& reply) {
  for (const auto& retarget : reply.retargets()) {
    absl::StatusOr<std::vector<PeerMember>> holders = ReadPeerMembers(retarget.holders());
    if (!holders.ok()) {
      seams_.events->Emit(Severity::kError, "retarget_refused", ToText(holders.status()));
      continue;
    }
    if (retarget_) {
      retarget_(ReadShardId(retarget.shard()), *std::move(holders));
    }
  }
}

}  // namespace gemel

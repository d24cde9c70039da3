// SPDX-License-Identifier: Apache-2.0
//
// VerifySnapshot: every holder hashes its copies again; a damaged one stops counting and is
// repaired.
#include <algorithm>

#include "common/check.h"
#include "common/errors.h"
#include "placement/manager/core.h"

namespace gemel {
namespace {

// What the answers of one call go into. Shared by the call and the directives that outlive it.
struct Verification {
  explicit Verification(Loop* loop) : changed(loop) {}

  pb::VerifySnapshotReply reply;
  size_t missing = 0;
  WaitQueue changed;
};

}  // namespace

PlacementCore::Answer<pb::VerifySnapshotReply> PlacementCore::VerifySnapshot(
    CallPtr call, pb::VerifySnapshotRequest request) {
  GEMEL_CO_RETURN_IF_ERROR(CheckServing());
  GEMEL_CO_ASSIGN_OR_RETURN(Job * job, KnownJob(request.job()));
  GEMEL_CO_ASSIGN_OR_RETURN(Committed * snapshot, FindSnapshot(job, request.name()));
  const SnapshotId id = snapshot->record.snapshot;
  const HolderTable holders = HoldersOf(*snapshot);
  auto verification = std::make_shared<Verification>(loop_);
  ToProto(id, verification->reply.mutable_snapshot());
  for (uint32_t rank = 0; rank < holders.size(); ++rank) {
    for (const ServerId& server : holders[rank]) {
      MemberEntry* member = FindMember(server);
      const int index = verification->reply.copies_size();
      pb::VerifySnapshotReply::Copy* copy = verification->reply.add_copies();
      copy->set_rank(rank);
      copy->set_why("no answer yet");
      MemberToProto(server, copy->mutable_holder());
      const auto held = member->held.find(KeyOf(id));
      if (held == member->held.end() || member->directives.size() >= kDirectivesMax / 2) {
        copy->set_why("its queue is full; verify again");
        verification->missing += 1;
        continue;
      }
      QueuedDirective directive;
      HeldToProto({id, rank}, held->second.at(rank),
                  directive.body.mutable_verify_shard()->mutable_object());
      verification->missing += 1;
      directive.done = [this, verification, index, server,
                        shard = ShardId{id, rank}](const pb::DirectiveResult& result) {
        pb::VerifySnapshotReply::Copy* answered = verification->reply.mutable_copies(index);
        answered->set_good(result.code() == 0);
        answered->set_why(result.message());
        verification->missing -= 1;
        verification->changed.NotifyAll();
        const auto code = static_cast<absl::StatusCode>(result.code());
        MemberEntry* holder = FindMember(server);
        if (holder != nullptr &&
            (code == absl::StatusCode::kDataLoss || code == absl::StatusCode::kNotFound)) {
          CopyGone(holder, shard, result.message());
        }
      };
      Direct(member, std::move(directive));
    }
  }
  const TimePoint deadline = HoldUntil(request.wait_ms());
  while (verification->missing > 0 && !stopping_ && !call->cancelled() && loop_->Now() < deadline) {
    // Short waits: a holder that dies never answers, and Stop() must not wait for it.
    const TimePoint recheck = Add(loop_->Now(), 200ms);
    co_await verification->changed.WaitUntil(std::min(deadline, recheck));
  }
  verification->reply.set_complete(verification->missing == 0);
  co_return verification->reply;
}

}  // namespace gemel

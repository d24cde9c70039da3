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
  size_t missing = 0;  // copies without an answer
  size_t open = 0;     // questions whose directive is still there
  WaitQueue changed;
};

// Asks about one copy. It goes with its directive: answered, or because the holder died or joined
// again, after which no answer comes.
class Question {
 public:
  Question(std::shared_ptr<Verification> verification, int index)
      : verification_(std::move(verification)), index_(index) {
    verification_->missing += 1;
    verification_->open += 1;
  }

  Question(const Question&) = delete;
  Question& operator=(const Question&) = delete;

  ~Question() {
    if (!answered_) {
      copy()->set_why("its server died or joined again; verify again");
    }
    verification_->open -= 1;
    verification_->changed.NotifyAll();
  }

  void Answer(const pb::DirectiveResult& result) {
    GEMEL_CHECK(!answered_);
    answered_ = true;
    copy()->set_good(result.code() == 0);
    copy()->set_why(result.message());
    verification_->missing -= 1;
  }

 private:
  pb::VerifySnapshotReply::Copy* copy() { return verification_->reply.mutable_copies(index_); }

  const std::shared_ptr<Verification> verification_;
  const int index_;
  bool answered_ = false;
};

}  // namespace

PlacementCore::Answer<pb::VerifySnapshotReply> PlacementCore::VerifySnapshot(
    CallPtr call, pb::VerifySnapshotRequest request) {
  GEMEL_CO_RETURN_IF_ERROR(CheckServing());
  GEMEL_CO_ASSIGN_OR_RETURN(Job * job, KnownJob(request.job()));
  GEMEL_CO_ASSIGN_OR_RETURN(Committed * snapshot, FindSnapshot(job, request.name()));
  const SnapshotId id = snapshot->record.snapshot;
  const HolderTable holders = SourcesOf(*snapshot);
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
      const bool gone = !member->held.contains(KeyOf(id)) && !member->disk.contains(KeyOf(id));
      if (gone || member->directives.size() >= kDirectivesMax / 2) {
        copy->set_why("its queue is full; verify again");
        verification->missing += 1;
        continue;
      }
      QueuedDirective directive;
      HeldToProto({id, rank}, CopyAt(*member, {id, rank}),
                  directive.body.mutable_verify_shard()->mutable_object());
      directive.done = [this, question = std::make_shared<Question>(verification, index), server,
                        shard = ShardId{id, rank}](const pb::DirectiveResult& result) {
        question->Answer(result);
        TakeVerdict(server, shard, result);
      };
      Direct(member, std::move(directive));
    }
  }
  const TimePoint deadline = HoldUntil(request.wait_ms());
  while (verification->open > 0 && !stopping_ && !call->cancelled() && loop_->Now() < deadline) {
    // Short waits: a holder that hangs answers late, and Stop() must not wait for it.
    const TimePoint recheck = Add(loop_->Now(), 200ms);
    co_await verification->changed.WaitUntil(std::min(deadline, recheck));
  }
  verification->reply.set_complete(verification->missing == 0);
  co_return verification->reply;
}

}  // namespace gemel

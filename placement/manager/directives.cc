// SPDX-License-Identifier: Apache-2.0
//
// Directives: ordered work for one incarnation, told in a long poll until it is acknowledged. The
// end of the poll's connection is the fast sign of a dead server.
#include <algorithm>

#include "common/check.h"
#include "common/errors.h"
#include "common/points.h"
#include "placement/manager/core.h"

namespace gemel {

// At the bound the queue is given up and the member must join again: joining reconciles all.
void PlacementCore::Direct(MemberEntry* member, QueuedDirective directive) {
  if (!member->alive() || member->must_rejoin) {
    return;
  }
  if (member->directives.size() >= kDirectivesMax) {
    Emit(Severity::kError, "directive_queue_full",
         fmt::format("server {} leaves {} directives unanswered; it has to join again",
                     member->record.name, member->directives.size()));
    ForgetSoftState(member);
    member->must_rejoin = true;
    return;
  }
  GEMEL_CHECK(member->directives.empty() ||
              member->directives.back().body.id() < member->next_directive)
      << member->record.name;
  directive.body.set_id(member->next_directive++);
  member->directives.push_back(std::move(directive));
  member->wake.NotifyAll();
}

void PlacementCore::TakeResults(MemberEntry* member, const pb::DirectivesRequest& request) {
  for (const pb::DirectiveResult& result : request.results()) {
    const auto found = std::find_if(
        member->directives.begin(), member->directives.end(),
        [&](const QueuedDirective& queued) { return queued.body.id() == result.id(); });
    if (found == member->directives.end()) {
      continue;  // acknowledged before: the reply was lost
    }
    const QueuedDirective::Done done = std::move(found->done);
    member->directives.erase(found);
    if (done) {
      done(result);
    }
  }
}

// True when the reply has something to do. What was sent lately is not sent again at once: the
// server may still be at it.
bool PlacementCore::FillDirectives(MemberEntry* member, pb::DirectivesReply* reply) {
  const TimePoint now = loop_->Now();
  const bool resend = now >= Add(member->last_sent_at, kDirectiveResend);
  size_t bytes = 0;
  bool outstanding = false;  // told before, and not acknowledged
  for (const QueuedDirective& queued : member->directives) {
    if (!resend && queued.body.id() <= member->last_sent) {
      outstanding = true;
      continue;
    }
    const size_t size =
        queued.body.ByteSizeLong() + (queued.manifest ? queued.manifest->size() : 0);
    const auto count = static_cast<size_t>(reply->directives_size());
    const size_t count_max = Buggify(BuggifySite::kDirectiveOne) ? 1 : kDirectivesReplyMax;
    if (count >= count_max || (count > 0 && bytes + size > kDirectiveBytesMax)) {
      break;
    }
    bytes += size;
    pb::Directive* out = reply->add_directives();
    *out = queued.body;
    if (queued.manifest != nullptr) {
      std::string* manifest = out->has_persist_shard()
                                  ? out->mutable_persist_shard()->mutable_manifest()
                                  : out->mutable_store_commit()->mutable_manifest();
      *manifest = *queued.manifest;
    }
    member->last_sent = queued.body.id();
  }
  // New ones do not put off the oldest: the reply that told it may be lost.
  if (reply->directives_size() > 0 && (resend || !outstanding)) {
    member->last_sent_at = now;
  }
  return reply->directives_size() > 0;
}

PlacementCore::Answer<pb::DirectivesReply> PlacementCore::Directives(
    CallPtr call, pb::DirectivesRequest request) {
  pb::DirectivesReply reply;
  reply.set_generation(cluster_.generation);
  reply.set_term(ObeyedTerm());
  const absl::StatusOr<MemberEntry*> present = Present(request.caller());
  if (!present.ok()) {
    if (present.status().code() != absl::StatusCode::kFailedPrecondition) {
      co_return present.status();
    }
    reply.set_rejoin(true);
    co_return reply;
  }
  const ServerId id = (*present)->record.id;
  const Incarnation incarnation = (*present)->record.incarnation;
  TakeResults(*present, request);
  call->OnCallerGone([this, id, incarnation] {
    MemberEntry* member = FindMember(id);
    if (!stopping_ && member != nullptr && member->alive() &&
        member->record.incarnation == incarnation) {
      member->last_sent = 0;
      Suspect(member, "its connection broke");
    }
  });
  const TimePoint deadline = HoldUntil(request.wait_ms());
  while (!stopping_ && !call->cancelled()) {
    MemberEntry* member = FindMember(id);
    if (member == nullptr || !member->alive() || member->record.incarnation != incarnation ||
        !member->reported || member->must_rejoin) {
      reply.set_rejoin(true);
      co_return reply;
    }
    if (FillDirectives(member, &reply)) {
      co_return reply;
    }
    const TimePoint resend_at = Add(member->last_sent_at, kDirectiveResend);
    const TimePoint until = member->directives.empty() ? deadline : std::min(deadline, resend_at);
    co_await member->wake.WaitUntil(until);
    if (loop_->Now() >= deadline) {
      break;
    }
  }
  co_return reply;
}

void PlacementCore::DropStagingAt(MemberEntry* member, const SnapshotId& id, std::string_view why) {
  QueuedDirective directive;
  ToProto(id, directive.body.mutable_drop_staging()->mutable_snapshot());
  directive.body.mutable_drop_staging()->set_why(std::string(why));
  Direct(member, std::move(directive));
}

void PlacementCore::DropStagingEverywhere(const SnapshotId& id, std::string_view why) {
  for (auto& [server, member] : members_) {
    member->held.erase(KeyOf(id));
    DropStagingAt(member.get(), id, why);
  }
}

// The bytes count as in flight until the server has dropped them.
void PlacementCore::DropSnapshotAt(MemberEntry* member, const SnapshotId& id) {
  uint64_t bytes = 0;
  if (const auto held = member->held.find(KeyOf(id)); held != member->held.end()) {
    for (const auto& [rank, copy] : held->second) {
      bytes += copy.bytes;
    }
  }
  member->held.erase(KeyOf(id));
  member->records.erase(KeyOf(id));
  member->dropping_bytes += bytes;
  QueuedDirective directive;
  ToProto(id, directive.body.mutable_drop_snapshot()->mutable_snapshot());
  const ServerId server = member->record.id;
  directive.done = [this, server, bytes, job = id.job](const pb::DirectiveResult&) {
    MemberEntry* dropped = FindMember(server);
    GEMEL_CHECK(dropped != nullptr && dropped->dropping_bytes >= bytes) << server.ToShort();
    dropped->dropping_bytes -= bytes;
    if (Job* found = FindJob(job); found != nullptr) {
      found->changed.NotifyAll();
    }
  };
  Direct(member, std::move(directive));
}

void PlacementCore::DropEverywhere(const SnapshotId& id) {
  for (auto& [server, member] : members_) {
    if (member->held.contains(KeyOf(id)) || member->records.contains(KeyOf(id))) {
      DropSnapshotAt(member.get(), id);
    }
  }
}

}  // namespace gemel

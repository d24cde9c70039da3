// SPDX-License-Identifier: Apache-2.0
//
// Who is alive (DESIGN section 5). Silence or a broken long poll is suspicion; a probe of the data
// address or more silence is the verdict. Suspicion deletes nothing; death takes a member out of
// new work, and its copies are asked for again when it joins.
#include <algorithm>
#include <utility>

#include "common/check.h"
#include "common/errors.h"
#include "common/points.h"
#include "placement/manager/core.h"
#include "transport/addresses.h"

namespace gemel {
namespace {

constexpr uint64_t kMemberLagMaxMs = 2000;  // a member's own starvation stretches its time so far
constexpr Duration kSentWithin = 5s;        // what was sealed under a former manager
constexpr Duration kStoreRetry = 200ms;
constexpr Duration kMaintainEvery = 1s;
constexpr Duration kProbeAgainMin = 1ms;
constexpr Duration kProbeAgainMax = 16ms;
constexpr Duration kProbeAgainFor = 150ms;

}  // namespace

void PlacementCore::Suspect(MemberEntry* member, std::string_view why) {
  const bool begins = !member->suspect_since.has_value();
  if (begins) {
    member->suspect_since = loop_->Now();
    member->probe_answered = false;
    Emit(Severity::kWarning, "member_suspect",
         fmt::format("server {} is suspected: {}", member->record.name, why));
  }
  if (!member->probing) {
    member->probing = true;
    const Duration again_for = begins ? kProbeAgainFor : Duration::zero();
    SpawnInside(Probe(member->record.id, member->record.incarnation, Add(loop_->Now(), again_for)));
  }
}

// Who is being probed; the probe is over, and null, when it no longer lives as this incarnation.
MemberEntry* PlacementCore::FindProbed(ServerId id, Incarnation incarnation) {
  MemberEntry* member = FindMember(id);
  if (member == nullptr) {
    return nullptr;
  }
  GEMEL_CHECK(member->probing) << member->record.name;
  member->probing = !stopping_ && member->alive() && member->record.incarnation == incarnation;
  return member->probing ? member : nullptr;
}

// Refused: nobody listens, so the process is dead. Anything else leaves it to the heartbeats. One
// that is just dying goes on accepting after its first connection broke, for long where cores are
// busy: it is asked again until then, after pauses that double.
Task<void> PlacementCore::Probe(ServerId id, Incarnation incarnation, TimePoint again_until) {
  Duration pause = kProbeAgainMin;
  for (MemberEntry* member = FindProbed(id, incarnation); member != nullptr;
       member = FindProbed(id, incarnation)) {
    const std::string address = member->record.data_address;
    const TimePoint deadline = Add(loop_->Now(), options_.liveness.probe_timeout);
    const absl::Status status = co_await ProbeAny(loop_, seams_.net, address, deadline);
    member = FindProbed(id, incarnation);
    if (member == nullptr) {
      co_return;
    }
    member->probe_answered = status.ok();
    member->probing = status.ok() && loop_->Now() < again_until;
    if (status.code() == absl::StatusCode::kUnavailable) {
      Die(member, fmt::format("nobody answers at {}: {}", address, MessageOf(status)));
    }
    if (!member->probing) {
      co_return;
    }
    co_await loop_->Sleep(pause);
    pause = std::min(2 * pause, kProbeAgainMax);
  }
}

void PlacementCore::JudgeMember(MemberEntry* member) {
  const LivenessOptions& times = options_.liveness;
  const TimePoint now = loop_->Now();
  if (!member->reported && now < Add(started_, times.startup_grace)) {
    return;
  }
  if (!member->known()) {
    Die(member, "it did not come back after the recovery");
    return;
  }
  const Duration starved = std::chrono::milliseconds(std::min(member->lag_ms, kMemberLagMaxMs));
  const Duration silent = now - member->last_heard - starved;
  if (silent < times.suspect_after && !member->suspect_since.has_value()) {
    return;
  }
  if (silent >= (member->probe_answered ? times.hang_after : times.dead_after)) {
    Die(member,
        fmt::format("not heard{} for {:.0f} ms, its data address {}",
                    member->deaf ? " as one that hears us" : "",
                    Milliseconds(now - member->last_heard),
                    member->probe_answered ? "accepts: the process hangs" : "does not answer"));
    return;
  }
  Suspect(member, fmt::format("not heard for {:.0f} ms", Milliseconds(now - member->last_heard)));
}

void PlacementCore::Die(MemberEntry* member, std::string_view why) {
  GEMEL_CHECK(member->alive()) << member->record.name;
  deaths_.Add(1);
  if (member->probe_answered) {
    Sometimes(Situation::kMemberHangs);
  }
  Emit(Severity::kError, "member_dead",
       fmt::format("server {} ({}), incarnation {}, is dead: {}", member->record.name,
                   member->record.id.ToShort(), member->record.incarnation.ToShort(), why));
  member->record.dead = true;
  member->dead_since = loop_->Now();
  ForgetSoftState(member);
  repair_after_ = Add(loop_->Now(), options_.repair_wait);
  DropReadsOf(member->record.id, member->record.incarnation);
  SpawnInside(RecordDeath(member->record.id, member->record.incarnation));
  MembersChanged();
}

// The map's version grows once the death is durable.
Task<void> PlacementCore::RecordDeath(ServerId id, Incarnation incarnation) {
  while (!stopping_) {
    {
      const LockHold hold = co_await Lock(&map_lock_);
      const MemberEntry* member = FindMember(id);
      if (member == nullptr || member->alive() || member->record.incarnation != incarnation) {
        co_return;
      }
      const uint64_t version = member->version;
      const absl::Status written = co_await WriteMember(member->record, version, false);
      if (written.ok()) {
        Reach(CrashPoint::kDeathDurable);
        MemberEntry* dead = FindMember(id);
        GEMEL_CHECK(dead != nullptr && !dead->alive()) << id.ToShort();
        dead->version = cluster_version_;
        map_changed_.NotifyAll();
        co_return;
      }
      Emit(Severity::kWarning, "store_refused", ToText(written));
    }
    co_await loop_->Sleep(kStoreRetry);
  }
}

// A dead member is listed as long as its copies could matter, and so that people see it.
void PlacementCore::ForgetDead() {
  const TimePoint now = loop_->Now();
  for (const auto& [id, member] : members_) {
    if (member->alive() || now < Add(member->dead_since, options_.liveness.forget_after)) {
      continue;
    }
    bool matters = IsOfRecovery(*member);
    for (const auto& [name, job] : jobs_) {
      for (const auto& [order, snapshot] : job->snapshots) {
        matters = matters || (snapshot.in_memory && !snapshot.full) ||
                  (snapshot.persisted && !IsOnDisk(snapshot, 1));
      }
    }
    if (!matters) {
      member->dead_since = now;
      SpawnInside(Forget(id));
    }
  }
}

Task<void> PlacementCore::Forget(ServerId id) {
  const LockHold hold = co_await Lock(&map_lock_);
  const MemberEntry* member = FindMember(id);
  if (member == nullptr || member->alive()) {
    co_return;
  }
  const uint64_t version = member->version;
  const absl::Status written = co_await WriteMember(member->record, version, true);
  if (written.ok()) {
    GEMEL_CHECK(member->held.empty() && member->directives.empty()) << id.ToShort();
    Emit(Severity::kInfo, "member_forgotten", fmt::format("server {} is forgotten", id.ToShort()));
    members_.erase(id);
    SpawnInside(EndDrain(id));
    map_changed_.NotifyAll();
  }
}

// A save that is late commits with what it has, when that is enough, or fails saying what is
// missing.
void PlacementCore::JudgeAttempt(const std::shared_ptr<Attempt>& attempt) {
  if (attempt->state == AttemptState::kOpen && std::exchange(attempt->members_changed, false)) {
    RetargetAttempt(attempt);
  }
  if (attempt->state != AttemptState::kOpen) {
    return;
  }
  // Its owner may have delivered it under the former manager, to a holder that has lost it since.
  const bool stands =
      attempt->recovered && loop_->Now() >= Add(started_, kSentWithin) && AllReported(nullptr);
  for (uint32_t rank = 0; stands && rank < attempt->slots.size(); ++rank) {
    const RankSlot& slot = attempt->slots[rank];
    if (slot.root.has_value() && !slot.full && !slot.pulled && !LiveReceipts(slot).empty()) {
      PullSealed(attempt, rank);
    }
  }
  for (uint32_t rank = 0; attempt->pulls_sealed && rank < attempt->slots.size(); ++rank) {
    if (attempt->slots[rank].pulled && !attempt->slots[rank].full) {
      PullMissing(attempt, rank);
    }
  }
  if (loop_->Now() < attempt->deadline) {
    if (!attempt->store_error.ok() || attempt->enough_count > 0) {
      Consider(attempt);
    }
  } else if (!attempt->store_error.ok()) {
    Abort(attempt, attempt->store_error);
  } else if (attempt->enough_count == attempt->record.world_size) {
    Consider(attempt);
  } else {
    Abort(attempt, error::DeadlineExceeded("{} was aborted: not complete after {} ms: {}",
                                           attempt->id().ToString(), attempt->record.deadline_ms,
                                           Missing(*attempt)));
  }
}

void PlacementCore::JudgeAttempts() {
  for (auto& [name, job] : jobs_) {
    for (auto& [sequence, attempt] : job->attempts) {
      JudgeAttempt(attempt);
    }
  }
}

Task<void> PlacementCore::WatchMembers() {
  const LivenessOptions& times = options_.liveness;
  TimePoint maintained = started_;
  while (!stopping_) {
    co_await loop_->Sleep(times.tick);
    const TimePoint now = loop_->Now();
    const Duration lag = now - last_tick_ - times.tick;
    last_tick_ = now;
    if (!leadership_->Leads()) {
      // Without its store it answers nobody, and hears nobody: that is no silence of theirs.
      started_ = Add(started_, lag + times.tick);
      for (auto& [id, member] : members_) {
        member->last_heard = std::min(now, Add(member->last_heard, lag + times.tick));
      }
      continue;
    }
    if (lag > times.lag_max) {
      // We were starved or paused: heartbeats wait unread. Their senders get our lag as grace.
      started_ = Add(started_, lag);
      for (auto& [id, member] : members_) {
        member->last_heard = std::min(now, Add(member->last_heard, lag));
      }
      Sometimes(Situation::kStarved);
      Emit(Severity::kWarning, "placement_starved",
           fmt::format("this placement was held up for {:.0f} ms; nobody is judged by that time",
                       Milliseconds(lag)));
      continue;
    }
    for (auto& [id, member] : members_) {
      if (member->alive()) {
        JudgeMember(member.get());
      }
    }
    JudgeAttempts();
    ForgetDead();
    if (now >= Add(maintained, kMaintainEvery)) {
      maintained = now;
      MaintainAllSoon();  // what failed is tried again
      DropUnknown();
      CountManifests();
    }
  }
}

}  // namespace gemel

// SPDX-License-Identifier: Apache-2.0
#include "placement/manager/core.h"

#include <algorithm>
#include <utility>

#include "common/check.h"
#include "common/errors.h"
#include "common/points.h"
#include "placement/model/protocol.h"

namespace gemel {

PlacementCore::PlacementCore(PlacementOptions options, PlacementSeams seams, Leadership* leadership)
    : options_(std::move(options)),
      seams_(seams),
      leadership_(leadership),
      loop_(seams.loop),
      map_lock_(seams.loop, 1),
      map_changed_(seams.loop),
      gate_(seams.loop),
      commits_(seams.metrics->Counter("gemel_commits_total", "snapshots committed")),
      aborts_(seams.metrics->Counter("gemel_aborts_total", "saves aborted")),
      deaths_(seams.metrics->Counter("gemel_member_deaths_total", "members declared dead")),
      data_losses_(seams.metrics->Counter("gemel_data_loss_total", "copies or shards found lost")),
      manifest_bytes_(
          seams.metrics->Gauge("gemel_manifest_bytes", "manifests of snapshots in memory")),
      repairs_(seams.metrics->Counter("gemel_repairs_total", "shards copied again")),
      repaired_bytes_(seams.metrics->Counter("gemel_repair_bytes_total", "bytes copied again")),
      backlog_bytes_(seams.metrics->Gauge("gemel_repair_backlog_bytes",
                                          "bytes that repair still has to copy")),
      store_errors_(seams.metrics->Counter("gemel_store_errors_total", "MetaStore refusals")),
      receipts_refused_(
          seams.metrics->Counter("gemel_receipts_refused_total", "receipts not counted")),
      persists_(seams.metrics->Counter("gemel_persists_total", "snapshots brought to disk")),
      persists_given_up_(seams.metrics->Counter("gemel_persists_given_up_total",
                                                "persists that did not come to their end")) {}

PlacementCore::~PlacementCore() {
  GEMEL_CHECK(!began_ || stopping_ || loop_->is_shut_down()) << "Stop() before the destructor";
}

void PlacementCore::Begin() {
  GEMEL_CHECK(!began_ && !stopping_);
  began_ = true;
  ExpectMembers();
  last_tick_ = started_;
  SpawnInside(WatchMembers());
}

// The grace of those that were loaded begins.
void PlacementCore::ExpectMembers() {
  started_ = loop_->Now();
  for (auto& [id, member] : members_) {
    member->last_heard = started_;
    member->next_directive = (leadership_->term() << 32) + 1;
  }
}

template <typename Request, typename Reply,
          PlacementCore::Answer<Reply> (PlacementCore::*method)(PlacementCore::CallPtr, Request)>
Task<absl::StatusOr<std::string>> PlacementCore::Serve(CallPtr call, std::string raw) {
  Request request;
  if (!request.ParseFromString(raw)) {
    co_return error::InvalidArgument("a request of {} bytes does not parse as {}", raw.size(),
                                     Request::descriptor()->name());
  }
  GEMEL_CO_RETURN_IF_ERROR(CheckCaller(request.caller()));
  const absl::StatusOr<Reply> reply = co_await (this->*method)(std::move(call), std::move(request));
  GEMEL_CO_RETURN_IF_ERROR(reply.status());
  co_return reply->SerializeAsString();
}

const std::map<std::string, PlacementCore::Handler>& PlacementCore::Handlers() {
#define GEMEL_METHOD_(name) \
  {#name, &PlacementCore::Serve<pb::name##Request, pb::name##Reply, &PlacementCore::name>}
  static const auto* const kHandlers = new std::map<std::string, Handler>{
      GEMEL_METHOD_(Join),
      GEMEL_METHOD_(Heartbeat),
      GEMEL_METHOD_(Directives),
      GEMEL_METHOD_(AcquireEpoch),
      GEMEL_METHOD_(Open),
      GEMEL_METHOD_(ReportReceipts),
      GEMEL_METHOD_(AwaitCommit),
      GEMEL_METHOD_(AbortSnapshot),
      GEMEL_METHOD_(BeginRestore),
      GEMEL_METHOD_(ReportRestore),
      GEMEL_METHOD_(AwaitRestore),
      GEMEL_METHOD_(WatchMap),
      GEMEL_METHOD_(GetStatus),
      GEMEL_METHOD_(ListJobs),
      GEMEL_METHOD_(ListSnapshots),
      GEMEL_METHOD_(RemoveSnapshots),
      GEMEL_METHOD_(VerifySnapshot),
      GEMEL_METHOD_(Explain),
      GEMEL_METHOD_(Repair),
      GEMEL_METHOD_(Drain),
      GEMEL_METHOD_(BeginRead),
      GEMEL_METHOD_(EndRead),
      GEMEL_METHOD_(PersistSnapshot),
  };
#undef GEMEL_METHOD_
  return *kHandlers;
}

Task<absl::StatusOr<std::string>> PlacementCore::Handle(CallPtr call, std::string method,
                                                        std::string request) {
  GEMEL_CHECK(loop_->OnLoopThread());
  const Gate::Pass pass = gate_.Enter();
  if (!pass || stopping_) {
    co_return error::Unavailable("placement is stopping; try again when it is back");
  }
  const auto handler = Handlers().find(method);
  if (handler == Handlers().end()) {
    co_return error::Unimplemented("method '{}' is not known here; mixed versions?", method);
  }
  co_return co_await (this->*handler->second)(std::move(call), std::move(request));
}

Task<void> PlacementCore::Stop() {
  stopping_ = true;
  NotifyEverything();
  co_await gate_.Close();
}

void PlacementCore::NotifyEverything() {
  map_changed_.NotifyAll();
  for (auto& [id, member] : members_) {
    member->wake.NotifyAll();
  }
  for (auto& [name, job] : jobs_) {
    job->changed.NotifyAll();
    for (auto& [sequence, attempt] : job->attempts) {
      attempt->changed.NotifyAll();
    }
  }
}

std::string PlacementCore::Describe() const {
  return fmt::format("cluster {} generation {}, map {}, {} members, {} jobs",
                     cluster_.cluster.ToHex(), cluster_.generation, cluster_.map_version,
                     members_.size(), jobs_.size());
}

absl::Status PlacementCore::CheckCaller(const pb::Caller& caller) {
  const uint32_t spoken = caller.protocol_version();
  if (spoken > options_.control_protocol) {
    return error::Unimplemented(
        "the caller speaks control protocol {}, this placement {} to {}; upgrade this placement",
        spoken, kControlProtocolOldest, options_.control_protocol);
  }
  if (spoken < kControlProtocolOldest) {
    return error::FailedPrecondition(
        "the caller speaks control protocol {}, this placement {} to {}; upgrade the caller",
        spoken, kControlProtocolOldest, options_.control_protocol);
  }
  if (caller.cluster_id().empty() || recovering_) {
    return absl::OkStatus();
  }
  GEMEL_ASSIGN_OR_RETURN(const ClusterId cluster, ClusterId::FromBytes(caller.cluster_id()));
  if (!cluster.IsZero() && cluster != cluster_.cluster) {
    return error::FailedPrecondition(
        "the caller belongs to cluster {}, this placement keeps cluster {}; point it at its own "
        "placement, or rebuild that with `gemel placement recover --from-servers`",
        cluster.ToHex(), cluster_.cluster.ToHex());
  }
  if (caller.generation() == cluster_.generation && caller.term() > leadership_->term()) {
    leadership_->SeenNewer(caller.term());
    return leadership_->NotLeading();
  }
  return absl::OkStatus();
}

// Calls other than those of a server's life wait for a recovery to end.
absl::Status PlacementCore::CheckServing() const {
  std::string waiting_for;
  if (recovering_) {
    HeardEnough(&waiting_for);
    return error::Unavailable("placement is recovering from its servers: {}", waiting_for);
  }
  if (LacksGeneration()) {
    return error::Unavailable(
        "placement recovered generation {}; {} of {} last members have it on disk, waiting for "
        "more; start the others, or give --accept-loss to go on without them",
        cluster_.generation, HaveGeneration(), cluster_.recovery_majority);
  }
  return absl::OkStatus();
}

// Of the last members that the recovery knew: only a majority of those meets every majority that a
// second recovery may hear. Who goes on without them needs one, whichever.
size_t PlacementCore::HaveGeneration() const {
  return static_cast<size_t>(
      std::count_if(members_.begin(), members_.end(), [this](const auto& entry) {
        return entry.second->has_generation &&
               (options_.accept_loss || IsOfRecovery(*entry.second));
      }));
}

bool PlacementCore::IsOfRecovery(const MemberEntry& member) const {
  return cluster_.recovery_majority > 0 &&
         member.record.recovered_generation == cluster_.generation;
}

bool PlacementCore::LacksGeneration() const {
  const uint32_t needed =
      options_.accept_loss ? std::min(1U, cluster_.recovery_majority) : cluster_.recovery_majority;
  return HaveGeneration() < needed;
}

// While it is not settled, another recovery may yet give the same generation, and count its terms
// anew: nobody is bound by those of this one.
uint64_t PlacementCore::ObeyedTerm() const {
  return cluster_.recovery_majority > 0 ? 0 : leadership_->term();
}

absl::StatusOr<MemberEntry*> PlacementCore::Present(const pb::Caller& caller) {
  GEMEL_ASSIGN_OR_RETURN(MemberEntry * member, FindPresent(caller));
  Heard(member);
  return member;
}

absl::StatusOr<MemberEntry*> PlacementCore::FindPresent(const pb::Caller& caller) {
  GEMEL_ASSIGN_OR_RETURN(const ServerId id, ServerId::FromBytes(caller.server_id()));
  GEMEL_ASSIGN_OR_RETURN(const Incarnation incarnation,
                         Incarnation::FromBytes(caller.incarnation()));
  MemberEntry* member = FindMember(id);
  if (member == nullptr || !member->alive() || member->record.incarnation != incarnation ||
      !member->reported || member->must_rejoin) {
    return error::FailedPrecondition(
        "incarnation {} of server {} is not a member (any more); join again", incarnation.ToShort(),
        id.ToShort());
  }
  // A call that the network kept while leaders changed, or the server joined again: what it tells
  // may be over, and the ids of directives may be those of this leader. Servers of older releases
  // name neither.
  if (!caller.leader().empty() && caller.leader() != leadership_->claim().ToBytes()) {
    return error::FailedPrecondition("server {} called another leader than this one; join again",
                                     member->record.name);
  }
  if (caller.join() != 0 && caller.join() != member->join) {
    return error::FailedPrecondition("server {} called after its join {}, the last is {}",
                                     member->record.name, caller.join(), member->join);
  }
  return member;
}

// The server that asks for its client. One that has to join again does so by itself, and the client
// is none the worse: asking again is all it takes.
absl::StatusOr<MemberEntry*> PlacementCore::AskingFor(const pb::Caller& caller,
                                                      std::string_view job, std::string_view name) {
  absl::StatusOr<MemberEntry*> asking = FindPresent(caller);
  if (asking.status().code() == absl::StatusCode::kFailedPrecondition) {
    return error::Unavailable("{}@{} waits: {}", job, name, MessageOf(asking.status()));
  }
  return asking;
}

TimePoint PlacementCore::HoldUntil(uint32_t wait_ms) const {
  const Duration wait = std::chrono::milliseconds(Buggify(BuggifySite::kPollShort) ? 1 : wait_ms);
  return Add(loop_->Now(), wait < options_.wait_max ? wait : options_.wait_max);
}

void PlacementCore::Emit(Severity severity, std::string_view name, std::string text) {
  seams_.events->Emit(severity, name, std::move(text));
}

Task<void> PlacementCore::RunInside(Gate::Pass pass, Task<void> task) {
  GEMEL_CHECK(static_cast<bool>(pass));
  co_await std::move(task);
}

void PlacementCore::SpawnInside(Task<void> task) {
  Gate::Pass pass = gate_.Enter();
  if (pass) {
    loop_->Spawn(RunInside(std::move(pass), std::move(task)));
  }
}

Task<LockHold> PlacementCore::Lock(Semaphore* lock) {
  const bool acquired = co_await lock->Acquire(1, kTimeNever);
  GEMEL_CHECK(acquired);
  co_return LockHold(lock);
}

Job* PlacementCore::FindJob(const std::string& name) {
  const auto found = jobs_.find(name);
  return found == jobs_.end() ? nullptr : found->second.get();
}

std::string PlacementCore::JobList() const {
  constexpr size_t kListed = 16;
  std::string list;
  size_t listed = 0;
  for (const auto& [name, job] : jobs_) {
    if (job->record.removed || job->version == 0) {
      continue;
    }
    if (++listed > kListed) {
      return list + ", ...";
    }
    list += (list.empty() ? "" : ", ") + name;
  }
  return list.empty() ? "none" : list;
}

absl::StatusOr<Job*> PlacementCore::KnownJob(const std::string& name) {
  Job* job = FindJob(name);
  if (job == nullptr || job->version == 0 || job->record.removed) {
    return error::NotFound("job '{}' is not known here; known jobs: {}", name.substr(0, 128),
                           JobList());
  }
  return job;
}

}  // namespace gemel

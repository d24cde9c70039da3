// SPDX-License-Identifier: Apache-2.0
#include "server/membership.h"

#include <algorithm>
#include <utility>

#include "common/check.h"
#include "common/errors.h"
#include "common/points.h"
#include "common/status_macros.h"

namespace gemel {

Membership::Membership(const ServerSeams& seams, const Parts& parts)
    : seams_(seams), parts_(parts), wake_(seams.loop), interval_(kHeartbeatDefault) {
  GEMEL_CHECK(parts.control != nullptr && parts.identity != nullptr && parts.pool != nullptr);
  GEMEL_CHECK(parts.objects != nullptr && parts.peers != nullptr && parts.receipts != nullptr);
  GEMEL_CHECK(parts.tier != nullptr && parts.directives != nullptr);
}

bool Membership::IsFinal(const absl::Status& status) {
  return status.code() == absl::StatusCode::kFailedPrecondition ||
         status.code() == absl::StatusCode::kInvalidArgument ||
         status.code() == absl::StatusCode::kPermissionDenied ||
         status.code() == absl::StatusCode::kUnimplemented;
}

pb::JoinRequest Membership::JoinRequest(std::set<ShardId>* reported) const {
  pb::JoinRequest request;
  request.set_name(self_.name);
  request.set_domain(self_.domain);
  request.set_data_address(self_.data_address);
  request.set_capacity_bytes(parts_.pool->capacity_bytes());
  request.set_generation(parts_.identity->generation());
  for (const std::string& record : parts_.identity->records()) {
    request.add_commit_records(record);
  }
  for (const std::shared_ptr<Object>& object : parts_.objects->Sealed()) {
    WriteHeldObject(*object, request.add_objects());
    reported->insert(object->shard());
  }
  for (const auto& [job, epoch] : parts_.identity->epochs()) {
    pb::EpochSeen* seen = request.add_epochs();
    seen->set_job(job);
    WriteEpochId(epoch, seen->mutable_epoch());
  }
  for (const ServerId& member : parts_.identity->last_members()) {
    request.add_last_members(member.ToBytes());
  }
  parts_.tier->WriteInventory(&request);
  parts_.tier->WriteState(request.mutable_tier());
  return request;
}

Task<absl::Status> Membership::JoinOnce() {
  std::set<ShardId> reported;
  int persisted = 0;
  uint64_t number = 0;
  parts_.receipts->Hold(true);
  parts_.directives->Hold(true);
  absl::StatusOr<pb::JoinReply> reply;
  for (uint32_t i = 0; i < kJoinLeadersMax; ++i) {
    reported.clear();
    pb::JoinRequest request = JoinRequest(&reported);
    parts_.control->SpeakNewest();
    joins_ += 1;
    number = parts_.control->protocol() >= kControlProtocolNumbersJoins ? joins_ : 0;
    request.set_join(number);
    request.set_leader(leader_);
    persisted = request.persisted_size();
    reply = co_await parts_.control->Call<pb::JoinReply>("Join", std::move(request), 0s);
    GEMEL_CO_RETURN_IF_ERROR(reply.status());
    leader_ = reply->leader();
    if (!reply->again()) {
      break;
    }
  }
  if (reply->again()) {
    co_return error::Unavailable("placement changes its leader again and again");
  }
  Reach(CrashPoint::kServerJoined);
  GEMEL_CO_ASSIGN_OR_RETURN(const ClusterId cluster, ClusterId::FromBytes(reply->cluster_id()));
  std::vector<ServerId> members;
  for (const std::string& raw : reply->last_members()) {
    GEMEL_CO_ASSIGN_OR_RETURN(const ServerId member, ServerId::FromBytes(raw));
    members.push_back(member);
  }
  std::sort(members.begin(), members.end());
  const Identity::Leader leader{cluster, reply->generation(), reply->term()};
  const absl::Status kept = co_await parts_.identity->Joined(leader, std::move(members));
  // Placement has taken the inventory, whatever this server's disk says of the leader.
  parts_.control->SetJoined(leader_, number);
  for (const std::shared_ptr<Object>& object : parts_.objects->Sealed()) {
    if (!reported.contains(object->shard())) {
      parts_.receipts->Add(*object);
    }
  }
  parts_.receipts->Hold(false);
  parts_.directives->Hold(false);
  GEMEL_CO_RETURN_IF_ERROR(kept);
  parts_.control->SetCluster(cluster);
  parts_.control->SetLeader(leader.generation, leader.term);
  if (reply->heartbeat_ms() > 0) {
    interval_ = std::chrono::milliseconds(reply->heartbeat_ms());
  }
  joined_ = true;
  // What a deposed leader last said of a member may have never come to its store: the map of the
  // same version may differ.
  map_version_ = 0;
  unanswered_ = 0;
  seams_.events->Emit(
      Severity::kInfo, "joined",
      fmt::format("server {} ({}) joined cluster {} with {} sealed objects and {} shards on disk",
                  self_.name, parts_.control->server().ToShort(), cluster.ToShort(),
                  reported.size(), persisted));
  co_return absl::OkStatus();
}

Task<absl::Status> Membership::Join(Gate* gate) {
  const Gate::Pass pass = gate->Enter();
  RetryDelay delay;
  while (pass && !gate->closed()) {
    rejoin_ = false;
    const absl::Status status = co_await JoinOnce();
    if (status.ok()) {
      co_return status;
    }
    if (IsFinal(status)) {
      co_return Annotate(status, fmt::format("joining the cluster of placement at {}",
                                             seams_.placement->address()));
    }
    seams_.events->Emit(Severity::kWarning, "join_delayed", ToText(status));
    co_await wake_.WaitUntil(Add(seams_.loop->Now(), delay.Next()));
  }
  co_return error::Cancelled("this server is stopping");
}

void Membership::RequestRejoin(std::string why) {
  if (!rejoin_) {
    rejoin_ = true;
    wake_.NotifyAll();  // placement answers: a join that waits for another try need not
    seams_.events->Emit(Severity::kWarning, "rejoin", std::move(why));
  }
}

Task<void> Membership::Run(Gate* gate) {
  const Gate::Pass pass = gate->Enter();
  next_beat_ = seams_.loop->Now();
  while (pass && !gate->closed()) {
    if (rejoin_) {
      const absl::Status joined = co_await Join(gate);
      if (!joined.ok() && !gate->closed()) {
        Refused(joined);
        co_return;
      }
    }
    const absl::Status beaten = co_await Heartbeat();
    unanswered_ = beaten.ok() ? 0 : unanswered_ + 1;
    CountBeat(beaten);
    next_beat_ =
        Add(seams_.loop->Now(), Buggify(BuggifySite::kHeartbeatEarly) ? interval_ / 2 : interval_);
    co_await parts_.peers->AwaitReset(next_beat_);  // placement hears of it at once
  }
}

void Membership::Refused(const absl::Status& why) {
  seams_.events->Emit(Severity::kError, "rejoin_refused", ToText(why));
  if (fatal_) {
    fatal_(why);
  }
}

void Membership::CountBeat(const absl::Status& beaten) {
  if (!beaten.ok()) {
    seams_.metrics->Counter("gemel_heartbeat_errors_total", "Heartbeats without an answer.").Add(1);
  }
  if (beaten.code() != beaten_) {
    beaten_ = beaten.code();
    seams_.events->Emit(beaten.ok() ? Severity::kInfo : Severity::kWarning, "heartbeat",
                        beaten.ok() ? "placement answers again" : ToText(beaten));
  }
}

Task<absl::Status> Membership::Heartbeat() {
  for (const ServerId& server : parts_.peers->TakeUnreachable()) {
    if (std::find(unreachable_.begin(), unreachable_.end(), server) == unreachable_.end()) {
      unreachable_.push_back(server);
    }
  }
  pb::HeartbeatRequest request;
  request.set_capacity_bytes(parts_.pool->capacity_bytes());
  request.set_used_bytes(parts_.pool->used_bytes());
  request.set_map_version(map_version_);
  parts_.tier->WriteState(request.mutable_tier());
  request.set_unanswered(unanswered_);
  const size_t told = unreachable_.size();
  for (const ServerId& server : unreachable_) {
    request.add_unreachable(server.ToBytes());
  }
  const Duration lag = seams_.loop->Now() - next_beat_;
  request.set_loop_lag_ms(static_cast<uint64_t>(std::max(0.0, Milliseconds(lag))));
  const Duration limit = Buggify(BuggifySite::kControlEarly) ? kBackoffMin : kHeartbeatDeadline;
  absl::StatusOr<pb::HeartbeatReply> reply =
      co_await parts_.control->CallWithin<pb::HeartbeatReply>("Heartbeat", std::move(request),
                                                              limit);
  GEMEL_CO_RETURN_IF_ERROR(reply.status());
  GEMEL_CHECK_LE(told, unreachable_.size());
  unreachable_.erase(unreachable_.begin(), unreachable_.begin() + static_cast<ptrdiff_t>(told));
  if (reply->rejoin()) {
    RequestRejoin("placement does not count this server as a member: joining again");
  }
  co_return absl::OkStatus();
}

Task<void> Membership::FollowMap(Gate* gate) {
  const Gate::Pass pass = gate->Enter();
  RetryDelay delay;
  while (pass && !gate->closed()) {
    const absl::Status status = co_await AskMap();
    if (status.ok()) {
      delay.Reset();
      co_await seams_.loop->Sleep(kPollPause);
    } else {
      co_await seams_.loop->Sleep(delay.Next());
    }
  }
}

Task<absl::Status> Membership::AskMap() {
  pb::WatchMapRequest request;
  request.set_known_version(map_version_);
  absl::StatusOr<pb::WatchMapReply> reply =
      co_await parts_.control->Poll<pb::WatchMapReply>("WatchMap", std::move(request), kPollMs);
  GEMEL_CO_RETURN_IF_ERROR(reply.status());
  if (!reply->has_map() || reply->map().version() == map_version_) {
    co_return absl::OkStatus();
  }
  GEMEL_CO_ASSIGN_OR_RETURN(const std::vector<PeerMember> members,
                            ReadPeerMembers(reply->map().members()));
  map_version_ = reply->map().version();
  if (Buggify(BuggifySite::kJoinAgain)) {
    RequestRejoin("the map changed: joining again for no other reason");
  }
  const std::map<ServerId, PeerMember> before = std::exchange(map_, {});
  std::vector<ServerId> alive;
  std::set<Incarnation> dead;
  for (const PeerMember& member : members) {
    map_[member.server] = member;
    const auto was = before.find(member.server);
    if (was != before.end() && was->second.incarnation != member.incarnation) {
      replaced_[member.server] = was->second.incarnation;
    }
    if (member.dead) {
      dead.insert(member.incarnation);
    } else {
      alive.push_back(member.server);
    }
  }
  for (const auto& [server, incarnation] : replaced_) {
    const auto present = map_.find(server);
    if (present == map_.end() || present->second.incarnation != incarnation) {
      dead.insert(incarnation);
    }  // else it was never replaced: the map between was of a recovery that had not heard it yet
  }
  parts_.peers->SetDead(std::move(dead));
  if (alive.empty()) {
    co_return absl::OkStatus();
  }
  const absl::Status saved = co_await parts_.identity->SetMembers(std::move(alive));
  if (!saved.ok()) {
    seams_.events->Emit(Severity::kError, "identity_not_saved", ToText(saved));
  }
  co_return absl::OkStatus();
}

absl::Status Membership::CheckMember(const PeerHello& hello) const {
  const auto known = map_.find(hello.server);
  if (known == map_.end() || known->second.incarnation == hello.incarnation) {
    return absl::OkStatus();
  }
  return error::Unavailable(
      "server {} says hello as incarnation {}; the newest map here (version {}) has {}",
      hello.server_name, hello.incarnation.ToShort(), map_version_,
      known->second.incarnation.ToShort());
}

}  // namespace gemel

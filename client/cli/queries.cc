// SPDX-License-Identifier: Apache-2.0
#include "client/cli/queries.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>

#include "common/check.h"
#include "common/control_protocol.h"
#include "common/errors.h"
#include "common/ids.h"
#include "common/status_macros.h"

namespace gemel::cli {
namespace {

using Json = nlohmann::ordered_json;

constexpr uint32_t kVerifyWaitMs = 60'000;
constexpr Duration kVerifyWithin = 70s;
constexpr uint32_t kPersistWaitMs = 1000;
constexpr Duration kPersistWithin = 10s;
constexpr Duration kTickEvery = 200ms;

template <typename Tag>
std::string HexOf(const std::string& raw) {
  auto id = Id128<Tag>::FromBytes(raw);
  return id.ok() ? id->ToHex() : "";
}

std::string EpochText(const v1::EpochId& epoch) {
  return EpochId{epoch.generation(), epoch.counter()}.ToString();
}

const char* StateText(v1::MemberState state) {
  switch (state) {
    case v1::MEMBER_ALIVE:
      return "ALIVE";
    case v1::MEMBER_SUSPECT:
      return "SUSPECT";
    case v1::MEMBER_DEAD:
      return "DEAD";
    default:
      return "UNKNOWN";
  }
}

const char* StateText(v1::SnapshotState state) {
  switch (state) {
    case v1::SNAPSHOT_OPEN:
      return "OPEN";
    case v1::SNAPSHOT_COMMITTED:
      return "COMMITTED";
    case v1::SNAPSHOT_ABORTED:
      return "ABORTED";
    default:
      return "UNKNOWN";
  }
}

const char* StateText(v1::PersistState state) {
  switch (state) {
    case v1::PERSIST_RUNNING:
      return "RUNNING";
    case v1::PERSIST_DONE:
      return "DONE";
    default:
      return "NONE";
  }
}

Json MemberJson(const v1::Member& member) {
  Json json;
  json["name"] = member.name();
  json["id"] = HexOf<ServerTag>(member.server_id());
  json["incarnation"] = HexOf<IncarnationTag>(member.incarnation());
  json["state"] = StateText(member.state());
  json["domain"] = member.domain();
  json["data_address"] = member.data_address();
  json["capacity_bytes"] = member.capacity_bytes();
  json["used_bytes"] = member.used_bytes();
  json["suspect_ms"] = member.suspect_ms();
  json["draining"] = member.draining();
  return json;
}

Json SnapshotJson(const v1::SnapshotInfo& info) {
  Json json;
  json["name"] = info.snapshot().name();
  json["sequence"] = info.snapshot().sequence();
  json["epoch"] = EpochText(info.snapshot().epoch());
  json["attempt"] = info.snapshot().attempt();
  json["state"] = StateText(info.state());
  json["world_size"] = info.world_size();
  json["bytes"] = info.bytes();
  json["copies_now"] = info.copies_now();
  json["copies_wanted"] = info.copies_wanted();
  json["latest"] = info.latest();
  json["pinned"] = info.pinned();
  json["in_memory"] = info.in_memory();
  json["persisted"] = StateText(info.persisted());
  json["root"] = HexOf<TokenTag>(info.root());
  json["committed_unix_s"] = info.committed_unix_s();
  json["detail"] = info.detail();
  return json;
}

template <typename Request>
Request WithCaller() {
  Request request;
  request.mutable_caller()->set_protocol_version(kControlProtocolOldest);
  return request;
}

template <typename Request>
Request AskAbout(const JobAndName& what) {
  auto request = WithCaller<Request>();
  request.set_job(what.job);
  request.set_name(what.name);
  return request;
}

Task<void> CallInto(RpcChannel* channel, std::string method, std::string request,
                    TimePoint deadline, std::optional<absl::StatusOr<std::string>>* result) {
  absl::StatusOr<std::string> reply =
      co_await channel->Call(std::move(method), std::move(request), deadline);
  result->emplace(std::move(reply));
}

}  // namespace

PlacementClient::PlacementClient(std::unique_ptr<EpollLoop> loop,
                                 std::unique_ptr<RpcChannel> channel)
    : loop_(std::move(loop)), channel_(std::move(channel)) {}

PlacementClient::~PlacementClient() {
  channel_.reset();
  loop_->Shutdown();
}

absl::StatusOr<std::unique_ptr<PlacementClient>> PlacementClient::Make(const std::string& address) {
  GEMEL_ASSIGN_OR_RETURN(std::unique_ptr<EpollLoop> loop, EpollLoop::Create());
  GEMEL_ASSIGN_OR_RETURN(std::unique_ptr<FailoverChannel> channel,
                         ConnectToPlacement(loop.get(), address));
  return std::unique_ptr<PlacementClient>(new PlacementClient(std::move(loop), std::move(channel)));
}

absl::StatusOr<std::string> PlacementClient::CallRaw(const std::string& method, std::string request,
                                                     Duration within) {
  std::optional<absl::StatusOr<std::string>> result;
  const TimePoint deadline = Add(loop_->Now(), within);
  loop_->Spawn(CallInto(channel_.get(), method, std::move(request), deadline, &result));
  const TimePoint give_up = Add(deadline, 1s);
  while (!loop_->RunUntil([&result] { return result.has_value(); },
                          std::min(give_up, Add(loop_->Now(), kTickEvery)))) {
    if (loop_->Now() >= give_up) {
      return error::DeadlineExceeded("{} at {} did not end", method, channel_->address());
    }
    if (tick_ != nullptr) {
      tick_();
    }
  }
  if (!result->ok() && result->status().code() == absl::StatusCode::kUnavailable) {
    return error::Unavailable(
        "no gemel-placement answers at {}; `gemel up` starts a cluster, `gemel doctor` says what "
        "runs here",
        channel_->address());
  }
  return std::move(*result);
}

template <typename Reply, typename Request>
absl::StatusOr<Reply> PlacementClient::Call(const std::string& method, const Request& request,
                                            Duration within) {
  GEMEL_ASSIGN_OR_RETURN(std::string raw, CallRaw(method, request.SerializeAsString(), within));
  Reply reply;
  if (!reply.ParseFromString(raw)) {
    return error::Internal("the answer to {} does not parse: mixed versions?", method);
  }
  return reply;
}

// For command_repair.cc.
template absl::StatusOr<v1::RepairReply> PlacementClient::Call(const std::string&,
                                                               const v1::RepairRequest&, Duration);
template absl::StatusOr<v1::DrainReply> PlacementClient::Call(const std::string&,
                                                              const v1::DrainRequest&, Duration);

JobAndName SplitJobAndName(const std::string& text) {
  const size_t at = text.find('@');
  return at == std::string::npos ? JobAndName{text, ""}
                                 : JobAndName{text.substr(0, at), text.substr(at + 1)};
}

absl::StatusOr<Json> QueryStatus(PlacementClient* placement) {
  GEMEL_CHECK(placement != nullptr);
  GEMEL_ASSIGN_OR_RETURN(auto reply, placement->Call<v1::GetStatusReply>(
                                         "GetStatus", WithCaller<v1::GetStatusRequest>()));
  Json json;
  json["cluster"] = HexOf<ClusterTag>(reply.cluster_id());
  json["generation"] = reply.generation();
  json["leader"] = reply.leader();
  json["term"] = reply.term();
  json["map_version"] = reply.map().version();
  json["jobs"] = reply.jobs();
  json["open_snapshots"] = reply.open_snapshots();
  json["servers"] = Json::array();
  for (const v1::Member& member : reply.map().members()) {
    json["servers"].push_back(MemberJson(member));
  }
  json["warnings"] = Json::array();
  for (const std::string& warning : reply.warnings()) {
    json["warnings"].push_back(warning);
  }
  return json;
}

absl::StatusOr<Json> QueryJobs(PlacementClient* placement) {
  GEMEL_CHECK(placement != nullptr);
  GEMEL_ASSIGN_OR_RETURN(auto reply, placement->Call<v1::ListJobsReply>(
                                         "ListJobs", WithCaller<v1::ListJobsRequest>()));
  Json json;
  json["jobs"] = Json::array();
  for (const v1::JobInfo& info : reply.jobs()) {
    json["jobs"].push_back({{"job", info.job()},
                            {"epoch", EpochText(info.epoch())},
                            {"snapshots", info.snapshots()},
                            {"latest", info.latest_name()},
                            {"latest_sequence", info.latest_sequence()},
                            {"persisted", info.persisted_name()},
                            {"latest_bytes", info.latest_bytes()},
                            {"world_size", info.world_size()}});
  }
  return json;
}

absl::StatusOr<Json> QuerySnapshots(PlacementClient* placement, const std::string& job) {
  GEMEL_CHECK(placement != nullptr);
  auto request = WithCaller<v1::ListSnapshotsRequest>();
  request.set_job(job);
  GEMEL_ASSIGN_OR_RETURN(auto reply,
                         placement->Call<v1::ListSnapshotsReply>("ListSnapshots", request));
  Json json;
  json["job"] = job;
  json["snapshots"] = Json::array();
  for (const v1::SnapshotInfo& info : reply.snapshots()) {
    json["snapshots"].push_back(SnapshotJson(info));
  }
  return json;
}

absl::StatusOr<Json> QueryVerify(PlacementClient* placement, const JobAndName& what) {
  GEMEL_CHECK(placement != nullptr);
  auto request = AskAbout<v1::VerifySnapshotRequest>(what);
  request.set_wait_ms(kVerifyWaitMs);
  GEMEL_ASSIGN_OR_RETURN(auto reply, placement->Call<v1::VerifySnapshotReply>(
                                         "VerifySnapshot", request, kVerifyWithin));
  Json json;
  json["job"] = what.job;
  json["name"] = reply.snapshot().name();
  json["sequence"] = reply.snapshot().sequence();
  json["complete"] = reply.complete();
  json["copies"] = Json::array();
  uint32_t bad = 0;
  for (const v1::VerifySnapshotReply::Copy& copy : reply.copies()) {
    bad += copy.good() ? 0 : 1;
    json["copies"].push_back({{"rank", copy.rank()},
                              {"server", copy.holder().name()},
                              {"good", copy.good()},
                              {"why", copy.why()}});
  }
  json["bad"] = bad;
  return json;
}

absl::StatusOr<Json> RemoveSnapshots(PlacementClient* placement, const JobAndName& what) {
  GEMEL_CHECK(placement != nullptr);
  auto request = AskAbout<v1::RemoveSnapshotsRequest>(what);
  GEMEL_ASSIGN_OR_RETURN(auto reply,
                         placement->Call<v1::RemoveSnapshotsReply>("RemoveSnapshots", request));
  return Json{{"job", what.job}, {"name", what.name}, {"removed", reply.removed()}};
}

absl::StatusOr<PersistStep> PersistOnce(PlacementClient* placement, const JobAndName& what) {
  GEMEL_CHECK(placement != nullptr);
  auto request = AskAbout<v1::PersistSnapshotRequest>(what);
  request.set_wait_ms(kPersistWaitMs);
  GEMEL_ASSIGN_OR_RETURN(auto reply, placement->Call<v1::PersistSnapshotReply>(
                                         "PersistSnapshot", request, kPersistWithin));
  PersistStep step;
  step.done = reply.state() == v1::PERSIST_DONE;
  step.name = reply.snapshot().name();
  step.shards_done = reply.shards_done();
  step.shards = reply.shards();
  step.bytes_done = reply.bytes_done();
  step.bytes = reply.bytes();
  step.detail = reply.detail();
  return step;
}

absl::StatusOr<Json> QueryExplain(PlacementClient* placement, const JobAndName& what,
                                  const Flags& flags) {
  auto request = AskAbout<v1::ExplainRequest>(what);
  request.set_copies(flags.copies);
  request.set_strategy(flags.strategy == "ring" ? v1::STRATEGY_RING : v1::STRATEGY_GROUP);
  GEMEL_ASSIGN_OR_RETURN(auto reply, placement->Call<v1::ExplainReply>("Explain", request));
  Json json;
  json["lines"] = Json::array();
  for (const std::string& line : reply.lines()) {
    json["lines"].push_back(line);
  }
  return json;
}

}  // namespace gemel::cli

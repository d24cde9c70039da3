// SPDX-License-Identifier: Apache-2.0
//
// Placement managers on SimLoop and SimStore with scripted servers, which do what real ones do. A
// manager can be killed and started on the same store; calls go to the one that leads.
#pragma once

#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/errors.h"
#include "common/sim_loop.h"
#include "common/status_macros.h"
#include "common/sync.h"
#include "common/xxh3.h"
#include "placement/manager/manager.h"
#include "placement/manager/wire.h"
#include "placement/model/records.h"
#include "placement/store/sim_store.h"
#include "tests/unit/placement_manager_nodes.h"

namespace gemel::placement_test {

class Cluster {
  using Result = absl::StatusOr<std::string>;

 public:
  explicit Cluster(uint32_t servers = 3) : driver_(&scheduler) {
    store.latency_max = store.latency_min;
    for (uint32_t i = 0; i < servers; ++i) {
      AddServer(i);
    }
  }

  ~Cluster() {
    for (size_t i = 0; i < nodes_.size(); ++i) {
      Kill(i);
    }
    driver_.Kill();
  }

  // Starts a manager; the servers join by themselves.
  absl::Status Start(size_t index = 0) {
    ManagerNode& at = node(index);
    at.loop = std::make_unique<SimLoop>(&scheduler);
    at.net = std::make_unique<ProbedNet>(at.loop.get());
    at.sim_store = std::make_unique<SimStore>(at.loop.get(), &store);
    for (const auto& server : servers) {
      at.net->answers[server->address] =
          server->running ? ProbedNet::Answer::kAccepts : ProbedNet::Answer::kRefuses;
    }
    std::optional<absl::StatusOr<std::unique_ptr<PlacementManager>>> started;
    at.loop->Spawn(StartTask(index, &started));
    scheduler.RunUntil([&] { return started.has_value(); }, Add(scheduler.now(), 10s));
    if (!started.has_value()) {
      return error::DeadlineExceeded("the manager does not start");
    }
    if (!started->ok()) {
      return started->status();
    }
    at.manager = *std::move(*started);
    return absl::OkStatus();
  }

  // kill -9 of a manager.
  void Kill(size_t index = 0) {
    node(index).Kill();
    for (const auto& [at, call] : calls_) {
      if (const auto open = call.lock(); open != nullptr && at == index) {
        open->Set(error::Unavailable("placement was killed"));
      }
    }
    std::erase_if(calls_, [index](const auto& call) { return call.first == index; });
  }

  ManagerNode& node(size_t index = 0) {
    while (nodes_.size() <= index) {
      nodes_.push_back(std::make_unique<ManagerNode>());
    }
    return *nodes_[index];
  }

  // The one that leads; none: managers() of them.
  size_t Leader() const {
    size_t index = 0;
    while (index < nodes_.size() &&
           (nodes_[index]->manager == nullptr || !nodes_[index]->manager->leads())) {
      ++index;
    }
    return index;
  }

  size_t managers() const { return nodes_.size(); }

  void Run(Duration duration) {
    scheduler.RunUntil([] { return false; }, Add(scheduler.now(), duration));
  }

  bool RunUntil(const std::function<bool()>& done, Duration limit = 20s) {
    return scheduler.RunUntil(done, Add(scheduler.now(), limit));
  }

  bool RunUntilJoined(Duration limit = 5s) {
    return RunUntil(
        [&] {
          for (const auto& server : servers) {
            if (server->running && !server->joined.ok()) {
              return false;
            }
          }
          return true;
        },
        limit);
  }

  ScriptedServer& server(size_t index) { return *servers.at(index); }

  void AddServer(uint32_t index) {
    auto server = std::make_unique<ScriptedServer>();
    server->id = ServerId::Draw(&random_);
    server->incarnation = Incarnation::Draw(&random_);
    server->name = fmt::format("server-{}", index);
    server->domain = fmt::format("rack{}/host{}", index, index);
    server->address = fmt::format("tcp://127.0.0.1:{}", 9000 + index);
    ScriptedServer* raw = server.get();
    servers.push_back(std::move(server));
    driver_.Spawn(Live(raw));
    driver_.Spawn(Work(raw));
  }

  // kill -9 of a server: its memory is gone.
  void KillServer(size_t index, bool connection_breaks = true) {
    ScriptedServer& dead = server(index);
    dead.running = false;
    dead.objects.clear();
    SetProbe(dead.address, ProbedNet::Answer::kRefuses);
    if (connection_breaks && dead.poll != nullptr) {
      dead.poll->gone = true;
      if (dead.poll->on_gone) {
        dead.poll->on_gone();
      }
    }
  }

  void RestartServer(size_t index) {
    ScriptedServer& back = server(index);
    back.incarnation = Incarnation::Draw(&random_);
    back.running = true;
    back.joined = error::Unavailable("not joined");
    SetProbe(back.address, ProbedNet::Answer::kAccepts);
    driver_.Spawn(Live(&back));
    driver_.Spawn(Work(&back));
  }

  template <typename Reply, typename Request>
  absl::StatusOr<Reply> Call(std::string method, const Request& request) {
    std::optional<absl::StatusOr<std::string>> result;
    driver_.Spawn(CallInto(std::move(method), request.SerializeAsString(), &result));
    RunUntil([&] { return result.has_value(); }, 60s);
    GEMEL_CHECK(result.has_value());
    if (!result->ok()) {
      return result->status();
    }
    Reply reply;
    GEMEL_CHECK(reply.ParseFromString(**result));
    return reply;
  }

  // A call that goes on beside the test; *result is set at its end.
  void CallBeside(std::string method, std::string request,
                  std::optional<absl::StatusOr<std::string>>* result) {
    driver_.Spawn(CallInto(std::move(method), std::move(request), result));
  }

  pb::Caller CallerOf(const ScriptedServer& server) const {
    pb::Caller caller;
    caller.set_protocol_version(kControlProtocolVersion);
    caller.set_cluster_id(server.cluster);
    caller.set_server_id(server.id.ToBytes());
    caller.set_incarnation(server.incarnation.ToBytes());
    caller.set_generation(server.generation);
    caller.set_term(server.term);
    return caller;
  }

  absl::StatusOr<EpochId> Acquire(const std::string& job, const EpochToken& token) {
    pb::AcquireEpochRequest request;
    request.mutable_caller()->set_protocol_version(kControlProtocolVersion);
    request.set_job(job);
    request.set_token(token.ToBytes());
    auto reply = Call<pb::AcquireEpochReply>("AcquireEpoch", request);
    if (!reply.ok()) {
      return reply.status();
    }
    return FromProto(reply->epoch());
  }

  JobRun NewRun(std::string job = "gpt") {
    JobRun run;
    run.job = std::move(job);
    run.token = EpochToken::Draw(&random_);
    auto epoch = Acquire(run.job, run.token);
    EXPECT_TRUE(epoch.ok()) << epoch.status();
    run.epoch = epoch.value_or(EpochId());
    return run;
  }

  pb::OpenRequest OpenOf(const JobRun& run, const std::string& name, uint32_t rank,
                         uint32_t attempt = 0) {
    pb::OpenRequest request;
    *request.mutable_caller() = CallerOf(HomeOf(rank));
    request.set_job(run.job);
    ToProto(run.epoch, request.mutable_epoch());
    request.set_token(run.token.ToBytes());
    request.set_name(name);
    request.set_attempt(attempt);
    request.set_rank(rank);
    request.set_world_size(run.world);
    request.set_layout_hash(std::string(16, 'L'));
    request.set_shard_bytes(run.shard_bytes);
    request.set_copies(run.copies);
    request.set_min_copies(run.min_copies);
    request.set_strategy(run.strategy);
    request.set_keep_latest(run.keep);
    request.set_deadline_ms(run.deadline_ms);
    *request.mutable_persist() = run.persist;
    return request;
  }

  ScriptedServer& HomeOf(uint32_t rank) {
    std::vector<ScriptedServer*> up;
    for (const auto& server : servers) {
      if (server->running) {
        up.push_back(server.get());
      }
    }
    return *up.at(rank % up.size());
  }

  ScriptedServer* Find(const std::string& id) {
    for (const auto& server : servers) {
      if (server->id.ToBytes() == id) {
        return server.get();
      }
    }
    return nullptr;
  }

  static pb::HeldObject ObjectOf(const JobRun& run, const pb::SnapshotId& snapshot, uint32_t rank) {
    pb::HeldObject object;
    *object.mutable_shard()->mutable_snapshot() = snapshot;
    object.mutable_shard()->set_rank(rank);
    const std::string content = fmt::format("{}/{}/{}", snapshot.name(), snapshot.sequence(), rank);
    object.set_root(DigestToBytes(Xxh3_128(AsBytes(content))));
    object.set_bytes(run.shard_bytes);
    object.set_token(run.token.ToBytes());
    return object;
  }

  // The holder seals the shard and says so.
  absl::Status Seal(ScriptedServer& holder, const pb::HeldObject& object) {
    auto id = FromProto(object.shard().snapshot());
    GEMEL_CHECK(id.ok());
    holder.objects[ShardId{*id, object.shard().rank()}] = object;
    pb::ReportReceiptsRequest request;
    *request.mutable_caller() = CallerOf(holder);
    *request.add_receipts()->mutable_object() = object;
    return Call<pb::ReportReceiptsReply>("ReportReceipts", request).status();
  }

  absl::StatusOr<pb::OpenReply> OpenRank(const JobRun& run, const std::string& name, uint32_t rank,
                                         uint32_t attempt = 0) {
    return Call<pb::OpenReply>("Open", OpenOf(run, name, rank, attempt));
  }

  absl::StatusOr<pb::AwaitCommitReply> Await(const pb::SnapshotId& snapshot, uint32_t rank,
                                             uint32_t wait_ms = 5000, bool unsent = false) {
    pb::AwaitCommitRequest request;
    *request.mutable_caller() = CallerOf(HomeOf(rank));
    *request.mutable_snapshot() = snapshot;
    request.set_rank(rank);
    request.set_wait_ms(wait_ms);
    request.set_unsent(unsent);
    return Call<pb::AwaitCommitReply>("AwaitCommit", request);
  }

  // Polls until it is over.
  absl::StatusOr<pb::AwaitCommitReply> AwaitEnd(const pb::SnapshotId& snapshot, uint32_t rank) {
    absl::StatusOr<pb::AwaitCommitReply> reply = Await(snapshot, rank);
    for (int i = 0; i < 5 && reply.ok() && reply->state() == pb::SNAPSHOT_OPEN; ++i) {
      reply = Await(snapshot, rank);
    }
    return reply;
  }

  // All ranks open, all holders seal, rank 0 waits for the commit.
  absl::StatusOr<pb::SnapshotId> Save(const JobRun& run, const std::string& name,
                                      uint32_t attempt = 0) {
    pb::SnapshotId snapshot;
    for (uint32_t rank = 0; rank < run.world; ++rank) {
      auto opened = OpenRank(run, name, rank, attempt);
      GEMEL_RETURN_IF_ERROR(opened.status());
      if (opened->decision() != pb::OpenReply::ACCEPT) {
        return error::Aborted("rank {} got {}", rank, opened->ShortDebugString());
      }
      snapshot = opened->snapshot();
      for (const pb::Member& holder : opened->holders()) {
        GEMEL_RETURN_IF_ERROR(Seal(*Find(holder.server_id()), ObjectOf(run, snapshot, rank)));
      }
    }
    auto committed = Await(snapshot, 0);
    GEMEL_RETURN_IF_ERROR(committed.status());
    if (committed->state() != pb::SNAPSHOT_COMMITTED) {
      return error::Aborted("not committed: {}", committed->ShortDebugString());
    }
    return snapshot;
  }

  absl::StatusOr<pb::BeginRestoreReply> Begin(const JobRun& run, uint32_t rank, uint32_t world,
                                              uint32_t wait_ms = 3000) {
    pb::BeginRestoreRequest request;
    *request.mutable_caller() = CallerOf(HomeOf(rank));
    request.set_job(run.job);
    ToProto(run.epoch, request.mutable_epoch());
    request.set_token(run.token.ToBytes());
    request.set_rank(rank);
    request.set_world_size(world);
    request.set_wait_ms(wait_ms);
    return Call<pb::BeginRestoreReply>("BeginRestore", request);
  }

  absl::Status Report(const JobRun& run, uint32_t round, uint32_t rank, bool verified,
                      const std::vector<uint32_t>& unreadable = {}) {
    pb::ReportRestoreRequest request;
    *request.mutable_caller() = CallerOf(HomeOf(rank));
    request.set_job(run.job);
    ToProto(run.epoch, request.mutable_epoch());
    request.set_round(round);
    request.set_rank(rank);
    request.set_verified(verified);
    for (const uint32_t shard : unreadable) {
      request.add_unreadable_ranks(shard);
    }
    return Call<pb::ReportRestoreReply>("ReportRestore", request).status();
  }

  absl::StatusOr<pb::AwaitRestoreReply> AwaitRestored(const JobRun& run, uint32_t round,
                                                      uint32_t wait_ms = 3000) {
    pb::AwaitRestoreRequest request;
    *request.mutable_caller() = CallerOf(HomeOf(0));
    request.set_job(run.job);
    ToProto(run.epoch, request.mutable_epoch());
    request.set_round(round);
    request.set_wait_ms(wait_ms);
    return Call<pb::AwaitRestoreReply>("AwaitRestore", request);
  }

  static pb::Caller Person() {
    pb::Caller caller;
    caller.set_protocol_version(kControlProtocolVersion);
    return caller;
  }

  absl::StatusOr<pb::ListSnapshotsReply> List(const std::string& job) {
    pb::ListSnapshotsRequest request;
    *request.mutable_caller() = Person();
    request.set_job(job);
    return Call<pb::ListSnapshotsReply>("ListSnapshots", request);
  }

  pb::RepairReply Repaired() {
    pb::RepairRequest request;
    *request.mutable_caller() = Person();
    auto reply = Call<pb::RepairReply>("Repair", request);
    EXPECT_TRUE(reply.ok()) << reply.status();
    return reply.value_or(pb::RepairReply());
  }

  absl::StatusOr<pb::DrainReply> Drain(size_t index, pb::DrainRequest::Action action,
                                       bool force = false) {
    pb::DrainRequest request;
    *request.mutable_caller() = Person();
    request.set_server(server(index).name);
    request.set_action(action);
    request.set_force(force);
    return Call<pb::DrainReply>("Drain", request);
  }

  bool RunUntilReady(size_t index, Duration limit = 20s) {
    const TimePoint end = Add(scheduler.now(), limit);
    while (scheduler.now() < end) {
      auto drained = Drain(index, pb::DrainRequest::STATUS);
      if (drained.ok() && drained->ready()) {
        return true;
      }
      Run(50ms);
    }
    return false;
  }

  int PulledByAll() const {
    int pulled = 0;
    for (const auto& server : servers) {
      pulled += server->pulled;
    }
    return pulled;
  }

  // Names of the committed snapshots, oldest first.
  std::string Names(const std::string& job) {
    auto listed = List(job);
    std::string names;
    if (!listed.ok()) {
      return ToText(listed.status());
    }
    for (const pb::SnapshotInfo& info : listed->snapshots()) {
      names += info.state() == pb::SNAPSHOT_COMMITTED ? info.snapshot().name() + " " : "";
    }
    return names;
  }

  static std::string NameOf(const pb::BeginRestoreReply& reply) {
    auto record = model::DecodeCommitRecord(reply.record());
    return record.ok() ? record->snapshot.name : "none";
  }

  // Shards of a snapshot of that name on all disks together.
  size_t OnDisk(const std::string& name) {
    size_t count = 0;
    for (const auto& server : servers) {
      for (const auto& [shard, object] : server->disk) {
        count += shard.snapshot.name == name ? 1 : 0;
      }
    }
    return count;
  }

  // What is listed of the newest snapshot of that name; state UNKNOWN when there is none.
  pb::SnapshotInfo InfoOf(const std::string& job, const std::string& name) {
    pb::SnapshotInfo found;
    const auto listed = List(job);
    for (const pb::SnapshotInfo& info :
         listed.ok() ? listed->snapshots()
                     : google::protobuf::RepeatedPtrField<pb::SnapshotInfo>()) {
      if (info.snapshot().name() == name) {
        found = info;
      }
    }
    return found;
  }

  bool RunUntilPersisted(const std::string& job, const std::string& name, Duration limit = 20s) {
    const TimePoint end = Add(scheduler.now(), limit);
    while (scheduler.now() < end) {
      if (InfoOf(job, name).persisted() == pb::PERSIST_DONE) {
        return true;
      }
      Run(50ms);
    }
    return false;
  }

  absl::StatusOr<pb::PersistSnapshotReply> Persist(const std::string& job, const std::string& name,
                                                   uint32_t wait_ms = 5000) {
    pb::PersistSnapshotRequest request;
    *request.mutable_caller() = Person();
    request.set_job(job);
    request.set_name(name);
    request.set_wait_ms(wait_ms);
    return Call<pb::PersistSnapshotReply>("PersistSnapshot", request);
  }

  absl::StatusOr<pb::BeginReadReply> BeginRead(const std::string& job, const std::string& name,
                                               const ReadId& id, size_t at = 0,
                                               uint32_t wait_ms = 3000) {
    pb::BeginReadRequest request;
    *request.mutable_caller() = CallerOf(server(at));
    request.set_job(job);
    request.set_name(name);
    request.set_read_id(id.ToBytes());
    request.set_wait_ms(wait_ms);
    return Call<pb::BeginReadReply>("BeginRead", request);
  }

  absl::Status EndRead(const ReadId& id, size_t at = 0) {
    pb::EndReadRequest request;
    *request.mutable_caller() = CallerOf(server(at));
    request.set_read_id(id.ToBytes());
    return Call<pb::EndReadReply>("EndRead", request).status();
  }

  ReadId NewReadId() { return ReadId::Draw(&random_); }

  size_t Holders(const pb::SnapshotId& snapshot, uint32_t rank) {
    auto id = FromProto(snapshot);
    size_t count = 0;
    for (const auto& server : servers) {
      count += server->running && server->objects.contains(ShardId{*id, rank}) ? 1 : 0;
    }
    return count;
  }

  SimScheduler scheduler;
  SimStoreState store;
  RecordedEvents events;
  MetricRegistry metrics;
  PlacementOptions options;
  std::vector<std::unique_ptr<ScriptedServer>> servers;

 private:
  Task<void> StartTask(size_t index,
                       std::optional<absl::StatusOr<std::unique_ptr<PlacementManager>>>* out) {
    ManagerNode& at = node(index);
    const PlacementSeams seams{at.loop.get(), &random_, at.sim_store.get(),
                               at.net.get(),  &events,  &metrics};
    PlacementOptions own = options;
    own.name = fmt::format("placement-{}", index);
    own.address = fmt::format("sim://placement-{}/7601", index);
    auto started = co_await PlacementManager::Start(own, seams);
    out->emplace(std::move(started));
  }

  void SetProbe(const std::string& address, ProbedNet::Answer answer) {
    for (const auto& at : nodes_) {
      if (at->net != nullptr) {
        at->net->answers[address] = answer;
      }
    }
  }

  static Task<void> HandleInto(PlacementManager* manager, std::shared_ptr<RpcCall> call,
                               std::string method, std::string request,
                               std::shared_ptr<OneShot<Result>> out) {
    Result result =
        co_await manager->Handle(std::move(call), std::move(method), std::move(request));
    out->Set(std::move(result));
  }

  // Until one has answered that leads: what a standby refuses was not executed.
  Task<Result> Ask(std::shared_ptr<ScriptedCall> call, std::string method, std::string request) {
    Result result = error::Unavailable("no placement was started");
    for (size_t tried = 0; tried < nodes_.size(); ++tried) {
      const size_t at = asked_;
      result = co_await AskAt(at, call, method, request);
      const bool elsewhere = WasNotExecuted(result.status());
      if (!elsewhere && result.status().code() != absl::StatusCode::kUnavailable) {
        co_return result;
      }
      if (asked_ == at) {
        asked_ = (at + 1) % nodes_.size();
      }
      if (!elsewhere) {
        co_return result;
      }
    }
    co_return error::Unavailable("nobody leads: {}", MessageOf(result.status()));
  }

  Task<Result> AskAt(size_t index, std::shared_ptr<ScriptedCall> call, std::string method,
                     std::string request) {
    if (node(index).manager == nullptr) {
      co_await driver_.Sleep(Duration(1'000'000));
      co_return error::Unavailable("placement is down");
    }
    auto result = std::make_shared<OneShot<Result>>(&driver_);
    std::erase_if(calls_, [](const auto& ended) { return ended.second.expired(); });
    calls_.emplace_back(index, result);
    node(index).loop->Spawn(HandleInto(node(index).manager.get(), std::move(call),
                                       std::move(method), std::move(request), result));
    const Duration patience = nodes_.size() > 1 ? Duration(1500ms) : Duration(40s);
    const bool set = co_await result->WaitUntil(Add(driver_.Now(), patience));
    co_return set ? std::move(result->value()) : Result(error::Unavailable("no answer"));
  }

  Task<void> CallInto(std::string method, std::string request, std::optional<Result>* out) {
    auto call = std::make_shared<ScriptedCall>();
    Result result = co_await Ask(call, std::move(method), std::move(request));
    out->emplace(std::move(result));
  }

  Task<void> JoinOnce(ScriptedServer* server) {
    pb::JoinRequest request;
    *request.mutable_caller() = CallerOf(*server);
    request.set_name(server->name);
    request.set_domain(server->domain);
    request.set_data_address(server->address);
    request.set_capacity_bytes(server->capacity);
    request.set_generation(server->generation);
    for (const auto& [shard, object] : server->objects) {
      *request.add_objects() = object;
    }
    for (const auto& [id, record] : server->records) {
      request.add_commit_records(record);
    }
    for (const auto& [job, epoch] : server->epochs) {
      pb::EpochSeen* seen = request.add_epochs();
      seen->set_job(job);
      ToProto(epoch, seen->mutable_epoch());
    }
    for (const std::string& member : server->last_members) {
      request.add_last_members(member);
    }
    for (const auto& [shard, object] : server->disk) {
      pb::PersistedShard* persisted = request.add_persisted();
      *persisted->mutable_object() = object;
      persisted->set_complete(server->marked.contains(shard.snapshot));
    }
    for (const auto& [id, record] : server->disk_records) {
      request.add_persisted_records(record);
    }
    request.mutable_tier()->set_trouble(server->tier_trouble);
    request.mutable_tier()->set_unread(server->tier_unread);
    request.mutable_tier()->set_free_bytes(server->tier_free);
    auto call = std::make_shared<ScriptedCall>();
    Result raw = co_await Ask(call, "Join", request.SerializeAsString());
    server->joined = raw.status();
    if (raw.ok()) {
      pb::JoinReply reply;
      GEMEL_CHECK(reply.ParseFromString(*raw));
      server->cluster = reply.cluster_id();
      server->generation = reply.generation();
      server->term = reply.term();
      server->last_members.assign(reply.last_members().begin(), reply.last_members().end());
    }
  }

  // Real servers watch the map for this.
  void RememberMembers(ScriptedServer* server) {
    server->last_members.clear();
    for (const auto& other : servers) {
      if (other->running && other->joined.ok()) {
        server->last_members.push_back(other->id.ToBytes());
      }
    }
  }

  Task<void> Live(ScriptedServer* server) {
    const Incarnation life = server->incarnation;
    while (server->running && server->incarnation == life) {
      if (!server->joined.ok()) {
        co_await JoinOnce(server);
      } else if (server->beating) {
        pb::HeartbeatRequest request;
        *request.mutable_caller() = CallerOf(*server);
        request.set_capacity_bytes(server->capacity);
        request.mutable_tier()->set_trouble(server->tier_trouble);
        request.mutable_tier()->set_free_bytes(server->tier_free);
        request.set_unanswered(server->unanswered);
        request.set_map_version(server->map_version);
        auto call = std::make_shared<ScriptedCall>();
        const Result raw = co_await Ask(call, "Heartbeat", request.SerializeAsString());
        pb::HeartbeatReply reply;
        if (raw.status().code() == absl::StatusCode::kFailedPrecondition) {
          server->joined = raw.status();
        }
        const bool answered = raw.ok() && reply.ParseFromString(*raw);
        if (answered && !reply.rejoin()) {
          RememberMembers(server);
        }
        if (answered && reply.rejoin() && server->incarnation == life) {
          server->joined = error::Unavailable("has to join again");
        }
      }
      co_await driver_.Sleep(100ms);
    }
  }

  void Do(ScriptedServer* server, const pb::Directive& directive, pb::DirectiveResult* result) {
    if (directive.has_store_commit()) {
      const auto record = model::DecodeCommitRecord(directive.store_commit().record());
      server->commits.push_back(directive.store_commit());
      server->records[record->snapshot] = directive.store_commit().record();
      server->manifests[record->snapshot] = directive.store_commit().manifest();
    } else if (directive.has_drop_snapshot()) {
      Drop(server, *FromProto(directive.drop_snapshot().snapshot()));
      server->dropped += 1;
    } else if (directive.has_drop_staging()) {
      Drop(server, *FromProto(directive.drop_staging().snapshot()));
      server->dropped += 1;
    } else if (directive.has_see_epoch()) {
      server->epochs[directive.see_epoch().job()] = FromProto(directive.see_epoch().epoch());
    } else if (directive.has_pull_shard()) {
      const pb::HeldObject& object = directive.pull_shard().object();
      if (!server->pull_refuses.ok()) {
        result->set_code(static_cast<uint32_t>(server->pull_refuses.code()));
        result->set_message(std::string(MessageOf(server->pull_refuses)));
        return;
      }
      server->objects[ShardOf(object)] = object;
      server->pulled += 1;
    } else if (directive.has_verify_shard()) {
      if (server->corrupt.contains(ShardOf(directive.verify_shard().object()))) {
        result->set_code(static_cast<uint32_t>(absl::StatusCode::kDataLoss));
        result->set_message("chunk 0 is damaged");
      }
    } else if (directive.has_fetch_manifest()) {
      server->manifests_fetched += 1;
      const SnapshotId id = *FromProto(directive.fetch_manifest().snapshot());
      result->set_manifest(server->manifests.contains(id) ? server->manifests[id]
                                                          : server->disk_manifests[id]);
    } else {
      DoOnDisk(server, directive, result);
    }
  }

  static void DoOnDisk(ScriptedServer* server, const pb::Directive& directive,
                       pb::DirectiveResult* result) {
    if (directive.has_persist_shard()) {
      const pb::PersistShard& work = directive.persist_shard();
      const ShardId shard = ShardOf(work.object());
      const absl::Status refused =
          server->objects.contains(shard)
              ? server->disk_refuses
              : error::NotFound("{} is not held in memory", shard.ToString());
      if (!refused.ok()) {
        result->set_code(static_cast<uint32_t>(refused.code()));
        result->set_message(std::string(MessageOf(refused)));
        return;
      }
      server->disk[shard] = work.object();
      server->disk_records[shard.snapshot] = work.record();
      server->disk_manifests[shard.snapshot] = work.manifest();
    } else if (directive.has_mark_persisted()) {
      server->marked.insert(*FromProto(directive.mark_persisted().snapshot()));
    } else if (directive.has_drop_persisted()) {
      const SnapshotId id = *FromProto(directive.drop_persisted().snapshot());
      std::erase_if(server->disk, [&](const auto& entry) { return entry.first.snapshot == id; });
      server->disk_records.erase(id);
      server->disk_manifests.erase(id);
      server->marked.erase(id);
    }
  }

  static ShardId ShardOf(const pb::HeldObject& object) {
    return {*FromProto(object.shard().snapshot()), object.shard().rank()};
  }

  static void Drop(ScriptedServer* server, const SnapshotId& id) {
    std::erase_if(server->objects, [&](const auto& entry) { return entry.first.snapshot == id; });
    server->records.erase(id);
    server->manifests.erase(id);
  }

  Task<void> Work(ScriptedServer* server) {
    const Incarnation life = server->incarnation;
    std::map<uint64_t, pb::DirectiveResult> results;
    while (server->running && server->incarnation == life) {
      if (!server->works) {
        co_await driver_.Sleep(50ms);
        continue;
      }
      pb::DirectivesRequest request;
      *request.mutable_caller() = CallerOf(*server);
      request.set_wait_ms(1000);
      for (const auto& [id, result] : results) {
        *request.add_results() = result;
      }
      auto call = std::make_shared<ScriptedCall>();
      server->poll = call;
      const Result raw = co_await Ask(call, "Directives", request.SerializeAsString());
      pb::DirectivesReply reply;
      if (!server->running || server->incarnation != life) {
        break;
      }
      if (!raw.ok() || !reply.ParseFromString(*raw) || reply.rejoin() ||
          std::pair(reply.generation(), reply.term()) <
              std::pair(server->generation, server->term)) {
        co_await driver_.Sleep(50ms);
        continue;
      }
      results.clear();
      for (const pb::Directive& directive : reply.directives()) {
        if (directive.has_pull_shard()) {
          server->pulls.push_back(directive.pull_shard());
        }
        if (server->Hangs(directive)) {
          continue;
        }
        pb::DirectiveResult& result = results[directive.id()];
        result.set_id(directive.id());
        Do(server, directive, &result);
      }
      if (results.empty()) {
        co_await driver_.Sleep(1ms);
      }
    }
  }

  SimLoop driver_;
  std::vector<std::unique_ptr<ManagerNode>> nodes_;
  size_t asked_ = 0;  // who answers calls, as far as known
  std::vector<std::pair<size_t, std::weak_ptr<OneShot<Result>>>> calls_;  // not answered yet
  Random random_{7};
};

}  // namespace gemel::placement_test

// SPDX-License-Identifier: Apache-2.0
//
// What a Cluster of placement_manager_cluster.h is made of: events that are kept, a net whose
// probes the test answers, a server as placement sees one, a manager's process, a rank.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "common/errors.h"
#include "common/sim_loop.h"
#include "placement/manager/manager.h"
#include "placement/manager/wire.h"
#include "placement/store/sim_store.h"

namespace gemel::placement_test {

class RecordedEvents final : public EventSink {
 public:
  void Emit(Severity, std::string_view name, std::string text) override {
    lines.push_back(std::string(name) + ": " + text);
  }

  bool Has(std::string_view name) const {
    for (const std::string& line : lines) {
      if (line.starts_with(std::string(name) + ":")) {
        return true;
      }
    }
    return false;
  }

  std::string All() const {
    std::string all;
    for (const std::string& line : lines) {
      all += line + "\n";
    }
    return all;
  }

  std::vector<std::string> lines;
};

class NoConnection final : public Connection {
 public:
  void Start(ConnectionEvents*) override {}

  Task<absl::Status> Send(OutgoingFrame) override { co_return error::Unavailable("closed"); }

  void Close(absl::Status) override {}

  std::string peer() const override { return "probe"; }
};

// What a probe finds at an address: a listener, nothing (refused), or silence.
class ProbedNet final : public Net {
 public:
  enum class Answer { kAccepts, kRefuses, kSilent };

  explicit ProbedNet(Loop* loop) : loop_(loop) {}

  Task<absl::StatusOr<std::unique_ptr<Connection>>> Connect(std::string address,
                                                            TimePoint deadline) override {
    connects += 1;
    const Answer answer = answers[address];
    if (answer == Answer::kSilent) {
      co_await loop_->SleepUntil(deadline);
      co_return error::DeadlineExceeded("{} is silent", address);
    }
    co_await loop_->Sleep(Duration(200'000));
    if (answer == Answer::kRefuses) {
      co_return error::Unavailable("{} refuses", address);
    }
    co_return std::unique_ptr<Connection>(std::make_unique<NoConnection>());
  }

  absl::StatusOr<std::unique_ptr<Listener>> Listen(std::string, AcceptCallback) override {
    return error::Unimplemented("no listener here");
  }

  std::map<std::string, Answer> answers;
  int connects = 0;

 private:
  Loop* loop_;
};

class ScriptedCall final : public RpcCall {
 public:
  bool cancelled() const override { return gone; }

  void OnCallerGone(std::function<void()> callback) override { on_gone = std::move(callback); }

  bool gone = false;
  std::function<void()> on_gone;
};

struct ScriptedServer {
  ServerId id;
  Incarnation incarnation;
  std::string name;
  std::string domain;
  std::string address;
  uint64_t capacity = 1 << 30;
  bool running = true;
  bool beating = true;
  bool works = true;           // polls for directives
  bool stores_commits = true;  // acknowledges StoreCommit
  bool disk_hangs = false;     // PersistShard is not answered
  bool pulls_hang = false;     // PullShard is not answered
  bool tier_unread = false;
  uint32_t unanswered = 0;   // what its heartbeats say of their answers
  uint64_t map_version = 0;  // what its heartbeats say of the map
  uint64_t generation = 0;
  uint64_t term = 0;
  std::string cluster;
  std::vector<std::string> last_members;
  std::map<ShardId, pb::HeldObject> objects;
  std::map<SnapshotId, std::string> records;
  std::map<SnapshotId, std::string> manifests;
  std::map<std::string, EpochId> epochs;
  std::set<ShardId> corrupt;
  std::map<ShardId, pb::HeldObject> disk;  // the persistent tier: outlives a kill
  std::map<SnapshotId, std::string> disk_records;
  std::map<SnapshotId, std::string> disk_manifests;
  std::set<SnapshotId> marked;
  absl::Status disk_refuses;  // what PersistShard fails with
  std::string tier_trouble;
  absl::Status joined = error::Unavailable("not joined");
  std::shared_ptr<ScriptedCall> poll;  // shared with the manager's handler
  std::vector<pb::StoreCommit> commits;
  int pulled = 0;
  std::vector<pb::PullShard> pulls;  // as they were told, told again ones too
  absl::Status pull_refuses;         // what PullShard fails with
  uint64_t tier_free = 1 << 30;
  int manifests_fetched = 0;
  int dropped = 0;  // directives to drop a snapshot or staging

  bool Hangs(const pb::Directive& directive) const {
    return (directive.has_pull_shard() && pulls_hang) ||
           (directive.has_store_commit() && !stores_commits) ||
           (directive.has_persist_shard() && disk_hangs);
  }
};

// One manager's process.
struct ManagerNode {
  std::unique_ptr<SimLoop> loop;
  std::unique_ptr<ProbedNet> net;
  std::unique_ptr<SimStore> sim_store;
  std::unique_ptr<PlacementManager> manager;

  // kill -9.
  void Kill() {
    if (loop != nullptr) {
      loop->Kill();
    }
    manager.reset();
    sim_store.reset();
    net.reset();
    loop.reset();
  }
};

// One rank's view of a job's incarnation.
struct JobRun {
  std::string job = "gpt";
  EpochToken token;
  EpochId epoch;
  uint32_t world = 2;
  uint32_t copies = 2;
  uint32_t min_copies = 2;
  pb::Strategy strategy = pb::STRATEGY_GROUP;
  uint32_t keep = 1;
  uint32_t deadline_ms = 5000;
  uint64_t shard_bytes = 1000;
  pb::PersistPolicy persist;
};

}  // namespace gemel::placement_test

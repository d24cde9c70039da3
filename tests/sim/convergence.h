// SPDX-License-Identifier: Apache-2.0
//
// Convergence: what must be true of a cluster some time after everything has healed.
//
//   every job commits again; every committed snapshot has all its copies again, as many as
//   placement says and in different domains where that can be; once the jobs have ended nothing of
//   theirs is left over, a fresh reader reads every snapshot that is committed, and the epochs that
//   a server has seen are on its disk.
//
// Thread safety: one thread. Ownership: everything given outlives it.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "placement/manager/wire.h"
#include "placement/model/records.h"
#include "tests/sim/cluster.h"
#include "tests/sim/job.h"
#include "tests/sim/oracle.h"
#include "tests/sim/strikes.h"

namespace gemel::sim {

class Convergence {
 public:
  struct World {
    std::function<void()> run_for;  // lets it go on for a moment, with restarts and launches
    std::function<bool()> over;     // something was violated, or the run is to end
  };

  Convergence(Cluster* cluster, Oracle* oracle, const GroundTruth* truth, Strikes::Jobs* jobs,
              const World& world);
  ~Convergence();

  // What is damaged without anybody knowing is not counted on, and so cannot be counted right.
  struct Hurt {
    bool memory = false;
    bool disks = false;
    bool refused = false;  // writes: what was not acknowledged need not be on disk
  };

  // Violations go to the oracle.
  void Check(Hurt hurt);

  // A person removes a job that cannot go on.
  void RemoveJob(const std::string& job);

 private:
  bool Within(Duration bound, const std::string& what, const std::function<std::string()>& missing);
  std::string WithoutCommit() const;
  std::string WithoutCopies();
  std::string Unreconciled();
  std::optional<pb::ListSnapshotsReply> List(const std::string& job);
  size_t CountedMembers() const;
  std::string WrongAccounts();
  std::string WrongCopies(const model::CommitRecord& record, uint32_t copies_now);
  bool IsReadable(const model::CommitRecord& record) const;
  bool AwaitCommits();
  void ReadBeside();
  void ReadAll();
  void CheckFences();
  absl::Status ReadAt(uint32_t host, const SnapshotId& snapshot);
  static Task<void> Read(Convergence* self, ClientCore* core, uint32_t host, SnapshotId snapshot,
                         std::shared_ptr<std::optional<absl::Status>> done);
  static Task<absl::Status> ReadShards(Convergence* self, ClientCore* core, uint32_t host,
                                       SnapshotId snapshot);
  template <typename Reply, typename Request>
  std::optional<Reply> Ask(const std::string& method, Request request);

  Cluster* const cluster_;
  Oracle* const oracle_;
  const GroundTruth* const truth_;
  Strikes::Jobs* const jobs_;
  const std::function<void()> run_for_;
  const std::function<bool()> over_;
  Hurt hurt_;
  TimePoint healed_at_;
  std::unique_ptr<Node> operator_;
  std::unique_ptr<RpcChannel> placement_;
};

}  // namespace gemel::sim

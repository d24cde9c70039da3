// SPDX-License-Identifier: Apache-2.0
//
// Launch: one incarnation of a simulated job: a token, a world of ranks on hosts, each a process
// that restores and then saves step after step, as a trainer does.
//
// Thread safety: one thread. Ownership: cluster and oracle outlive it.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "client/core/restore_reader.h"
#include "client/core/shard_writer.h"
#include "tests/sim/cluster.h"
#include "tests/sim/oracle.h"

namespace gemel::sim {

class Launch {
 public:
  // One rank for each entry of `hosts` (indices of servers).
  Launch(Cluster* cluster, Oracle* oracle, JobPlan plan, std::vector<uint32_t> hosts,
         Random random);
  ~Launch();

  // A rank met an error that a trainer cannot go on after: its launcher starts the job anew.
  bool failed() const { return failed_; }

  const absl::Status& failure() const { return failure_; }

  // A newer incarnation has taken over: this one has learned it.
  bool superseded() const { return superseded_; }

  // All ranks have restored, and save.
  bool saving() const { return saving_ranks_ == hosts_.size(); }

  // Has a rank on this server's host.
  // What its ranks are about, for a report.
  std::string At() const;
  bool IsOn(uint32_t server) const;

  bool alive() const { return alive_; }

  // Ranks that were told that they are superseded, and try all the same.
  bool stubborn() const { return stubborn_ranks_ > 0; }

  void Kill();
  void Pause();
  // One of its ranks and the server of its host lose each other. False when that is down.
  bool CutOff(uint64_t draw);
  void Resume();

 private:
  struct Rank {
    std::unique_ptr<Node> node;
    std::unique_ptr<ClientCore> core;
    uint32_t in_flight = 0;
    std::string at = "its epoch";  // what it is about, for a report
    uint32_t process = 0;          // in the history of calls
  };

  Task<void> Train(uint32_t rank);
  Task<absl::StatusOr<EpochId>> Acquire(uint32_t rank);
  Task<absl::StatusOr<uint64_t>> Restore(uint32_t rank, EpochId epoch);
  Task<absl::StatusOr<bool>> RestoreOnce(uint32_t rank, EpochId epoch,
                                         std::shared_ptr<RestoreReader> reader,
                                         OperationIndex call);
  Task<absl::Status> ReadShard(std::shared_ptr<RestoreReader> reader, uint32_t shard);
  Task<absl::Status> Save(uint32_t rank, EpochId epoch, uint64_t step);
  Task<void> AwaitCommit(uint32_t rank, std::shared_ptr<ShardWriter> writer, OperationIndex commit);
  Task<void> GoOnRegardless(uint32_t rank, EpochId epoch);
  bool IsForgotten(const EpochId& epoch, const EpochId& newest) const;
  Task<absl::Status> TryStale(uint32_t rank, EpochId epoch, uint32_t attempt);
  void Fail(uint32_t rank, const absl::Status& status);
  Task<void> Think(uint32_t rank);

  Cluster* const cluster_;
  Oracle* const oracle_;
  JobRecorder* const calls_;
  const JobPlan plan_;
  const std::vector<uint32_t> hosts_;
  Random random_;
  Random odd_;
  Random dawdle_;
  const EpochToken token_;
  const uint32_t saves_in_flight_max_;
  std::vector<Rank> ranks_;
  size_t saving_ranks_ = 0;
  size_t stubborn_ranks_ = 0;
  bool alive_ = true;
  bool failed_ = false;
  bool superseded_ = false;
  absl::Status failure_;
};

}  // namespace gemel::sim

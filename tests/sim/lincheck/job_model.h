// SPDX-License-Identifier: Apache-2.0
//
// JobModel: what the metadata of one job does, one call after the other (DESIGN 3.1 to 3.7, 4,
// amendments 1, 2, 9 and 12). Jobs share nothing, so a history is split by job and each part judged
// alone.
//
//   AcquireEpoch(token)        one token, one epoch: the next counter. Of a superseded token:
//   refused Open(epoch, name, attempt) in the present epoch only; all ranks get one sequence, the
//   next one Commit(epoch, sequence)    told COMMITTED: opened in the present epoch, or committed
//   before it
//                              ended; never after its abort or the job's removal
//   Abort(epoch, sequence)     told ABORTED: it is not committed and never will be
//   Restore(epoch)             one choice for all ranks, before the epoch's first open: `latest`;
//   an
//                              older one only when the newer is told lost, and then for all ranks
//   Latest()                   the newest that is committed
//   Persist(sequence)          told PERSISTED: it was committed; the newest on disk never goes back
//   LatestPersisted()          the newest that is PERSISTED
//   Remove()                   nothing is committed any more; an epoch brings the job back
//
// JobRecorder records calls of clients, one line each. A client repeats what is not answered, so a
// refusal may follow an effect of the same call: it is recorded as both.
//
// Thread safety: values; the recorder belongs to one thread.
#pragma once

#include <compare>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

#include "common/ids.h"
#include "tests/sim/lincheck/check.h"
#include "tests/sim/lincheck/history.h"

namespace gemel::sim {

enum class JobCallKind : uint8_t {
  kAcquireEpoch,
  kOpen,
  kCommit,
  kAbort,
  kRestore,
  kLatest,
  kPersist,
  kLatestPersisted,
  kRemove,
};

// One call with its answer. A sequence of 0 is "none".
struct JobCall {
  JobCallKind kind = JobCallKind::kLatest;
  std::string job;
  EpochToken token;       // kAcquireEpoch
  EpochId epoch;          // the caller's; of kAcquireEpoch the answer
  uint64_t sequence = 0;  // of kOpen, kRestore, kLatest and kLatestPersisted the answer
  std::string name;       // kOpen
  uint32_t attempt = 0;   // kOpen
  bool lost = false;      // kRestore: newer ones were told lost

  friend bool operator==(const JobCall&, const JobCall&) = default;
};

class JobModel {
 public:
  using Call = JobCall;

  // `ghosts`: calls may be executed once more long after their answer. An open of a name that is
  // forgotten since takes a sequence then, and nobody waits for it.
  explicit JobModel(bool ghosts = false) : ghosts_(ghosts) {}

  struct State {
    EpochId epoch;
    std::map<EpochToken, uint64_t> counters;  // of epochs, by token
    uint64_t last_sequence = 0;
    std::map<std::pair<std::string, uint32_t>, uint64_t> opened;  // in `epoch`
    std::set<uint64_t> committed;
    std::set<uint64_t> aborted;
    std::optional<uint64_t> chosen;  // by the restore of `epoch`
    uint64_t latest = 0;
    uint64_t persisted = 0;
    bool removed = false;

    friend auto operator<=>(const State&, const State&) = default;
    friend bool operator==(const State&, const State&) = default;
  };

  State Initial() const { return {}; }

  static bool Alike(const Call& a, const Call& b) { return a == b; }

  // What is committed after it found nothing is taken away by one that takes effect late.
  static bool StaysIdle(const Call& call) { return call.kind != JobCallKind::kRemove; }

  void Step(const State& state, const Operation<Call>& operation, std::vector<State>* after) const;
  std::string Describe(const Operation<Call>& operation) const;
  std::string Describe(const State& state) const;

 private:
  static void Acquire(const State& state, const Operation<Call>& operation,
                      std::vector<State>* after);
  void Open(const State& state, const Operation<Call>& operation, std::vector<State>* after) const;
  static void Commit(const State& state, const Operation<Call>& operation,
                     std::vector<State>* after);
  static void Restore(const State& state, const Operation<Call>& operation,
                      std::vector<State>* after);

  bool ghosts_;
};

// The parts of a history that are judged alone, by job.
std::map<std::string, History<JobCall>> SplitByJob(const History<JobCall>& history);

// Judges all jobs; the verdict names the job of the first that is not linearisable.
Verdict CheckJobs(const History<JobCall>& history, CheckLimits limits = {}, bool ghosts = false);

class JobRecorder {
 public:
  OperationIndex AcquireEpoch(uint32_t process, std::string job, EpochToken token);
  OperationIndex Open(uint32_t process, std::string job, EpochId epoch, std::string name,
                      uint32_t attempt);
  // From before the rank's seal: the commit may happen from then on.
  OperationIndex Commit(uint32_t process, std::string job, EpochId epoch, uint64_t sequence);
  OperationIndex Restore(uint32_t process, std::string job, EpochId epoch);
  OperationIndex Latest(uint32_t process, std::string job);
  OperationIndex Persist(uint32_t process, std::string job, uint64_t sequence);
  OperationIndex Remove(uint32_t process, std::string job);

  // FailedPrecondition: the epoch or token was superseded. Any other error: unknown.
  void Acquired(OperationIndex index, const absl::StatusOr<EpochId>& answer);
  void Opened(OperationIndex index, const absl::StatusOr<SnapshotId>& answer);
  // OK: told COMMITTED. Any error: unknown, the record may be written all the same.
  void Committed(OperationIndex index, const absl::Status& answer);
  // What every rank was told to begin from; none: the job never committed.
  void Restored(OperationIndex index, const absl::StatusOr<std::optional<SnapshotId>>& answer,
                bool newer_are_lost);
  // Of the other calls; `sequence` is what Latest() read.
  void Ended(OperationIndex index, const absl::Status& answer, uint64_t sequence = 0);

  const Recorder<JobCall>& recorder() const { return recorder_; }

  // Of everything so far. A history that was too long is kUndecided.
  Verdict Check(CheckLimits limits = {}, bool ghosts = false) const;

  // The MetaStore was lost and what servers know is taken for it: another object begins, which is
  // not judged.
  void End() { recorder_.End(); }

 private:
  void Unknown(OperationIndex index);

  Recorder<JobCall> recorder_;
};

}  // namespace gemel::sim

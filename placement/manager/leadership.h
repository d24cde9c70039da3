// SPDX-License-Identifier: Apache-2.0
//
// Leadership: which of several managers on one MetaStore decides, without leases or locks of the
// store (docs/decisions/0008). Two keys: `leader` names the leader and its term and changes with
// each election; `leader-beat` is put by the leader every beat_every.
//
//   safety    every transaction of a manager compares the version of `leader`: a deposed one
//             changes nothing, whatever its clock says
//   liveness  a standby that saw `leader-beat` stand still for takeover_after, on its own clock and
//             with the store answering all that while, puts itself into `leader`
//   reads     a leader answers only until serve_for after it began its last beat. The claim of
//             another compares the beat that it saw, so it comes takeover_after later at the
//             earliest: clocks may run at rates up to takeover_after / serve_for apart
//
// A manager that owns its store alone (embedded RocksDB) takes `leader` at once and never beats.
//
// Thread safety: one loop.
// Ownership: PlacementManager owns it; the seams outlive it. Stop() ends Campaign() and Beat().
// Invariants:
//   (1) terms grow with every claim; two managers never have the same;
//   (2) after a refused transaction this manager does not lead until it has claimed again;
//   (3) no claim compares an own one of unknown outcome: once one of those is applied, the others
//       never are.
// Errors: Unavailable when the store does not answer; Cancelled after Stop().
#pragma once

#include <optional>
#include <string>

#include "absl/status/status.h"

#include "common/sync.h"
#include "placement/manager/manager.h"
#include "placement/manager/stored.h"

namespace gemel {

class Leadership {
 public:
  Leadership(const PlacementOptions& options, const PlacementSeams& seams);

  // Takes the store over at once. REQUIRES: no other manager may use it (shared_store is false).
  Task<absl::Status> Seize();
  // Returns when this manager leads, or with Cancelled after Stop(). REQUIRES: shared_store.
  Task<absl::Status> Campaign();
  // Keeps what Campaign() won; returns when deposed or stopped.
  Task<void> Beat();
  // Returns when this manager leads no more, or after Stop().
  Task<void> WaitUntilDeposed();
  // Gives the leadership up, so that a standby need not wait. For an orderly end.
  Task<void> Resign();
  void Stop();

  // A claim of the same leader with a term of at least `term`: a recovered cluster goes on above
  // all terms that its servers have seen.
  Task<absl::Status> RaiseTerm(uint64_t term);

  // True when this manager may answer a call now.
  bool Leads() const;
  // StandsBy(): the call was not executed; names who leads. FailedPrecondition: the store is older
  // than the cluster, or is not this manager's alone.
  absl::Status NotLeading() const;

  // False from a refused transaction on until it has claimed again. Says nothing of reads.
  bool HoldsTerm() const { return version_ != 0; }

  // What every transaction of this manager compares. REQUIRES: HoldsTerm().
  Txn::Compare Compare() const;
  // The store refused a transaction although its other compares were what this manager wrote last.
  absl::Status Refused(const std::string& key);
  // A caller has obeyed a leader with a higher term: asks the store who leads.
  void SeenNewer(uint64_t term);

  uint64_t term() const { return record_.term; }

  // Drawn at each election.
  const Incarnation& claim() const { return record_.manager; }

  std::string Describe() const;

 private:
  struct Seen {
    std::optional<Versioned> leader;
    std::optional<Versioned> beat;
  };

  // What a standby has seen so far.
  struct Watch {
    Seen last;
    TimePoint since{};  // when `last` was seen first, without a gap since
    TimePoint looked{};
  };

  // What became of a claim.
  enum class Claim { kWon, kLost, kUnknown };

  // A claim of this manager, begun at `since`, that may have been applied, or may yet be.
  struct Unknown {
    LeaderRecord record;
    TimePoint since{};
  };

  Task<absl::StatusOr<Seen>> Look();
  Task<absl::StatusOr<Claim>> TakeOver(const Seen* seen, uint64_t term);
  bool IsOwn(const std::optional<Versioned>& leader);
  bool IsStill(const Seen& seen, Watch* watch) const;
  void Won(const LeaderRecord& claim, uint64_t version, TimePoint since);
  Task<void> BeatOnce();
  void Depose(const std::string& why);
  void Remember(const Seen& seen);

  const PlacementOptions options_;
  const PlacementSeams seams_;
  Loop* const loop_;
  LeaderRecord record_;  // as this manager put it last
  std::vector<Unknown> unknown_;
  uint64_t version_ = 0;      // of record_ in the store; 0: does not lead
  LeaderRecord other_;        // who leads, as it was read last
  TimePoint serves_until_{};  // by the last beat
  uint64_t beats_ = 0;
  absl::Status unfit_;  // why this manager must not decide any more, until a person has acted
  bool doubted_ = false;
  bool stopped_ = false;
  WaitQueue changed_;
  Metric& leads_;
  Metric& elections_;
};

}  // namespace gemel

// SPDX-License-Identifier: Apache-2.0
//
// SimStore: the simulator's MetaStore, with what etcd does wrong as knobs. SimStoreState is the
// store itself: it outlives the kill of the process that used it, may be used by several managers
// at once, and carries the knobs of the fault injector.
//
// What a SimStore may do, because a real store may:
//   * answer a read from an older state, though never older than one that this SimStore has
//     answered from (MetaStore, 3): whoever decides on it must compare what it read;
//   * tell an outcome as Unknown: applied, never applied, or applied after the answer, even after
//     the death of who asked;
//   * refuse as full, be gone for all (`unavailable`) or for some calls (a change of etcd's
//   leader),
//     be slow.
// What it cannot do, because MetaStore has neither watches nor leases: miss, repeat or reorder
// events, compact what a watcher still needs, forget or keep a lease. Limits: CheckTxn().
//
// Thread safety: one thread (the simulator's).
// Ownership: the state outlives every SimStore on it.
// Errors: as MetaStore; DataLoss once the state was put back (RestoreBackup) below what this
// SimStore has seen.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <memory>

#include "common/loop.h"
#include "common/random.h"
#include "placement/store/meta_store.h"

namespace gemel {

// Transactions that can be undone: how far a stale read or a restored backup goes back.
inline constexpr size_t kSimHistoryMax = 64;
// Transactions that are applied after their answer; further ones are dropped.
inline constexpr size_t kSimLateMax = 64;

struct SimStoreState {
  // What one transaction changed.
  struct Undo {
    uint64_t version = 0;  // before it
    std::map<std::string, std::optional<Versioned>> values;
  };

  struct Late {
    TimePoint due{};  // by the clock of whoever asks next
    Txn txn;
  };

  std::map<std::string, Versioned> values;
  uint64_t version = 0;  // of the newest applied transaction
  std::deque<Undo> history;
  std::deque<Late> late;

  // Knobs. Chances are parts in 1000, drawn from `random`.
  Random random{1};
  Duration latency_min = Duration(50'000);
  Duration latency_max = Duration(500'000);
  bool full = false;                  // Commit(): ResourceExhausted
  bool unavailable = false;           // every call: Unavailable
  uint32_t unavailable_next = 0;      // so many calls more, then it works again
  uint32_t unavailable_permille = 0;  // of calls
  uint32_t stale_permille = 0;        // of Get() and List(): some transactions behind
  uint32_t unknown_permille = 0;
  // What happens to a transaction whose outcome is told as Unknown: applied before the answer;
  // otherwise, of the rest, after it within `late_max`; otherwise never.
  uint32_t unknown_applied_permille = 500;
  uint32_t unknown_late_permille = 0;
  Duration late_max = 2s;
  uint32_t unknown_next = 0;  // the next so many transactions are Unknown, whatever the chance

  uint64_t transactions = 0;  // applied, for tests
  // Called after each applied transaction: what an oracle watches.
  std::function<void(const Txn&)> on_applied;

  // A backup is restored that lacks the newest `transactions`, at most kSimHistoryMax.
  void RestoreBackup(size_t transactions);
  // All of it is gone; an empty one takes its place, with the same knobs. REQUIRES: nobody who used
  // it lives.
  void Lose();
};

class SimStore final : public MetaStore {
 public:
  SimStore(Loop* loop, SimStoreState* state) : loop_(loop), state_(state) {}

  Task<absl::StatusOr<std::optional<Versioned>>> Get(std::string key) override;
  Task<absl::StatusOr<std::vector<KeyValue>>> List(std::string prefix) override;
  Task<absl::StatusOr<CommitResult>> Commit(Txn txn) override;

  std::string name() const override { return "simulated store"; }

  // This process cannot reach the store; others can.
  void set_cut(bool cut) { cut_ = cut; }

  // Its calls wait; half of the transactions are applied, and answered late.
  void set_hung(bool hung) { hung_ = hung; }

  // A transaction that this process begins now is taken, and answered at once.
  bool is_well() const {
    return !cut_ && !hung_ && late_answers_ == 0 && !state_->full && !state_->unavailable;
  }

 private:
  Task<absl::Status> Reach(bool passes);
  const std::map<std::string, Versioned>& ReadState(std::map<std::string, Versioned>* older);
  absl::Status CheckNotPutBack();
  void ApplyLate();
  bool TellUnknown();
  CommitResult Apply(const Txn& txn);

  Loop* loop_;
  SimStoreState* state_;
  bool cut_ = false;
  bool hung_ = false;
  uint32_t late_answers_ = 0;  // transactions that are applied, and not answered yet
  uint64_t seen_ = 0;          // the highest version that was answered from
};

}  // namespace gemel

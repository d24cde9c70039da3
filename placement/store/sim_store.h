// SPDX-License-Identifier: Apache-2.0
//
// SimStore: the simulator's MetaStore. SimStoreState is the "disk": it outlives the kill of the
// process that used it, and carries the knobs of the fault injector.
//
// Thread safety: one thread (the simulator's).
// Ownership: the state outlives every SimStore on it.
#pragma once

#include <functional>
#include <map>
#include <memory>

#include "common/loop.h"
#include "common/random.h"
#include "placement/store/meta_store.h"

namespace gemel {

struct SimStoreState {
  std::map<std::string, Versioned> values;
  uint64_t version = 0;  // of the newest applied transaction

  // Knobs. Chances are parts in 1000, drawn from `random`.
  Random random{1};
  Duration latency_min = Duration(50'000);
  Duration latency_max = Duration(500'000);
  bool full = false;         // Commit(): ResourceExhausted
  bool unavailable = false;  // every call: Unavailable
  uint32_t unknown_permille = 0;
  // What happens to a transaction whose outcome is told as Unknown.
  uint32_t unknown_applied_permille = 500;
  uint32_t unknown_next = 0;  // the next so many transactions are Unknown, whatever the chance

  uint64_t transactions = 0;  // applied, for tests
  // Called after each applied transaction: what an oracle watches.
  std::function<void(const Txn&)> on_applied;
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

 private:
  Task<void> Delay();
  absl::Status Available() const;
  CommitResult Apply(const Txn& txn);

  Loop* loop_;
  SimStoreState* state_;
  bool cut_ = false;
};

}  // namespace gemel

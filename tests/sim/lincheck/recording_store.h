// SPDX-License-Identifier: Apache-2.0
//
// RecordingStore: a MetaStore that records what is asked of another one and what it answers.
// Several clients of one store share one recorder; each has a RecordingStore of its own.
// CheckStore() judges.
//
//   Unknown from Commit()                        unknown
//   every other error of Commit()                not applied, as the contract says
//   an error of Get() or List()                  says nothing, as does a call that never ends
//
// Thread safety: the recorder's thread. Ownership: recorder and inner store outlive it.
#pragma once

#include <string>
#include <vector>

#include "placement/store/meta_store.h"
#include "tests/sim/lincheck/history.h"
#include "tests/sim/lincheck/store_model.h"

namespace gemel::sim {

using StoreRecorder = Recorder<StoreCall>;

class RecordingStore final : public MetaStore {
 public:
  RecordingStore(MetaStore* inner, StoreRecorder* recorder, uint32_t process)
      : inner_(inner), recorder_(recorder), process_(process) {}

  Task<absl::StatusOr<std::optional<Versioned>>> Get(std::string key) override;
  Task<absl::StatusOr<std::vector<KeyValue>>> List(std::string prefix) override;
  Task<absl::StatusOr<CommitResult>> Commit(Txn txn) override;

  std::string name() const override { return inner_->name(); }

 private:
  MetaStore* const inner_;
  StoreRecorder* const recorder_;
  const uint32_t process_;
};

}  // namespace gemel::sim

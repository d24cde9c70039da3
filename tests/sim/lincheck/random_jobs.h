// SPDX-License-Identifier: Apache-2.0
//
// Random histories of the metadata of jobs, valid and mutated: as random_stores.h.
//
// Thread safety: pure functions of the stream that is handed in.
#pragma once

#include <cstdint>
#include <string_view>

#include "common/random.h"
#include "tests/sim/lincheck/job_model.h"

namespace gemel::sim {

struct JobShape {
  uint32_t processes = 5;
  uint32_t jobs = 1;
  size_t operations = 80;
  uint32_t unknown_permille = 60;
  bool removals = false;
};

// Linearisable, by construction.
History<JobCall> RandomJobHistory(const JobShape& shape, Random* random);

enum class JobMutation : uint8_t {
  kEpochTwice,           // two tokens get one epoch
  kTokenRenewed,         // a superseded token gets another epoch
  kLostAcquire,          // an epoch that others came after was never acquired
  kSequenceTwice,        // two saves get one sequence
  kLostOpen,             // a sequence that others came after was never given
  kFencedCommit,         // a commit of an old epoch after a newer one was told
  kCommitAfterAbort,     // told aborted, then told committed
  kStaleLatest,          // latest goes back
  kRestoreInvented,      // one rank begins from what was never committed
  kRestoreOlder,         // one rank begins from an older one, and nothing is told lost
  kPersistBeforeCommit,  // PERSISTED ends before the commit begins
  kPersistedBack,        // the newest on disk goes back
  kRemovedIsThere,       // latest after a removal
};

inline constexpr JobMutation kJobMutations[] = {JobMutation::kEpochTwice,
                                                JobMutation::kTokenRenewed,
                                                JobMutation::kLostAcquire,
                                                JobMutation::kSequenceTwice,
                                                JobMutation::kLostOpen,
                                                JobMutation::kFencedCommit,
                                                JobMutation::kCommitAfterAbort,
                                                JobMutation::kStaleLatest,
                                                JobMutation::kRestoreInvented,
                                                JobMutation::kRestoreOlder,
                                                JobMutation::kPersistBeforeCommit,
                                                JobMutation::kPersistedBack,
                                                JobMutation::kRemovedIsThere};

std::string_view NameOf(JobMutation mutation);

// Makes the history of one job without removals wrong; false when it has no place for this kind.
bool Mutate(JobMutation mutation, History<JobCall>* history, Random* random);

}  // namespace gemel::sim

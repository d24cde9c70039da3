// SPDX-License-Identifier: Apache-2.0
//
// Random histories of a MetaStore: valid ones, from a run of overlapping clients over a true store,
// and mutated ones, each wrong for a reason that its kind names. What checks the checker.
//
// Thread safety: pure functions of the stream that is handed in.
#pragma once

#include <cstdint>
#include <string_view>

#include "common/random.h"
#include "tests/sim/lincheck/store_model.h"

namespace gemel::sim {

struct StoreShape {
  uint32_t processes = 4;
  uint32_t keys = 3;
  size_t operations = 60;
  uint32_t unknown_permille = 60;
  uint32_t commit_permille = 550;
};

// Linearisable, by construction. Values of two transactions always differ.
History<StoreCall> RandomStoreHistory(const StoreShape& shape, Random* random);

enum class StoreMutation : uint8_t {
  kStaleRead,        // a read gives what a transaction that ended before it had replaced
  kFutureRead,       // a read gives what a transaction that began after it put
  kSwappedReads,     // two reads, one after the other, exchange what they saw
  kVanishedKey,      // a read finds nothing of a key that was put before and is never deleted
  kLostUpdate,       // two applied transactions began from one version
  kReordered,        // a transaction ends before that began whose version it compares
  kTwice,            // one transaction is applied a second time
  kUnknownFailed,    // an unknown outcome that was seen is told as not applied
  kAppliedRefused,   // an applied transaction that was seen is told as not applied
  kVersionsCrossed,  // two transactions, one after the other, exchange their versions
};

inline constexpr StoreMutation kStoreMutations[] = {
    StoreMutation::kStaleRead,      StoreMutation::kFutureRead,    StoreMutation::kSwappedReads,
    StoreMutation::kVanishedKey,    StoreMutation::kLostUpdate,    StoreMutation::kReordered,
    StoreMutation::kTwice,          StoreMutation::kUnknownFailed, StoreMutation::kAppliedRefused,
    StoreMutation::kVersionsCrossed};

std::string_view NameOf(StoreMutation mutation);

// Makes the history wrong; false when it has no place for this kind.
bool Mutate(StoreMutation mutation, History<StoreCall>* history, Random* random);

}  // namespace gemel::sim

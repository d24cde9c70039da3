// SPDX-License-Identifier: Apache-2.0
//
// Large changes in transactions that every MetaStore takes (kMetaTxnOpsMax, kMetaTxnBytesMax).
//
// Thread safety: pure functions.
#pragma once

#include <vector>

#include "placement/store/meta_store.h"

namespace gemel {

// What each part leaves room for: one compare and one put of the caller's.
inline constexpr size_t kPartSpareBytes = 8 * kKiB;
// Snapshots that one transaction lets go of: two keys each, the job's, the leader's, and how they
// ended.
inline constexpr size_t kLeavingMax = 48;
static_assert(2 * kLeavingMax + 3 <= kMetaTxnOpsMax);

// The puts and deletes of `whole` in order, in as few transactions as hold them; none when there
// are none. REQUIRES: no compares, and every put fits by itself.
std::vector<Txn> InParts(Txn whole);

}  // namespace gemel

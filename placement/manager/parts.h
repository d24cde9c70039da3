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
// Snapshots that one transaction lets go of: two keys each, and the job's.
inline constexpr size_t kLeavingMax = 48;
static_assert(2 * kLeavingMax + 2 <= kMetaTxnOpsMax);

// The puts and deletes of `whole` in order, in as few transactions as hold them; none when there
// are none. REQUIRES: no compares, and every put fits by itself.
std::vector<Txn> InParts(Txn whole);

}  // namespace gemel

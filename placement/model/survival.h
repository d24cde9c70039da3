// SPDX-License-Identifier: Apache-2.0
//
// Survival: the probability that no shard loses all its copies when k of the N placeable members,
// each k-subset as likely as another, die at once.
//
// Exact values count the k-subsets that contain no holder set. Holder sets that share no member
// multiply (as polynomials in the number of losses), so groups cost nothing; a ring of all members
// has a closed form; sets that were moved for their domains, and the ring of a mixed assignment,
// are counted by branching on the member that is in most sets (dead or alive). Counts are at most
// C(16384, 8) < 2^98.
//
// Thread safety: pure functions; any thread.
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"

#include "placement/model/assignment.h"
#include "placement/model/fraction.h"

namespace gemel::model {

// A bound on the branching of ExactSurvival: it gives up in less than a second.
inline constexpr uint32_t kSurvivalStepsMax = 1u << 18;

// P(every shard keeps a copy | k placeable members die), exact.
// InvalidArgument when k > N or k > kLossesMax. ResourceExhausted when the holder sets are so
// entangled that counting takes more than kSurvivalStepsMax steps (never for group, mixed and ring
// assignments whose `moved` is empty).
absl::StatusOr<Fraction> ExactSurvival(const Assignment& assignment, uint32_t k);

// The same for a ring of all N members, each storing on its m - 1 successors: 1 - P(m neighbours
// die), by counting along the ring. REQUIRES: 1 <= m <= N <= kMembersMax, k <= min(N, kLossesMax).
Fraction RingSurvival(uint32_t n, uint32_t m, uint32_t k);

// Gemini's Corollary 1, for m | N: 1 when k < m, otherwise
//   max(0, 1 - N * C(N-m, k-m) / (m * C(N, k))).
// A union bound: exact for k < 2m, below the exact value from there on.
// REQUIRES: 1 <= m <= kCopiesMax, k <= N <= kMembersMax, k <= kLossesMax.
Fraction Corollary1(uint32_t n, uint32_t m, uint32_t k);

// The union bound of a ring, 1 when k < m, otherwise max(0, 1 - N * C(N-m, k-m) / C(N, k)).
// REQUIRES: as Corollary1.
Fraction RingBound(uint32_t n, uint32_t m, uint32_t k);

}  // namespace gemel::model

// SPDX-License-Identifier: Apache-2.0
//
// Steps of BuildGroups that look at domains: choosing the ring, dealing groups and rows, and moving
// copies out of a shared domain. assignment.h says why each is done the way it is.
//
// Thread safety: pure functions; any thread.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "placement/model/cluster_map.h"

namespace gemel::model {

using HolderTable = std::vector<std::vector<uint32_t>>;

// Takes `count` members out of `order` (a DomainOrder) for the ring, members of one domain at
// `level` far apart: each time one of a domain that the ring has fewest of, of these the one with
// most members left, and in it the member whose finer domains have most members left.
// REQUIRES: count <= order.size().
std::vector<uint32_t> TakeRing(std::span<const Member> members, uint32_t level, size_t count,
                               std::vector<uint32_t>& order);

// Deals `order` to groups of `copies` in turn. REQUIRES: copies divides order.size().
std::vector<std::vector<uint32_t>> DealGroups(std::span<const uint32_t> order, uint32_t copies);

// A ring of all placeable members in which any `copies` neighbours are of different domains at
// `level` when that can be had: when no domain has more than R = floor(N / copies) members.
//
// The members are dealt in turn to R rows, domains of exactly R members first, then in DomainOrder,
// and the ring is the rows one after the other. A domain of exactly R has one member in each row,
// in one column: neighbours in the ring are a row apart, at least `copies` places. A smaller one
// that runs on into the next column has at least one row free between its end and its beginning,
// and so at least twice the length of a row less one place. REQUIRES: 1 <= copies <= N.
std::vector<uint32_t> RingOrder(std::span<const Member> members, uint32_t level, uint32_t copies);

// True when two of `holders` have the same id.
bool SharesDomain(std::span<const uint32_t> holders, std::span<const uint32_t> domain_ids);

struct Separation {
  HolderTable holders;
  std::vector<uint32_t> moved;      // Owners whose holder set was changed; ascending.
  std::vector<uint32_t> conflicts;  // Owners that still share a domain; ascending.
};

// Moves each copy that shares a domain of an earlier one of its set to a placeable member of a
// domain the set has not: the one with the fewest copies, then the next after the owner by index.
// `load_max`: no member gets more copies than this; none: no limit.
Separation Separate(std::span<const Member> members, std::span<const uint32_t> domain_ids,
                    HolderTable holders, std::optional<uint32_t> load_max);

}  // namespace gemel::model

// SPDX-License-Identifier: Apache-2.0
#include "placement/model/room.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "common/check.h"

namespace gemel::model {
namespace {

constexpr size_t kServersNamedMax = 8;

enum class Expecting : uint8_t { kNothing, kLocalCopies };

class Placing {
 public:
  Placing(const RepairPlanner& planner, const ShardRequest& shard, const SnapshotRoom& room)
      : planner_(planner), shard_(shard), room_(room), owner_(shard.preferred.front()) {
    GEMEL_CHECK(room.memory && room.staged_bytes && room.expected_bytes);
    GEMEL_CHECK_LT(owner_, planner.members());
  }

  PlacedShard Run() {
    const Admission local = Admit({&owner_, 1}, Expecting::kNothing);
    if (local.verdict == Verdict::kRefuse) {
      return Short(local, "the first copy is always at the rank's own server");
    }
    PlacedShard placed = PlaceOthers();
    if (local.verdict == Verdict::kWait && placed.verdict != Verdict::kRefuse) {
      return {.verdict = Verdict::kWait, .status = local.status};
    }
    return placed;
  }

 private:
  // Of the owner it is known that it does not refuse.
  PlacedShard PlaceOthers() {
    const Admission careful = Admit(shard_.preferred, Expecting::kLocalCopies);
    if (careful.verdict == Verdict::kAccept) {
      return {.holders = shard_.preferred};
    }
    if (careful.verdict == Verdict::kRefuse) {
      const RepairTargets beside = Targets(Expecting::kLocalCopies, Verdict::kAccept);
      if (!beside.blocked) {
        return Elsewhere(beside, careful);
      }
    }
    const Admission plain = Admit(shard_.preferred, Expecting::kNothing);
    if (plain.verdict == Verdict::kAccept) {
      return {.holders = shard_.preferred};
    }
    if (plain.verdict == Verdict::kWait) {
      return {.verdict = Verdict::kWait, .status = plain.status};
    }
    return WithoutPreferred(plain);
  }

  const ServerMemory& Memory(uint32_t member) {
    const auto found = memory_.find(member);
    return found != memory_.end() ? found->second
                                  : memory_.emplace(member, room_.memory(member)).first->second;
  }

  // What `member` would have to take of this snapshot, this copy included.
  uint64_t Staging(uint32_t member, Expecting expecting) const {
    uint64_t bytes = room_.staged_bytes(member) + shard_.bytes;
    if (expecting == Expecting::kLocalCopies && member != owner_) {
      bytes += room_.expected_bytes(member);
    }
    GEMEL_CHECK_GE(bytes, shard_.bytes) << "more bytes than can be counted";
    return bytes;
  }

  Admission Admit(std::span<const uint32_t> members, Expecting expecting) {
    std::vector<ServerMemory> servers;
    std::vector<uint64_t> staging;
    for (const uint32_t member : members) {
      GEMEL_CHECK_LT(member, planner_.members());
      servers.push_back(Memory(member));
      staging.push_back(Staging(member, expecting));
    }
    return AdmitSnapshot(servers, staging);
  }

  std::vector<uint32_t> WithoutRoom(Expecting expecting, Verdict worst) {
    std::vector<uint32_t> barred;
    for (uint32_t member = 0; member < planner_.members(); ++member) {
      if (member != owner_ && Admit({&member, 1}, expecting).verdict > worst) {
        barred.push_back(member);
      }
    }
    return barred;
  }

  // Where the other copies go when only members may take them whose verdict is no worse.
  RepairTargets Targets(Expecting expecting, Verdict worst) {
    return planner_.TargetsOf({.holders = {owner_}, .barred = WithoutRoom(expecting, worst)});
  }

  PlacedShard Elsewhere(const RepairTargets& found, const Admission& preferred) const {
    PlacedShard placed{.holders = {owner_}, .elsewhere = true, .status = preferred.status};
    placed.holders.insert(placed.holders.end(), found.targets.begin(), found.targets.end());
    GEMEL_CHECK_EQ(placed.holders.size(), shard_.preferred.size());
    return placed;
  }

  PlacedShard WithoutPreferred(const Admission& preferred) {
    const RepairTargets now = Targets(Expecting::kNothing, Verdict::kAccept);
    if (!now.blocked) {
      return Elsewhere(now, preferred);
    }
    if (!Targets(Expecting::kNothing, Verdict::kWait).blocked) {
      return {.verdict = Verdict::kWait, .status = preferred.status};
    }
    return Short(preferred, Others(now.targets));
  }

  // `asked`: of the owner alone, or of the preferred ones; the owner is the first of both.
  PlacedShard Short(const Admission& asked, std::string_view elsewhere) {
    if (asked.verdict == Verdict::kWait) {
      return {.verdict = Verdict::kWait, .status = asked.status};
    }
    const ServerMemory& server = Memory(shard_.preferred[*asked.worst]);
    return {.verdict = Verdict::kRefuse,
            .status = Shortage(server, asked.demands[*asked.worst], asked.verdict, elsewhere)};
  }

  // What the others have. `best`: the most that could be had, which is too little.
  std::string Others(std::span<const uint32_t> best) {
    std::vector<uint32_t> apart;  // of these, and of other domains than the owner and each other
    std::set<uint32_t> domains = {planner_.domain(owner_)};
    for (const uint32_t member : best) {
      if (domains.insert(planner_.domain(member)).second) {
        apart.push_back(member);
      }
    }
    std::string text;
    size_t others = 0;
    for (uint32_t member = 0; member < planner_.members(); ++member) {
      const std::vector<uint32_t>& preferred = shard_.preferred;
      if (!planner_.placeable(member) ||
          std::find(preferred.begin(), preferred.end(), member) != preferred.end()) {
        continue;
      }
      others += 1;
      if (others <= kServersNamedMax) {
        const bool fits = std::find(apart.begin(), apart.end(), member) != apart.end();
        text += (others == 1 ? "elsewhere " : ", ") + Describe(member, fits);
      }
    }
    if (others == 0) {
      return "there is no other server";
    }
    return others <= kServersNamedMax
               ? text
               : fmt::format("{} and {} servers more", text, others - kServersNamedMax);
  }

  std::string Describe(uint32_t member, bool fits) {
    const ServerMemory& server = Memory(member);
    const MemoryDemand demand = DemandOn(server, Staging(member, Expecting::kNothing));
    const uint64_t used = demand.committed_bytes + demand.in_flight_bytes;
    const bool room = demand.Total() <= server.capacity_bytes;
    return fmt::format("{} has {} bytes free of {} needed{}", server.name,
                       server.capacity_bytes - std::min(used, server.capacity_bytes),
                       demand.staging_bytes + demand.pin_bytes,
                       room && !fits ? " but shares a failure domain with a copy" : "");
  }

  const RepairPlanner& planner_;
  const ShardRequest& shard_;
  const SnapshotRoom& room_;
  const uint32_t owner_;
  std::map<uint32_t, ServerMemory> memory_;
};

}  // namespace

PlacedShard PlaceShard(const RepairPlanner& planner, const ShardRequest& shard,
                       const SnapshotRoom& room) {
  GEMEL_CHECK(!shard.preferred.empty()) << "a shard without an owner";
  PlacedShard placed = Placing(planner, shard, room).Run();
  GEMEL_CHECK_EQ(placed.verdict == Verdict::kAccept, !placed.holders.empty());
  return placed;
}

}  // namespace gemel::model

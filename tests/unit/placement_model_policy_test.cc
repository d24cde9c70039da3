// SPDX-License-Identifier: Apache-2.0
//
// Receipts, changes of the members, admission and retention.
#include <algorithm>
#include <set>

#include "gtest/gtest.h"

#include "placement/model/admission.h"
#include "placement/model/receipts.h"
#include "placement/model/retarget.h"
#include "placement/model/retention.h"
#include "tests/unit/placement_model_shapes.h"

namespace gemel::model {
namespace {

using Indices = std::vector<uint32_t>;

TEST(PlacementModelReceipts, CountsDomainsAtTheLevelAndMembersOnce) {
  const std::vector<Member> members = InDomains({"r0/h0", "r0/h1", "r1/h0"});
  EXPECT_EQ(CountDistinctDomains(members, Indices{0, 1}, 1), 1u);
  EXPECT_EQ(CountDistinctDomains(members, Indices{0, 1}, 2), 2u);
  EXPECT_EQ(CountDistinctDomains(members, Indices{0, 2, 2, 0}, 1), 2u);
  EXPECT_EQ(CountDistinctDomains(members, Indices{}, 1), 0u);
  EXPECT_EQ(CountReceipts(members, Indices{2, 2}, {2, 2}, RuleOn(members, 2)).copies, 1u);
}

TEST(PlacementModelReceipts, NeedsMinCopiesInDifferentDomains) {
  const std::vector<Member> members = InDomains({"a", "a", "b", "c"});
  const DomainRule rule = RuleOn(members, 1);
  const CopyPolicy two{.copies = 2, .min_copies = 2};
  EXPECT_FALSE(EnoughReceipts(members, Indices{0}, two, rule));
  EXPECT_FALSE(EnoughReceipts(members, Indices{0, 1}, two, rule));
  EXPECT_TRUE(EnoughReceipts(members, Indices{0, 2}, two, rule));
  const CopyPolicy loose{.copies = 3, .min_copies = 1};
  const ReceiptCount one = CountReceipts(members, Indices{1}, loose, rule);
  EXPECT_TRUE(one.enough);
  EXPECT_FALSE(one.full);
  EXPECT_FALSE(CountReceipts(members, Indices{0, 1, 2}, loose, rule).full);
  EXPECT_TRUE(CountReceipts(members, Indices{0, 2, 3}, loose, rule).full);
}

TEST(PlacementModelReceipts, FewDomainsNeverLowerTheNumberOfCopies) {
  const CopyPolicy two{.copies = 2, .min_copies = 2};
  const std::vector<Member> one_rack = InDomains({"a", "a", "a"});
  EXPECT_FALSE(EnoughReceipts(one_rack, Indices{1}, two, RuleOn(one_rack, 1)));
  EXPECT_TRUE(EnoughReceipts(one_rack, Indices{1, 2}, two, RuleOn(one_rack, 1)));
  const std::vector<Member> survivor = InDomains({"a"});
  EXPECT_FALSE(EnoughReceipts(survivor, Indices{0}, two, RuleOn(survivor, 1)));
  EXPECT_FALSE(EnoughReceipts({}, Indices{}, two, RuleOn({}, 1)));
}

TEST(PlacementModelReceipts, PlannedHoldersAreFullUnlessDegraded) {
  SplitMix random(5);
  for (int round = 0; round < 1000; ++round) {
    const std::vector<Member> members = RandomCluster(random, 30);
    const uint32_t copies = 1 + random.Below(4);
    const Assignment assignment = BuildGroups(members, copies);
    for (const Indices& set : assignment.holders) {
      if (!set.empty()) {
        const ReceiptCount count =
            CountReceipts(members, set, {copies, copies}, RuleOn(members, assignment.level));
        ASSERT_EQ(count.full, !assignment.degraded) << "round " << round;
      }
    }
  }
}

// A save in the middle of which members die and join.
struct Change {
  std::vector<Member> members;
  Assignment next;
  ShardState shard;
  uint32_t level = 1;
};

Change RandomChange(SplitMix& random) {
  const std::vector<Member> before = RandomCluster(random, 16);
  const uint32_t copies = 1 + random.Below(4);
  const Assignment old = BuildGroups(before, copies);
  const auto owner = random.Below(static_cast<uint32_t>(before.size()));
  Change change;
  change.level = old.level;
  std::vector<std::optional<uint32_t>> translated(before.size());
  for (uint32_t i = 0; i < before.size(); ++i) {
    if (random.Below(4) != 0) {
      translated[i] = static_cast<uint32_t>(change.members.size());
      change.members.push_back(before[i]);
    }
    if (random.Below(8) == 0) {
      change.members.push_back({.domain = "new" + std::to_string(i)});
    }
  }
  change.shard.owner = translated[owner];
  for (const uint32_t holder : old.holders[owner]) {
    if (!translated[holder]) {
      continue;
    }
    change.shard.old_holders.push_back(*translated[holder]);
    if (random.Below(2) == 0) {
      change.shard.receipts.push_back(*translated[holder]);
    }
  }
  change.next = BuildGroups(change.members, copies);
  return change;
}

bool Has(const Indices& list, uint32_t member) {
  return std::find(list.begin(), list.end(), member) != list.end();
}

void ExpectMinimal(const Change& change, const Retargeted& result) {
  const uint32_t have = static_cast<uint32_t>(change.shard.receipts.size());
  const uint32_t covered =
      CountDistinctDomains(change.members, change.shard.receipts, change.level);
  const uint32_t copies = std::min(change.next.copies, change.next.members);
  const uint32_t domains = std::min(change.next.copies, CountDomains(change.members, change.level));
  const uint32_t missing_copies = copies > have ? copies - have : 0;
  const uint32_t missing_domains = domains > covered ? domains - covered : 0;
  ASSERT_EQ(result.needed.size(), std::max(missing_copies, missing_domains));
}

TEST(PlacementModelRetarget, MovesOnlyMissingReceiptsAndEndsFull) {
  SplitMix random(6);
  for (int round = 0; round < 5000; ++round) {
    const Change change = RandomChange(random);
    const Retargeted result = Retarget(change.members, change.next, change.shard, change.level);
    ASSERT_EQ(std::set<uint32_t>(result.holders.begin(), result.holders.end()).size(),
              result.holders.size());
    for (const uint32_t member : change.shard.receipts) {
      ASSERT_TRUE(Has(result.holders, member)) << "round " << round << ": a receipt was dropped";
      ASSERT_FALSE(Has(result.needed, member));
    }
    for (const uint32_t member : result.needed) {
      ASSERT_TRUE(change.members[member].placeable);
      ASSERT_EQ(Has(result.added, member), !Has(change.shard.old_holders, member));
    }
    for (const uint32_t member : change.shard.old_holders) {
      ASSERT_NE(Has(result.holders, member), Has(result.dropped, member));
    }
    ExpectMinimal(change, result);
    ASSERT_FALSE(HasFatalFailure()) << "round " << round;
    if (!change.next.degraded) {
      const CopyPolicy policy{.copies = change.next.copies, .min_copies = change.next.copies};
      ASSERT_TRUE(CountReceipts(change.members, result.holders, policy,
                                RuleOn(change.members, change.level))
                      .full)
          << "round " << round;
    }
  }
}

TEST(PlacementModelRetarget, KeepsALiveHolderWhoseReceiptIsMissing) {
  const std::vector<Member> members = OwnDomains(6);
  const Assignment next = BuildGroups(members, 2);
  ASSERT_EQ(next.holders[0], (Indices{0, 3}));
  const Retargeted result =
      Retarget(members, next, {.owner = 0, .old_holders = {0, 1}, .receipts = {0}}, 1);
  EXPECT_EQ(result.needed, (Indices{1}));
  EXPECT_TRUE(result.added.empty());
  EXPECT_TRUE(result.dropped.empty());
}

TEST(PlacementModelRetarget, ReplacesADeadHolderByTheNewAssignment) {
  const std::vector<Member> members = OwnDomains(4);
  const Assignment next = BuildGroups(members, 2);
  const Retargeted result =
      Retarget(members, next, {.owner = 1, .old_holders = {1}, .receipts = {1}}, 1);
  EXPECT_EQ(result.needed, (Indices{3}));
  EXPECT_EQ(result.added, (Indices{3}));
  EXPECT_EQ(next.holders[1], (Indices{1, 3}));
}

TEST(PlacementModelRetarget, PlacesAShardWhoseOwnerHasLeft) {
  const std::vector<Member> members = InDomains({"a", "a", "b"});
  const Assignment next = BuildGroups(members, 2);
  const Retargeted result =
      Retarget(members, next, {.owner = {}, .old_holders = {0}, .receipts = {0}}, 1);
  EXPECT_EQ(result.holders, (Indices{0, 2}));
  const Retargeted nothing_left = Retarget({}, BuildGroups({}, 2), {}, 1);
  EXPECT_TRUE(nothing_left.holders.empty());
}

TEST(PlacementModelRetarget, DropsAnOldHolderWithoutReceiptInASharedDomain) {
  const std::vector<Member> members = InDomains({"a", "a", "b"});
  const Assignment next = BuildGroups(members, 2);
  const Retargeted result =
      Retarget(members, next, {.owner = 0, .old_holders = {0, 1}, .receipts = {0}}, 1);
  EXPECT_EQ(result.needed, (Indices{2}));
  EXPECT_EQ(result.dropped, (Indices{1}));
}

TEST(PlacementModelRetarget, TakesAMemberWithoutRoomOnlyWhenNobodyElseWillDo) {
  const std::vector<Member> members = InDomains({"a", "a", "b", "b"});
  const Assignment next = BuildGroups(members, 2);
  ASSERT_EQ(next.holders[0], (Indices{0, 2}));
  ShardState shard{.owner = 0, .old_holders = {0}, .receipts = {0}, .full = {2}};
  EXPECT_EQ(Retarget(members, next, shard, 1).added, (Indices{3}));
  shard.full = {2, 3};
  EXPECT_EQ(Retarget(members, next, shard, 1).added, (Indices{2})) << "before its own domain";
  shard.old_holders = {0, 2};
  EXPECT_EQ(Retarget(members, next, shard, 1).needed, (Indices{2})) << "it is receiving already";
}

TEST(PlacementModelRetarget, SendsNothingToADrainingServerButCountsItsReceipt) {
  std::vector<Member> members = OwnDomains(4);
  members[1].placeable = false;
  members[2].placeable = false;
  const Assignment next = BuildGroups(members, 2);
  const Retargeted result =
      Retarget(members, next, {.owner = 0, .old_holders = {0, 1, 2}, .receipts = {1}}, 1);
  EXPECT_EQ(result.holders, (Indices{1, 0}));
  EXPECT_EQ(result.dropped, (Indices{2}));
}

// Two servers that hold each other's shards.
struct Pair {
  Assignment assignment = BuildGroups(OwnDomains(2), 2);
  std::vector<ServerMemory> servers = {{.name = "s0", .capacity_bytes = 1000},
                                       {.name = "s1", .capacity_bytes = 1000}};
};

// Every holder gets its owners' shards, owner i's having so many bytes.
Admission AdmitAll(const std::vector<ServerMemory>& servers, const Assignment& assignment,
                   const std::vector<uint64_t>& shard_bytes) {
  std::vector<uint64_t> staging(servers.size(), 0);
  for (size_t owner = 0; owner < shard_bytes.size(); ++owner) {
    for (const uint32_t holder : assignment.holders[owner]) {
      staging[holder] += shard_bytes[owner];
    }
  }
  return AdmitSnapshot(servers, staging);
}

TEST(PlacementModelAdmission, AcceptsToTheLastByteAndRefusesOneMore) {
  Pair pair;
  pair.servers[0].committed_bytes = 500;
  EXPECT_EQ(AdmitAll(pair.servers, pair.assignment, std::vector<uint64_t>{150, 100}).verdict,
            Verdict::kAccept);
  const Admission refused =
      AdmitAll(pair.servers, pair.assignment, std::vector<uint64_t>{151, 100});
  EXPECT_EQ(refused.verdict, Verdict::kRefuse);
  EXPECT_EQ(refused.status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(
      std::string(refused.status.message()),
      "server s0 has 1000 bytes for snapshots and would need 1002 bytes: 500 committed + 0 in "
      "flight + 251 for this snapshot + 251 for a pin; 2 bytes short; give the server more "
      "memory (--memory), add servers, or lower keep or copies");
}

TEST(PlacementModelAdmission, WaitsForSavesInFlightWhenThatHelps) {
  Pair pair;
  pair.servers[1].in_flight_bytes = 700;
  const Admission wait = AdmitAll(pair.servers, pair.assignment, std::vector<uint64_t>{100, 100});
  EXPECT_EQ(wait.verdict, Verdict::kWait);
  EXPECT_NE(std::string(wait.status.message()).find("server s1"), std::string::npos);
  pair.servers[0].committed_bytes = 900;
  EXPECT_EQ(AdmitAll(pair.servers, pair.assignment, std::vector<uint64_t>{100, 100}).verdict,
            Verdict::kRefuse)
      << "one that refuses outweighs one that waits";
}

TEST(PlacementModelAdmission, AServerThatRefusesIsNamedBeforeOneThatWaits) {
  Pair pair;
  pair.servers[0].committed_bytes = 601;
  pair.servers[1].in_flight_bytes = 100000;
  const Admission result = AdmitAll(pair.servers, pair.assignment, std::vector<uint64_t>{100, 100});
  EXPECT_EQ(result.verdict, Verdict::kRefuse);
  EXPECT_NE(std::string(result.status.message()).find("server s0"), std::string::npos);
}

TEST(PlacementModelAdmission, APinInUseCountsTowardsThePinsCopy) {
  Pair pair;
  for (ServerMemory& server : pair.servers) {
    server.committed_bytes = 800;
    server.pinned_bytes = 150;
  }
  const std::vector<uint64_t> shards = {100, 100};
  const Admission short_of_pin = AdmitAll(pair.servers, pair.assignment, shards);
  EXPECT_EQ(short_of_pin.verdict, Verdict::kRefuse);
  EXPECT_EQ(short_of_pin.demands[0].pin_bytes, 50u);
  for (ServerMemory& server : pair.servers) {
    server.pinned_bytes = 800;
  }
  EXPECT_EQ(AdmitAll(pair.servers, pair.assignment, shards).verdict, Verdict::kAccept);
}

TEST(PlacementModelAdmission, DoesNotAskAServerThatGetsNothing) {
  std::vector<Member> members = OwnDomains(3);
  members[2].placeable = false;
  const std::vector<ServerMemory> servers = {
      {.name = "s0", .capacity_bytes = 10},
      {.name = "s1", .capacity_bytes = 10},
      {.name = "s2", .capacity_bytes = 1, .committed_bytes = 5}};
  EXPECT_TRUE(
      AdmitAll(servers, BuildGroups(members, 1), std::vector<uint64_t>{5, 5, 0}).status.ok());
}

TEST(PlacementModelAdmission, PrintsLargeSizesWithAUnit) {
  Pair pair;
  pair.servers[0].capacity_bytes = uint64_t{3} << 29;
  const std::string text(
      AdmitAll(pair.servers, pair.assignment, std::vector<uint64_t>{1u << 30, 0}).status.message());
  EXPECT_NE(text.find("server s1 has 1000 bytes"), std::string::npos) << text;
  EXPECT_NE(text.find("need 2147483648 bytes (2.00 GiB)"), std::string::npos) << text;
}

TEST(PlacementModelAdmissionDeathTest, EndsTheProcessWhenSumsWrap) {
  Pair pair;
  const std::vector<uint64_t> huge = {~uint64_t{0}, 1};
  EXPECT_DEATH(AdmitSnapshot(pair.servers, huge), "bytes");
}

RetentionEntry Entry(uint64_t sequence, const std::string& name, bool full = true) {
  return {.order = {.epoch = {1, 1}, .sequence = sequence},
          .name = name,
          .attempt = sequence,
          .fully_redundant = full};
}

using Picks = std::vector<size_t>;

TEST(PlacementModelRetention, OrdersByGenerationThenCounterThenSequence) {
  const SnapshotOrder first{{1, 9}, 9};
  const SnapshotOrder second{{2, 1}, 1};
  const SnapshotOrder third{{2, 1}, 2};
  const SnapshotOrder fourth{{2, 2}, 1};
  EXPECT_LT(first, second);
  EXPECT_LT(second, third);
  EXPECT_LT(third, fourth);
  const std::vector<RetentionEntry> entries = {
      {.order = third, .name = "a"}, {.order = fourth, .name = "b"}, {.order = first, .name = "c"}};
  EXPECT_EQ(Latest(entries), 1u);
  EXPECT_EQ(Latest({}), std::nullopt);
}

TEST(PlacementModelRetention, KeepsTheNewestKAtFullRedundancy) {
  const std::vector<RetentionEntry> entries = {Entry(1, "1"), Entry(2, "2"), Entry(3, "3")};
  EXPECT_EQ(Retire(entries, 1), (Picks{0, 1}));
  EXPECT_EQ(Retire(entries, 2), (Picks{0}));
  EXPECT_EQ(Retire(entries, 3), Picks{});
  EXPECT_EQ(Retire(entries, 0), Picks{}) << "keep=all";
}

TEST(PlacementModelRetention, ANewerOneBelowFullRedundancyRetiresNothing) {
  const std::vector<RetentionEntry> entries = {Entry(1, "1"), Entry(2, "2", false),
                                               Entry(3, "3", false)};
  EXPECT_EQ(Retire(entries, 1), Picks{});
  const std::vector<RetentionEntry> later = {Entry(1, "1"), Entry(2, "2", false), Entry(3, "3")};
  EXPECT_EQ(Retire(later, 1), (Picks{0, 1}));
}

TEST(PlacementModelRetention, AHigherAttemptReplacesTheLowerEvenWhenAllAreKept) {
  const std::vector<RetentionEntry> entries = {Entry(1, "7"), Entry(2, "7"), Entry(3, "8")};
  EXPECT_EQ(Retire(entries, 0), (Picks{0}));
  EXPECT_TRUE(IsReplaced(entries, 0));
  EXPECT_FALSE(IsReplaced(entries, 1));
}

TEST(PlacementModelRetention, ALaterEpochReplacesANameWhateverItsAttempt) {
  RetentionEntry rewound = Entry(1, "7");
  rewound.order = {.epoch = {1, 2}, .sequence = 9};
  rewound.attempt = 0;
  const std::vector<RetentionEntry> entries = {Entry(5, "7"), rewound};
  EXPECT_EQ(Retire(entries, 0), (Picks{0}));
}

TEST(PlacementModelRetention, AReplacedOneStaysWhileItIsTheNewestAtFullRedundancy) {
  const std::vector<RetentionEntry> entries = {Entry(1, "6"), Entry(2, "7"), Entry(3, "7", false)};
  EXPECT_EQ(Retire(entries, 1), Picks{});
  const std::vector<RetentionEntry> repaired = {Entry(1, "6"), Entry(2, "7"), Entry(3, "7")};
  EXPECT_EQ(Retire(repaired, 1), (Picks{0, 1}));
}

TEST(PlacementModelRetention, NeverRetiresAPinnedOne) {
  std::vector<RetentionEntry> entries = {Entry(1, "1"), Entry(2, "1"), Entry(3, "3")};
  entries[0].pinned = true;
  EXPECT_EQ(Retire(entries, 1), (Picks{1}));
}

TEST(PlacementModelRetention, HoldsForRandomHistories) {
  SplitMix random(7);
  for (int round = 0; round < 5000; ++round) {
    std::vector<RetentionEntry> entries;
    const uint32_t count = random.Below(12);
    for (uint32_t i = 0; i < count; ++i) {
      RetentionEntry entry = Entry(i + 1, std::to_string(random.Below(6)), random.Below(2) == 0);
      entry.order.epoch.counter = i / 4;
      entry.pinned = random.Below(6) == 0;
      entries.insert(entries.begin() + random.Below(i + 1), entry);
    }
    const uint32_t keep = random.Below(4);
    const Picks retired = Retire(entries, keep);
    const std::set<size_t> gone(retired.begin(), retired.end());
    std::optional<size_t> newest_full;
    for (size_t i = 0; i < entries.size(); ++i) {
      if (entries[i].fully_redundant &&
          (!newest_full || entries[*newest_full].order < entries[i].order)) {
        newest_full = i;
      }
    }
    for (size_t i = 0; i < entries.size(); ++i) {
      uint32_t newer_full = 0;
      for (size_t j = 0; j < entries.size(); ++j) {
        newer_full += entries[j].order > entries[i].order && entries[j].fully_redundant &&
                              !IsReplaced(entries, j)
                          ? 1
                          : 0;
      }
      const bool want = !entries[i].pinned && newest_full != i &&
                        (IsReplaced(entries, i) || (keep > 0 && newer_full >= keep));
      ASSERT_EQ(gone.contains(i), want) << "round " << round << ", entry " << i;
    }
  }
}

TEST(PlacementModelRetentionDeathTest, EndsTheProcessOnTwoOfOneOrder) {
  const std::vector<RetentionEntry> entries = {Entry(1, "1"), Entry(1, "2")};
  EXPECT_DEATH(Retire(entries, 1), "same order");
}

}  // namespace
}  // namespace gemel::model

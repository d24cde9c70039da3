// SPDX-License-Identifier: Apache-2.0
//
// A hundred fixed seeds of the simulator, and those that once showed a bug; every tenth twice, to
// the same hash. Fresh seeds are the business of `gemel-sim --seed today`.
#include "tests/sim/scenario.h"

#include <gtest/gtest.h>

#include <ostream>
#include <string>
#include <vector>

#include "tests/sim/campaign.h"

namespace gemel::sim {
namespace {

constexpr uint64_t kSeedsPerCase = 25;
constexpr uint64_t kCases = 4;

class SimulatedCluster : public testing::TestWithParam<uint64_t> {};

TEST_P(SimulatedCluster, LosesAndTearsNothing) {
  CampaignOptions campaign;
  campaign.scenario.seed = GetParam() * kSeedsPerCase + 1;
  campaign.seeds = kSeedsPerCase;
  const CampaignTotals totals = RunCampaign(campaign);
  EXPECT_EQ(totals.failed, 0U) << "the lines above replay them";
  EXPECT_EQ(totals.mismatches, 0U);
  EXPECT_EQ(totals.seeds, kSeedsPerCase);
  EXPECT_GT(totals.counts.commits, kSeedsPerCase);
  EXPECT_GT(totals.counts.faults.Total(), kSeedsPerCase);
}

// Seeds that found something when the simulator was as it was then; what it was is said beside.
struct PastSeed {
  uint64_t seed;
  const char* found;

  friend void PrintTo(const PastSeed& past, std::ostream* out) { *out << past.found; }
};

constexpr PastSeed kPastSeeds[] = {
    {11, "a drop that failed with the disk was never repeated, and its space was lost"},
    {25, "the same"},
    {36, "the same, after a join"},
    {46, "staging of a superseded epoch stayed where the newer one was learned from an offer"},
    {68, "a directive whose reply was lost was never told again while newer ones followed"},
    {70, "the oracle took a server that joined a moment later for one that was there"},
    {109, "a receipt that overtook an older inventory was forgotten with it"},
    {842, "a new leader gave a second sequence for an open that was aborted"},
    {1025, "a reader was refused for good while its server joined again"},
    {1267, "the oracle took a late join of a replaced disk for that of the present server"},
    {1733, "a client process that died before its request's turn ended the server"},
    {1825, "what a restore had passed over was told committed to the superseded writer"},
    {1862, "a shard that a given-up persist wrote late stayed on its disk"},
    {910100, "a save whose only sealed copy had decayed was sent again until its deadline"},
    {248, "shards of a persist that a power cut ended stayed when a save replaced it"},
    {41000073, "the oracle took what was retired from memory for a copy that a loss must count"},
    {41000090, "a pulled copy could not be kept beside what a dead writer had left half-written"},
    {41000222, "a restore asked an incarnation that was gone for half a minute"},
    {41001424, "an upload that a newer epoch went by was followed for ever"},
    {41001614, "a save waited for copies that nobody sent, its server having come back"},
    {20783000636, "saves hung on a session whose other end was gone without a word"},
    {5053, "a second recovery knew of the last members only whom the first had heard again"},
    {5174, "a manager that died after its recovery waited for nobody, and told a commit lost"},
    {6066, "a server was told to drop shards whose commit record a later one brought"},
    {6126, "a server counted for the new generation whose disk had refused it"},
    {6503, "what a server was about to have copied was told lost when the source had died"},
    {7185, "who joined first recovered alone: nobody else was on its list of members"},
    {6031, "a holder of a commit recovered alone: no map had told it of the others"},
    {20784002122, "a first identity whose directory was not synced was written in place"},
    {20784001272, "a drain was not cancelled: the person spoke what an older manager did not know"},
    {20785001087, "a server was told empty while its only persisted copy was retired"},
    {20785002636, "what was persisted was told during a join and forgotten with its inventory"},
    {20785002681, "a map of a recovery made others call a living server dead for ever"},
    {20785004331, "the oracle asked of disks what only they had, before decay was known"},
    {20786000007, "a copy that its server lost before it told of it was made anew by nobody"},
    {20786001174, "the last server was told empty: nobody else took work"},
    {20785004088, "who came after a recovery counted for its majority: epochs given twice"},
    {20787000485, "ranks that opened on another map than their save's had too few domains planned"},
    {20787003265,
     "the oracle took a server with a new disk for the one that had gone and still counted"},
    {20787004745,
     "an inventory made for another leader was believed, and what was there told lost"},
    {20787005264, "a manager took its own late claim for another's and refused all for good"},
    {20787006422, "a save was waited for whose last copy had gone, and its server's before"},
    {20785000998, "with none of the last members left nobody served, though the loss was accepted"},
    {20784001482, "a copy that was found damaged as it was written to disk counted on"},
    {20784002212, "a server went on with a reply that a join had overtaken"},
    {358, "an inventory that was refused had brought back what was retired"},
    {1886, "a sealed shard that had decayed was sent again until its save's deadline"},
    {2546, "what was pulled for a disk pinned its snapshot while nothing was written"},
    {1496, "a receipt that was sent again had a copy dropped before its record was heard of"},
    {3110, "a holder that died while its save was being committed was not replaced"},
    {7516, "a server did after a join what it had been told before it, and nobody took the result"},
    {20789002475, "the oracle asked that what had lost copies stay for a newer one of its name"},
    {20790001054, "a server that had obeyed a lost recovery refused the next of its generation"},
    {20791002766, "a directive's number was one's of before a recovery, and its result was taken"},
    {20791007737, "what a server had sealed under another leader was counted after it was dropped"},
    {20791008300, "a manager's own claim was applied after it had won by another of its own"},
    {20791008923, "a save had no holders left once no server took work, and placement died of it"},
    {20792005810, "a snapshot was told lost while a disk was about to have the last of it"},
    {20792011210, "a person took a full store for a refusal and left a server draining"},
    {20793000720, "a server that was heard waited to join until it was called dead"},
    {20797003275, "a check of a late answer read what a second loss of the MetaStore had left"},
    {20786000740, "the oracle asked for a join while the MetaStore answered no transaction"},
    {20798000927, "the oracle took a superseded job for one that saves, and its restore pins"},
    {20799003967, "the oracle asked a server that nobody heard to tell in time what it wrote"},
    {20799004897, "the oracle knew by name alone whom placement called dead after a recovery"},
    {20798001040, "the check of histories placed a removal at once where it changed nothing"},
};

class PastSeeds : public testing::TestWithParam<PastSeed> {};

TEST_P(PastSeeds, FindNothingAnyMore) {
  CampaignOptions campaign;
  campaign.scenario.seed = GetParam().seed;
  EXPECT_EQ(RunCampaign(campaign).failed, 0U) << GetParam().found;
}

INSTANTIATE_TEST_SUITE_P(All, PastSeeds, testing::ValuesIn(kPastSeeds),
                         [](const auto& info) { return std::to_string(info.param.seed); });
INSTANTIATE_TEST_SUITE_P(Seeds, SimulatedCluster, testing::Range<uint64_t>(0, kCases));

}  // namespace
}  // namespace gemel::sim

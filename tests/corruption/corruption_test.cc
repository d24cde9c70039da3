// SPDX-License-Identifier: Apache-2.0
//
// The campaign, and the campaign's own test: a layer that believes what it reads is found.
#include <gtest/gtest.h>

#include "tests/corruption/campaign.h"

namespace gemel {
namespace {

TEST(Corruption, EveryLayerReadsBackWhatWasWritten) {
  for (const std::unique_ptr<Layer>& layer : AllLayers()) {
    for (uint32_t identity = 0; identity < 20; ++identity) {
      const Item item{.identity = identity, .version = 3};
      EXPECT_EQ(layer->Read(item, layer->Bytes(item)), Reading::kRight)
          << layer->name() << " " << identity;
    }
  }
}

TEST(Corruption, NoDamageOfAnyLayerIsBelievedAndAGoodCopyIsFound) {
  const CampaignResult result = RunCampaign(AllLayers(), {.seed = 1, .count = 20'000});
  for (const std::string& failure : result.failures) {
    ADD_FAILURE() << failure;
  }
  const CampaignResult::Cell sum = result.Sum();
  EXPECT_EQ(sum.believed, 0U);
  // A description's layout_bytes decide nothing: the commit's do.
  EXPECT_EQ(sum.refused + sum.without_effect, sum.injected);
  EXPECT_LT(sum.without_effect, sum.injected / 1000);
  EXPECT_EQ(sum.repaired, sum.with_good_copy);
  for (const auto& [where, cell] : result.cells) {
    EXPECT_GT(cell.injected, 50U) << where.first << " " << NameOf(where.second);
  }
}

// Verifies the record and not the content: what a checksum over the header only does.
class Careless final : public Layer {
 public:
  std::string_view name() const override { return "careless"; }

  std::string Bytes(const Item& item) const override { return layer_->Bytes(item); }

  Reading Read(const Item& wanted, const std::string& bytes) const override {
    const std::string good = layer_->Bytes(wanted);
    if (bytes.size() != good.size() || bytes.substr(0, 40) != good.substr(0, 40)) {
      return Reading::kRefused;
    }
    return bytes == good ? Reading::kRight : Reading::kWrong;
  }

 private:
  const std::unique_ptr<Layer> layer_ = MemoryLayer();
};

TEST(Corruption, ALayerThatBelievesItsContentIsFound) {
  std::vector<std::unique_ptr<Layer>> layers;
  layers.push_back(std::make_unique<Careless>());
  const CampaignResult result = RunCampaign(layers, {.seed = 1, .count = 700});
  EXPECT_GT(result.Sum().believed, 100U);
  EXPECT_FALSE(result.failures.empty());
}

}  // namespace
}  // namespace gemel

// SPDX-License-Identifier: Apache-2.0
//
// gemel-corrupt: damages every layer and counts what was refused, believed and repaired.
//   gemel-corrupt --count 1000000 --seed 7
// Exit code 1 when one injection was believed or a good copy was not found.
#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "tests/corruption/campaign.h"

int main(int argc, char** argv) {
  gemel::CampaignOptions options;
  for (int i = 1; i < argc; ++i) {
    const std::string_view flag = argv[i];
    const bool has_value = i + 1 < argc;
    if (flag == "--count" && has_value) {
      options.count = std::strtoull(argv[++i], nullptr, 10);
    } else if (flag == "--seed" && has_value) {
      options.seed = std::strtoull(argv[++i], nullptr, 10);
    } else {
      std::fprintf(stderr, "usage: gemel-corrupt [--count N] [--seed S]\n");
      return 2;
    }
  }
  const gemel::CampaignResult result = gemel::RunCampaign(gemel::AllLayers(), options);
  std::printf("%s", result.Table().c_str());
  for (const std::string& failure : result.failures) {
    std::printf("BELIEVED or not repaired: %s\n", failure.c_str());
  }
  const gemel::CampaignResult::Cell sum = result.Sum();
  const bool good = sum.injected > 0 && sum.refused + sum.without_effect == sum.injected &&
                    sum.repaired == sum.with_good_copy;
  std::printf("%llu corruptions, %llu believed\n", static_cast<unsigned long long>(sum.injected),
              static_cast<unsigned long long>(sum.believed));
  return good ? 0 : 1;
}

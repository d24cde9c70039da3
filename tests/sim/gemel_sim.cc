// SPDX-License-Identifier: Apache-2.0
//
// gemel-sim: runs the simulator from seeds, and replays one from the line that a failure prints.
//   gemel-sim --seed 17                    replay, with the nodes' time line when it fails
//   gemel-sim --seed 1 --seeds 10000       a campaign
//   gemel-sim --seed 17 --disable resets   is it still there without this fault class?
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>

#include "tests/sim/scenario.h"

namespace {

struct Arguments {
  uint64_t first = 1;
  uint64_t count = 1;
  bool timeline = false;
  gemel::sim::ScenarioOptions options;
};

bool Disable(std::string_view list, gemel::sim::ScenarioOptions* options) {
  while (!list.empty()) {
    const std::string_view name = list.substr(0, list.find(','));
    list.remove_prefix(std::min(list.size(), name.size() + 1));
    bool known = false;
    for (gemel::sim::Fault fault : gemel::sim::kAllFaults) {
      if (gemel::sim::NameOf(fault) == name) {
        options->disabled.push_back(fault);
        known = true;
      }
    }
    if (!known) {
      std::fprintf(stderr, "gemel-sim: no fault class '%s'\n", std::string(name).c_str());
      return false;
    }
  }
  return true;
}

bool Parse(int argc, char** argv, Arguments* arguments) {
  for (int i = 1; i < argc; ++i) {
    const std::string_view flag = argv[i];
    const bool has_value = i + 1 < argc;
    if (flag == "--timeline") {
      arguments->timeline = true;
    } else if (flag == "--seed" && has_value) {
      arguments->first = std::strtoull(argv[++i], nullptr, 10);
    } else if (flag == "--seeds" && has_value) {
      arguments->count = std::strtoull(argv[++i], nullptr, 10);
    } else if (flag == "--disable" && has_value) {
      if (!Disable(argv[++i], &arguments->options)) {
        return false;
      }
    } else {
      std::fprintf(stderr,
                   "usage: gemel-sim --seed S [--seeds N] [--disable class,…] [--timeline]\n");
      return false;
    }
  }
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  Arguments arguments;
  if (!Parse(argc, argv, &arguments)) {
    return 2;
  }
  uint64_t failed = 0;
  uint64_t events = 0;
  uint64_t commits = 0;
  uint64_t restores = 0;
  uint64_t kills = 0;
  uint64_t persists = 0;
  uint64_t power_cuts = 0;
  for (uint64_t i = 0; i < arguments.count; ++i) {
    arguments.options.seed = arguments.first + i;
    const gemel::sim::ScenarioResult result = gemel::sim::RunScenario(arguments.options);
    events += result.events;
    commits += result.commits;
    restores += result.restores;
    kills += result.kills;
    persists += result.persists;
    power_cuts += result.power_cuts;
    if (arguments.timeline || (!result.violations.empty() && arguments.count == 1)) {
      for (const std::string& line : result.timeline) {
        std::printf("%s\n", line.c_str());
      }
    }
    for (const std::string& violation : result.violations) {
      std::printf("VIOLATION %s\n  replay: gemel-sim --seed %llu\n", violation.c_str(),
                  static_cast<unsigned long long>(arguments.options.seed));
    }
    failed += result.violations.empty() ? 0 : 1;
    if (arguments.count == 1) {
      std::printf("hash %016llx kills %llu launches %llu\n",
                  static_cast<unsigned long long>(result.history_hash),
                  static_cast<unsigned long long>(result.kills),
                  static_cast<unsigned long long>(result.launches));
    }
  }
  std::printf(
      "%llu seeds, %llu failed, %llu events, %llu commits told, %llu restores, %llu servers "
      "killed, %llu persisted, %llu power cuts\n",
      static_cast<unsigned long long>(arguments.count), static_cast<unsigned long long>(failed),
      static_cast<unsigned long long>(events), static_cast<unsigned long long>(commits),
      static_cast<unsigned long long>(restores), static_cast<unsigned long long>(kills),
      static_cast<unsigned long long>(persists), static_cast<unsigned long long>(power_cuts));
  return failed == 0 ? 0 : 1;
}

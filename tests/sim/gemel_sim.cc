// SPDX-License-Identifier: Apache-2.0
//
// gemel-sim: runs the simulator from seeds, and replays one from the line that a failure prints.
// Exit code 0: nothing was found; 1: a violation, two runs of a seed that differ, or with
// --require-coverage something that was never hit; 2: a wrong command line.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <string>
#include <string_view>

#include "common/errors.h"
#include "tests/sim/campaign.h"
#include "tests/sim/shrink.h"
#include "tests/sim/traps.h"

namespace gemel::sim {
namespace {

constexpr const char* kUsage =
    R"(gemel-sim --seed 17                     replay, with the nodes' time line when it fails
gemel-sim --seed 1 --seeds 10000        a campaign
gemel-sim --minutes 5 --jobs 2          a campaign by time, in two processes

  --seed N            the first seed (1); today: another one each day
  --seeds N           how many (1)
  --minutes M         as many as begin within M minutes
  --jobs N            worker processes (1)
  --disable a,b       without these fault classes; also: knobs, overkill
  --until T           one seed, to T seconds of virtual time
  --servers-max N  --jobs-max N  --ranks-max N    smaller shapes
  --fault-phase T     seconds of faults (6)
  --timeline          print the time line, one line an event; --columns: one column a node
  --shrink            print the smallest run that still fails
  --json FILE         the counters, for programs; --commit ID goes into them
  --require-coverage  fail when a cell, a situation or a site was never hit
  --list              the fault classes
)";

struct Arguments {
  CampaignOptions campaign;
  bool many = false;
  bool timeline = false;
  bool columns = false;
  bool shrink = false;
  bool require_coverage = false;
  bool list = false;
  std::string json;
  std::string commit = "unknown";
};

bool Disable(std::string_view list, ScenarioOptions* options) {
  while (!list.empty()) {
    const std::string_view name = list.substr(0, list.find(','));
    list.remove_prefix(std::min(list.size(), name.size() + 1));
    if (name == "knobs") {
      options->knobs = false;
    } else if (name == "overkill") {
      options->overkill = false;
    } else if (const std::optional<Fault> fault = FaultNamed(name); fault.has_value()) {
      options->disabled.insert(*fault);
    } else {
      std::fprintf(stderr, "gemel-sim: no fault class '%s'; --list names them\n",
                   std::string(name).c_str());
      return false;
    }
  }
  return true;
}

bool ToNumber(std::string_view text, double* number) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), *number);
  return error == std::errc() && end == text.data() + text.size() && *number >= 0 &&
         *number < 1.8e19;
}

bool ToInteger(std::string_view text, uint64_t* number) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), *number);
  return error == std::errc() && end == text.data() + text.size();
}

std::optional<Duration> ToDuration(std::string_view text) {
  double seconds = 0;
  if (!ToNumber(text, &seconds) || seconds > 3600) {
    return std::nullopt;
  }
  return Duration(static_cast<int64_t>(seconds * 1e9));
}

// False when `flag` is not one with a value, or the value is not one.
bool TakeValue(std::string_view flag, std::string_view value, Arguments* arguments) {
  CampaignOptions& campaign = arguments->campaign;
  ScenarioOptions& scenario = campaign.scenario;
  const auto bound = [value](uint32_t* into) {
    uint64_t number = 0;
    const bool good = ToInteger(value, &number) && number >= 1 && number <= UINT32_MAX;
    *into = good ? static_cast<uint32_t>(number) : *into;
    return good;
  };
  const std::map<std::string_view, std::function<bool()>> flags = {
      {"--seed",
       [&] {
         scenario.seed = value == "today" ? SeedOfToday() : scenario.seed;
         return value == "today" || ToInteger(value, &scenario.seed);
       }},
      {"--seeds",
       [&] {
         arguments->many = true;
         return ToInteger(value, &campaign.seeds);
       }},
      {"--minutes",
       [&] {
         arguments->many = true;
         return ToNumber(value, &campaign.minutes.emplace());
       }},
      {"--jobs", [&] { return bound(&campaign.processes) && campaign.processes <= kProcessesMax; }},
      {"--disable", [&] { return Disable(value, &scenario); }},
      {"--until", [&] { return (scenario.until = ToDuration(value)).has_value(); }},
      {"--servers-max", [&] { return bound(&scenario.servers_max); }},
      {"--jobs-max", [&] { return bound(&scenario.jobs_max); }},
      {"--ranks-max", [&] { return bound(&scenario.ranks_max); }},
      {"--fault-phase",
       [&] {
         const std::optional<Duration> phase = ToDuration(value);
         scenario.fault_phase = phase.value_or(kFaultPhase);
         return phase.has_value();
       }},
      {"--json", [&] { return !(arguments->json = value).empty(); }},
      {"--commit", [&] { return !(arguments->commit = value).empty(); }},
  };
  const auto found = flags.find(flag);
  return found != flags.end() && found->second();
}

bool TakeSwitch(std::string_view flag, Arguments* arguments) {
  const std::map<std::string_view, bool*> switches = {
      {"--timeline", &arguments->timeline}, {"--columns", &arguments->columns},
      {"--shrink", &arguments->shrink},     {"--require-coverage", &arguments->require_coverage},
      {"--list", &arguments->list},
  };
  const auto found = switches.find(flag);
  if (found == switches.end()) {
    return false;
  }
  *found->second = true;
  return true;
}

bool Parse(int argc, char** argv, Arguments* arguments) {
  for (int i = 1; i < argc; ++i) {
    const std::string_view flag = argv[i];
    if (TakeSwitch(flag, arguments)) {
      continue;
    }
    if (i + 1 >= argc || !TakeValue(flag, argv[i + 1], arguments)) {
      std::fprintf(stderr, "gemel-sim: cannot use '%s'\n%s", argv[i], kUsage);
      return false;
    }
    i += 1;
  }
  return true;
}

// In this process, with its time line.
int RunOne(const Arguments& arguments) {
  ArmTraps();
  const ScenarioResult result = RunScenario(arguments.campaign.scenario);
  DisarmTraps();
  std::printf("%s\n", result.plan.c_str());
  const bool failed = !result.violations.empty();
  if (arguments.columns) {
    for (const std::string& line : result.columns) {
      std::printf("%s\n", line.c_str());
    }
  } else if (arguments.timeline || failed) {
    for (const std::string& line : result.lines) {
      std::printf("%s\n", line.c_str());
    }
  }
  for (const std::string& violation : result.violations) {
    std::printf("VIOLATION %s\n  replay: %s\n", violation.c_str(),
                ReplayLine(arguments.campaign.scenario).c_str());
  }
  std::printf("hash %016llx, %llu events, %llu faults, %.1f s of virtual time\n",
              static_cast<unsigned long long>(result.history_hash),
              static_cast<unsigned long long>(result.counts.events),
              static_cast<unsigned long long>(result.counts.faults.Total()),
              static_cast<double>(result.counts.virtual_ms) / 1e3);
  return failed ? 1 : 0;
}

int RunMany(const Arguments& arguments) {
  const CampaignTotals totals = RunCampaign(arguments.campaign);
  std::printf("%s", TextOf(totals).c_str());
  std::printf("%.1f s of wall time in %u processes\n", totals.wall_s, totals.processes);
  if (!arguments.json.empty()) {
    const std::string json = JsonOf(totals, arguments.commit, arguments.campaign.scenario.seed);
    std::FILE* file = std::fopen(arguments.json.c_str(), "w");
    const bool written =
        file != nullptr && std::fwrite(json.data(), 1, json.size(), file) == json.size();
    if (file == nullptr || std::fclose(file) != 0 || !written) {
      std::fprintf(stderr, "gemel-sim: cannot write %s\n", arguments.json.c_str());
      return 2;
    }
  }
  const bool uncovered = arguments.require_coverage && totals.Uncovered() > 0;
  return totals.failed > 0 || totals.mismatches > 0 || uncovered ? 1 : 0;
}

int Main(int argc, char** argv) {
  Arguments arguments;
  if (!Parse(argc, argv, &arguments)) {
    return 2;
  }
  if (arguments.list) {
    for (size_t i = 0; i < kFaultCount; ++i) {
      std::printf("%s\n", std::string(NameOf(static_cast<Fault>(i))).c_str());
    }
    return 0;
  }
  if (arguments.shrink) {
    const std::optional<ScenarioOptions> small = Shrink(arguments.campaign.scenario);
    std::printf("%s\n", small.has_value() ? ReplayLine(*small).c_str() : "no violation to shrink");
    return small.has_value() ? 1 : 0;
  }
  return arguments.many ? RunMany(arguments) : RunOne(arguments);
}

}  // namespace
}  // namespace gemel::sim

int main(int argc, char** argv) { return gemel::sim::Main(argc, argv); }

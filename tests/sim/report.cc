// SPDX-License-Identifier: Apache-2.0
#include "tests/sim/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "common/check.h"
#include "common/errors.h"

namespace gemel::sim {
namespace {

// Every counter of `totals`, by name, in the order of the encoding.
template <typename Totals, typename Visit>
void VisitNumbers(Totals& totals, Visit&& visit) {
  visit("seeds", totals.seeds);
  visit("failed", totals.failed);
  visit("reruns", totals.reruns);
  visit("mismatches", totals.mismatches);
  auto& counts = totals.counts;
  visit("events", counts.events);
  visit("virtual_ms", counts.virtual_ms);
  visit("commits", counts.commits);
  visit("restores", counts.restores);
  visit("persists", counts.persists);
  visit("launches", counts.launches);
  visit("servers_killed", counts.servers_killed);
  visit("power_cuts", counts.power_cuts);
  visit("losses_told", counts.losses_told);
  visit("stale_refused", counts.stale_refused);
  visit("overkill_runs", counts.overkills);
  visit("histories_undecided", counts.undecided);
}

void AppendNumber(std::string* text, uint64_t number) {
  text->append(std::to_string(number)).append(" ");
}

template <size_t size>
std::string NeverReached(const std::array<uint64_t, size>& counts,
                         const std::string_view (&names)[size]) {
  std::string never;
  for (size_t i = 0; i < size; ++i) {
    if (counts[i] == 0) {
      never += fmt::format("{}{}", never.empty() ? "" : ", ", names[i]);
    }
  }
  return never.empty() ? "none" : never;
}

template <size_t size>
size_t CountZero(const std::array<uint64_t, size>& counts) {
  size_t zero = 0;
  for (const uint64_t count : counts) {
    zero += count == 0 ? 1 : 0;
  }
  return zero;
}

template <size_t size>
std::string JsonCounts(const std::array<uint64_t, size>& counts,
                       const std::string_view (&names)[size]) {
  std::string json;
  for (size_t i = 0; i < size; ++i) {
    json += fmt::format("{}\n    \"{}\": {}", i == 0 ? "" : ",", names[i], counts[i]);
  }
  return "{" + json + "\n  }";
}

std::string FaultTable(const FaultLedger& faults) {
  std::string text = fmt::format("{:<16}", "faults");
  for (size_t phase = 0; phase < kPhaseCount; ++phase) {
    text += fmt::format("{:>12}", NameOf(static_cast<Phase>(phase)));
  }
  text += "\n";
  for (size_t i = 0; i < kFaultCount; ++i) {
    const auto fault = static_cast<Fault>(i);
    text += fmt::format("{:<16}", NameOf(fault));
    for (size_t phase = 0; phase < kPhaseCount; ++phase) {
      const uint64_t count = faults.at(fault, static_cast<Phase>(phase));
      text += count == 0 ? fmt::format("{:>12}", "never") : fmt::format("{:>12}", count);
    }
    text += "\n";
  }
  return text;
}

}  // namespace

void CampaignTotals::Add(const CampaignTotals& other) {
  seeds += other.seeds;
  failed += other.failed;
  reruns += other.reruns;
  mismatches += other.mismatches;
  counts.Add(other.counts);
}

size_t CampaignTotals::Uncovered() const {
  return counts.faults.EmptyCells() + CountZero(counts.buggify) + CountZero(counts.situations);
}

std::string EncodeTotals(const CampaignTotals& totals) {
  std::string text;
  VisitNumbers(totals, [&text](std::string_view, uint64_t number) { AppendNumber(&text, number); });
  for (size_t fault = 0; fault < kFaultCount; ++fault) {
    for (size_t phase = 0; phase < kPhaseCount; ++phase) {
      AppendNumber(&text,
                   totals.counts.faults.at(static_cast<Fault>(fault), static_cast<Phase>(phase)));
    }
  }
  for (const uint64_t number : totals.counts.buggify) {
    AppendNumber(&text, number);
  }
  for (const uint64_t number : totals.counts.situations) {
    AppendNumber(&text, number);
  }
  return text;
}

absl::StatusOr<CampaignTotals> DecodeTotals(std::string_view text) {
  CampaignTotals totals;
  bool good = true;
  const auto next = [&text, &good]() {
    uint64_t number = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    good = good && error == std::errc() && end != text.data() + text.size() && *end == ' ';
    text.remove_prefix(good ? static_cast<size_t>(end - text.data()) + 1 : text.size());
    return number;
  };
  VisitNumbers(totals, [&next](std::string_view, uint64_t& number) { number = next(); });
  for (size_t fault = 0; fault < kFaultCount; ++fault) {
    for (size_t phase = 0; phase < kPhaseCount; ++phase) {
      totals.counts.faults.Add(static_cast<Fault>(fault), static_cast<Phase>(phase), next());
    }
  }
  for (uint64_t& number : totals.counts.buggify) {
    number = next();
  }
  for (uint64_t& number : totals.counts.situations) {
    number = next();
  }
  if (!good || !text.empty()) {
    return error::DataLoss("a worker's totals are not {} numbers",
                           std::count(text.begin(), text.end(), ' '));
  }
  return totals;
}

std::string TextOf(const CampaignTotals& totals) {
  const ScenarioCounts& counts = totals.counts;
  std::string text = FaultTable(counts.faults);
  text += fmt::format("cells never hit: {} of {}\n", counts.faults.EmptyCells(),
                      kFaultCount * kPhaseCount);
  text +=
      fmt::format("situations never met: {}\n", NeverReached(counts.situations, kSituationNames));
  text += fmt::format("buggify sites that never fired: {}\n",
                      NeverReached(counts.buggify, kBuggifyNames));
  text += fmt::format(
      "{} launches, {} commits told, {} restores, {} losses told, {} servers killed, {} persisted, "
      "{} power cuts, {} runs of overkill, {} calls of superseded epochs refused, {} histories of "
      "calls undecided\n",
      counts.launches, counts.commits, counts.restores, counts.losses_told, counts.servers_killed,
      counts.persists, counts.power_cuts, counts.overkills, counts.stale_refused, counts.undecided);
  text += fmt::format(
      "{} seeds, {} failed, {} events, {} faults, {:.1f} h of virtual time; {} of {} seeds run "
      "twice "
      "differ\n",
      totals.seeds, totals.failed, counts.events, counts.faults.Total(),
      static_cast<double>(counts.virtual_ms) / 3.6e6, totals.mismatches, totals.reruns);
  return text;
}

std::string JsonOf(const CampaignTotals& totals, std::string_view commit, uint64_t first_seed) {
  GEMEL_CHECK(commit.find_first_of("\"\\\n") == std::string_view::npos) << "a commit id has none";
  std::string json = fmt::format(
      "{{\n  \"commit\": \"{}\",\n  \"first_seed\": {},\n  \"processes\": {},\n"
      "  \"wall_s\": {:.1f},\n  \"faults\": {}",
      commit, first_seed, totals.processes, totals.wall_s, totals.counts.faults.Total());
  VisitNumbers(totals, [&json](std::string_view name, uint64_t number) {
    json += fmt::format(",\n  \"{}\": {}", name, number);
  });
  json += ",\n  \"faults_by_class\": {";
  for (size_t i = 0; i < kFaultCount; ++i) {
    const auto fault = static_cast<Fault>(i);
    json += fmt::format("{}\n    \"{}\": {{", i == 0 ? "" : ",", NameOf(fault));
    for (size_t phase = 0; phase < kPhaseCount; ++phase) {
      json += fmt::format("{}\"{}\": {}", phase == 0 ? "" : ", ", NameOf(static_cast<Phase>(phase)),
                          totals.counts.faults.at(fault, static_cast<Phase>(phase)));
    }
    json += "}";
  }
  json += "\n  },\n  \"situations\": " + JsonCounts(totals.counts.situations, kSituationNames);
  json += ",\n  \"buggify\": " + JsonCounts(totals.counts.buggify, kBuggifyNames) + "\n}\n";
  return json;
}

}  // namespace gemel::sim

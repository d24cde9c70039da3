// SPDX-License-Identifier: Apache-2.0
#include "tests/sim/fault.h"

#include <algorithm>

#include "common/check.h"

namespace gemel::sim {
namespace {

#define GEMEL_SIM_FAULT_NAME(symbol, name) name,
constexpr std::string_view kFaultNames[] = {GEMEL_SIM_FAULTS(GEMEL_SIM_FAULT_NAME)};
#undef GEMEL_SIM_FAULT_NAME
constexpr std::string_view kPhaseNames[] = {"restore", "save", "repair", "overkill"};
static_assert(std::size(kFaultNames) == kFaultCount);
static_assert(std::size(kPhaseNames) == kPhaseCount);

}  // namespace

std::string_view NameOf(Fault fault) {
  GEMEL_CHECK(fault < Fault::kCount);
  return kFaultNames[static_cast<size_t>(fault)];
}

std::string_view NameOf(Phase phase) {
  GEMEL_CHECK(phase < Phase::kCount);
  return kPhaseNames[static_cast<size_t>(phase)];
}

std::optional<Fault> FaultNamed(std::string_view name) {
  const auto* found = std::find(std::begin(kFaultNames), std::end(kFaultNames), name);
  if (found == std::end(kFaultNames)) {
    return std::nullopt;
  }
  return static_cast<Fault>(found - std::begin(kFaultNames));
}

void FaultLedger::Add(Fault fault, Phase phase, uint64_t count) {
  cells_.at(static_cast<size_t>(fault)).at(static_cast<size_t>(phase)) += count;
}

void FaultLedger::Add(const FaultLedger& other) {
  for (size_t fault = 0; fault < kFaultCount; ++fault) {
    for (size_t phase = 0; phase < kPhaseCount; ++phase) {
      cells_[fault][phase] += other.cells_[fault][phase];
    }
  }
}

void FaultLedger::AddGrowth(const FaultCounts& before, const FaultCounts& now, Phase phase) {
  for (size_t fault = 0; fault < kFaultCount; ++fault) {
    GEMEL_CHECK_LE(before[fault], now[fault]) << kFaultNames[fault];
    Add(static_cast<Fault>(fault), phase, now[fault] - before[fault]);
  }
}

uint64_t FaultLedger::at(Fault fault, Phase phase) const {
  return cells_.at(static_cast<size_t>(fault)).at(static_cast<size_t>(phase));
}

uint64_t FaultLedger::Sum(Fault fault) const {
  uint64_t sum = 0;
  for (const uint64_t cell : cells_.at(static_cast<size_t>(fault))) {
    sum += cell;
  }
  return sum;
}

uint64_t FaultLedger::Total() const {
  uint64_t total = 0;
  for (size_t fault = 0; fault < kFaultCount; ++fault) {
    total += Sum(static_cast<Fault>(fault));
  }
  return total;
}

size_t FaultLedger::EmptyCells() const {
  size_t empty = 0;
  for (const auto& row : cells_) {
    empty += static_cast<size_t>(std::count(row.begin(), row.end(), 0));
  }
  return empty;
}

}  // namespace gemel::sim

// SPDX-License-Identifier: Apache-2.0
//
// Shrink: the smallest run that still shows a violation: takes fault classes away, then servers,
// ranks and jobs, then cuts the phase of faults short, as long as a violation of the same kind
// stays.
//
// Thread safety: call it from the only thread of a process: each try is a worker of its own, so
// that a crash can be shrunk too.
#pragma once

#include <optional>

#include "tests/sim/plan.h"

namespace gemel::sim {

// None when the run shows no violation. Each step is printed.
std::optional<ScenarioOptions> Shrink(const ScenarioOptions& options);

}  // namespace gemel::sim

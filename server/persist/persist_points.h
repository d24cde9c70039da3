// SPDX-License-Identifier: Apache-2.0
//
// The crash point that each step of a PersistStore is (common/points.h).
//
// Thread safety: a pure function.
#pragma once

#include "common/points.h"
#include "server/persist/persist_store.h"

namespace gemel {

// Dies for a value that is no step.
CrashPoint PointOf(PersistStep step);

}  // namespace gemel

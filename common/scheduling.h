// SPDX-License-Identifier: Apache-2.0
//
// How soon a thread runs that wakes where others compute. Linux gives a core to whoever has the
// earliest deadline, and a shorter slice is an earlier one (EEVDF; slices of a thread's own since
// Linux 6.12). A thread that answers others asks for short ones: it does not wait for the end of
// somebody else's, 3 ms, and its share of the core is the same.
//
// Thread safety: any thread, for itself. Errors: none; where the kernel knows no such slices
// nothing changes.
#pragma once

#include "common/time.h"

namespace gemel {

inline constexpr Duration kShortSlice{100'000};  // the least that Linux takes

// For the calling thread, and those that it starts from now on.
void PreferShortSlices();

}  // namespace gemel

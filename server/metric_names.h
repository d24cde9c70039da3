// SPDX-License-Identifier: Apache-2.0
//
// Every metric of a server, registered at start: the metrics endpoint reads the registry on another
// thread, so nothing may be added to it later. Thread safety: one thread, before the endpoint
// starts.
#pragma once

#include "common/metrics.h"

namespace gemel {

// Counted for the process (common/copies.h), so it is brought up to date at each look.
inline constexpr char kCopiedBytesMetric[] = "gemel_copied_bytes_total";

void RegisterServerMetrics(MetricRegistry* metrics);

}  // namespace gemel

// SPDX-License-Identifier: Apache-2.0
//
// Every metric of a server, registered at start: the metrics endpoint reads the registry on another
// thread, so nothing may be added to it later. Thread safety: one thread, before the endpoint
// starts.
#pragma once

#include "common/metrics.h"

namespace gemel {

void RegisterServerMetrics(MetricRegistry* metrics);

}  // namespace gemel

// SPDX-License-Identifier: Apache-2.0
#include "common/metrics.h"

#include "common/check.h"

namespace gemel {

Metric& MetricRegistry::Find(const std::string& name, Metric::Kind kind, std::string help) {
  std::unique_ptr<Metric>& metric = metrics_[name];
  if (metric == nullptr) {
    metric = std::make_unique<Metric>(kind, std::move(help));
  }
  GEMEL_CHECK(metric->kind() == kind) << name << " is registered as another kind";
  return *metric;
}

Metric& MetricRegistry::Counter(const std::string& name, std::string help) {
  return Find(name, Metric::Kind::kCounter, std::move(help));
}

Metric& MetricRegistry::Gauge(const std::string& name, std::string help) {
  return Find(name, Metric::Kind::kGauge, std::move(help));
}

}  // namespace gemel

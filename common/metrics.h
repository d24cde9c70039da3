// SPDX-License-Identifier: Apache-2.0
//
// Metrics: named counters and gauges of one process. Names follow Prometheus
// ("gemel_chunks_total").
//
// Thread safety: Add/Set/Get from any thread; registration on one thread at start.
// Ownership: the registry owns the metrics; references stay valid as long as it lives.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace gemel {

class Metric {
 public:
  enum class Kind { kCounter, kGauge };

  Metric(Kind kind, std::string help) : kind_(kind), help_(std::move(help)) {}

  void Add(int64_t amount) { value_.fetch_add(amount, std::memory_order_relaxed); }

  void Set(int64_t value) { value_.store(value, std::memory_order_relaxed); }

  int64_t Get() const { return value_.load(std::memory_order_relaxed); }

  Kind kind() const { return kind_; }

  const std::string& help() const { return help_; }

 private:
  const Kind kind_;
  const std::string help_;
  std::atomic<int64_t> value_{0};
};

class MetricRegistry {
 public:
  // The counter of that name, made at the first call.
  Metric& Counter(const std::string& name, std::string help);
  Metric& Gauge(const std::string& name, std::string help);

  // Names and metrics, sorted by name.
  const std::map<std::string, std::unique_ptr<Metric>>& all() const { return metrics_; }

 private:
  Metric& Find(const std::string& name, Metric::Kind kind, std::string help);
  std::map<std::string, std::unique_ptr<Metric>> metrics_;
};

}  // namespace gemel

// SPDX-License-Identifier: Apache-2.0
//
// What the mains of our daemons share: log, signals, ready file, metrics, one flag check.
//
// Thread safety: the daemon's main thread; Exposed is read by the exposer's thread.
#pragma once

#include <fmt/format.h>
#include <prometheus/collectable.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/statusor.h"

#include "common/epoll_loop.h"
#include "common/events.h"
#include "common/metrics.h"

namespace gemel {

// Events as lines on standard error.
class LogEvents final : public EventSink {
 public:
  explicit LogEvents(MetricRegistry* metrics);
  void Emit(Severity severity, std::string_view name, std::string text) override;

 private:
  Metric& warnings_;
};

// Metrics for Prometheus. All of them are registered before the exposer starts.
class Exposed final : public prometheus::Collectable {
 public:
  // `refresh`, when given, is called on the exposer's thread before each look.
  explicit Exposed(const MetricRegistry* metrics, std::function<void()> refresh = nullptr)
      : metrics_(metrics), refresh_(std::move(refresh)) {}

  std::vector<prometheus::MetricFamily> Collect() const override;

 private:
  const MetricRegistry* metrics_;
  const std::function<void()> refresh_;
};

// Log lines of `name` go to standard error, one each, flushed.
void StartLog(const std::string& name);

// PermissionDenied for anything else than 127.*, localhost or [::1].
absl::Status CheckLoopback(const std::string& address);

// Whole or not at all, for whoever waits for the file.
absl::Status WriteReadyFile(const std::string& path, const std::string& text);

// SIGTERM and SIGINT, blocked in all threads, as a descriptor of the loop that sets *stop.
absl::StatusOr<int> OpenSignals(EpollLoop* loop, bool* stop);

// Runs `task` on `loop` until it ends.
template <typename T>
T RunToEnd(EpollLoop* loop, Task<T> task) {
  std::optional<T> result;

  struct Runner {
    static Task<void> Run(Task<T> inner, std::optional<T>* out) {
      out->emplace(co_await std::move(inner));
    }
  };

  loop->Spawn(Runner::Run(std::move(task), &result));
  loop->RunUntil([&] { return result.has_value(); }, kTimeNever);
  GEMEL_CHECK(result.has_value());
  return std::move(*result);
}

// The result of `open` on a data directory. FailedPrecondition is tried again for a while: a
// process that was killed holds its lock until its last thread has ended, after it is dead to those
// who look.
template <typename Open>
auto OpenWhenFree(EpollLoop* loop, Open open) {
  constexpr Duration kPatience = 2s;
  constexpr Duration kEvery = 20ms;
  const TimePoint give_up = Add(loop->Now(), kPatience);
  while (true) {
    auto opened = open();
    if (opened.status().code() != absl::StatusCode::kFailedPrecondition || loop->Now() >= give_up) {
      return opened;
    }
    loop->RunUntil([] { return false; }, Add(loop->Now(), kEvery));
  }
}

}  // namespace gemel

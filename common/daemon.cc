// SPDX-License-Identifier: Apache-2.0
#include "common/daemon.h"

#include <prometheus/client_metric.h>
#include <prometheus/metric_family.h>
#include <prometheus/metric_type.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <fstream>

#include "common/errors.h"

namespace gemel {

LogEvents::LogEvents(MetricRegistry* metrics)
    : warnings_(metrics->Counter("gemel_warnings_total", "events of severity warning or error")) {}

void LogEvents::Emit(Severity severity, std::string_view name, std::string text) {
  if (severity != Severity::kInfo) {
    warnings_.Add(1);
  }
  const auto level = severity == Severity::kInfo      ? spdlog::level::info
                     : severity == Severity::kWarning ? spdlog::level::warn
                                                      : spdlog::level::err;
  spdlog::log(level, "{}: {}", name, text);
}

std::vector<prometheus::MetricFamily> Exposed::Collect() const {
  if (refresh_ != nullptr) {
    refresh_();
  }
  std::vector<prometheus::MetricFamily> families;
  for (const auto& [name, metric] : metrics_->all()) {
    prometheus::MetricFamily family;
    family.name = name;
    family.help = metric->help();
    prometheus::ClientMetric value;
    if (metric->kind() == Metric::Kind::kCounter) {
      family.type = prometheus::MetricType::Counter;
      value.counter.value = static_cast<double>(metric->Get());
    } else {
      family.type = prometheus::MetricType::Gauge;
      value.gauge.value = static_cast<double>(metric->Get());
    }
    family.metric.push_back(value);
    families.push_back(family);
  }
  return families;
}

void StartLog(const std::string& name) {
  spdlog::set_default_logger(spdlog::stderr_logger_mt(name));
  spdlog::flush_on(spdlog::level::info);
}

absl::Status CheckLoopback(const std::string& address) {
  if (address.starts_with("127.") || address.starts_with("localhost:") ||
      address.starts_with("[::1]:")) {
    return absl::OkStatus();
  }
  return error::PermissionDenied(
      "'{}' is not a loopback address; until TLS exists give 127.0.0.1:PORT", address);
}

absl::Status WriteReadyFile(const std::string& path, const std::string& text) {
  const std::string temporary = path + ".tmp";
  {
    std::ofstream out(temporary, std::ios::trunc);
    out << text << "\n";
    if (!out.flush()) {
      return error::Unavailable("cannot write the ready file {}", temporary);
    }
  }
  if (std::rename(temporary.c_str(), path.c_str()) != 0) {
    return error::Unavailable("cannot rename {} to {}", temporary, path);
  }
  return absl::OkStatus();
}

absl::StatusOr<int> OpenSignals(EpollLoop* loop, bool* stop) {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  if (sigprocmask(SIG_BLOCK, &signals, nullptr) != 0) {
    return error::Internal("sigprocmask failed");
  }
  const int fd = signalfd(-1, &signals, SFD_NONBLOCK | SFD_CLOEXEC);
  if (fd < 0) {
    return error::Internal("signalfd failed");
  }
  loop->Watch(fd, EPOLLIN, [fd, stop](uint32_t) {
    signalfd_siginfo info;
    while (read(fd, &info, sizeof(info)) == sizeof(info)) {
      spdlog::info("signal {}: stopping", info.ssi_signo);
      *stop = true;
    }
  });
  return fd;
}

}  // namespace gemel

// SPDX-License-Identifier: Apache-2.0
#include "transport/tcp/cpu_pressure.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <memory>
#include <utility>

namespace gemel {

ThreadCpuTimes::ThreadCpuTimes()
    : file_(open("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC)) {}

ThreadCpuTimes::~ThreadCpuTimes() {
  if (file_ >= 0) {
    close(file_);
  }
}

std::optional<CpuTimes> ThreadCpuTimes::Read() const {
  std::array<char, 96> text{};
  if (file_ < 0 || pread(file_, text.data(), text.size() - 1, 0) <= 0) {
    return std::nullopt;
  }
  return ParseSchedstat(text.data());
}

std::optional<CpuTimes> ParseSchedstat(const char* text) {
  long long ran = 0;
  long long waited = 0;
  // NOLINTNEXTLINE(cert-err34-c): both are checked, and the kernel wrote them
  if (std::sscanf(text, "%lld %lld", &ran, &waited) != 2 || ran < 0 || waited < 0) {
    return std::nullopt;
  }
  return CpuTimes{Duration(ran), Duration(waited)};
}

bool CpuPressure::Contended(TimePoint now) {
  if (read_ == nullptr) {
    read_ = [times = std::make_shared<ThreadCpuTimes>()] { return times->Read(); };
  }
  if (!looked_at_.has_value() || now - *looked_at_ >= kLookEvery) {
    Look(now);
  }
  return contended_;
}

void CpuPressure::Look(TimePoint now) {
  const bool recent = looked_at_.has_value() && now - *looked_at_ <= kLookMost;
  looked_at_ = now;
  const std::optional<CpuTimes> times = read_();
  if (!times.has_value()) {
    contended_ = false;
    return;
  }
  const CpuTimes before = std::exchange(seen_, *times);
  const Duration waited = times->waited - before.waited;
  const Duration ready = waited + (times->ran - before.ran);
  if (!recent) {
    contended_ = false;
  } else if (ready > Duration::zero()) {
    contended_ = 100 * waited >= (contended_ ? kFreePercent : kContendedPercent) * ready;
  }
}

}  // namespace gemel

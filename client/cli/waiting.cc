// SPDX-License-Identifier: Apache-2.0
#include "client/cli/waiting.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "client/cli/host_processes.h"
#include "common/check.h"

namespace gemel::cli {
namespace {

constexpr Duration kSilentFirst = 1s;
constexpr Duration kTerminalEvery = 200ms;
constexpr Duration kLogEvery = 10s;
constexpr uint64_t kBarLetters = 24;
constexpr const char* kEraseLine = "\r\x1b[K";

}  // namespace

std::string WaitingLine(std::string_view what, uint64_t done, uint64_t total,
                        std::string_view detail, Duration elapsed) {
  std::string line(what);
  if (total > 0) {
    GEMEL_CHECK(elapsed >= Duration::zero());
    const uint64_t shown = std::min(done, total);
    const auto parts = static_cast<uint64_t>(static_cast<double>(shown) * kBarLetters /
                                             static_cast<double>(total));
    GEMEL_CHECK_LE(parts, kBarLetters);
    line += fmt::format(" [{}{}] {:3.0f} %", std::string(parts, '#'),
                        std::string(kBarLetters - parts, '-'),
                        100.0 * static_cast<double>(shown) / static_cast<double>(total));
  }
  if (!detail.empty()) {
    line += fmt::format(" {}", detail);
  }
  return line +
         fmt::format(" ({} s)", std::chrono::duration_cast<std::chrono::seconds>(elapsed).count());
}

Waiting::Waiting(std::string what)
    : what_(std::move(what)),
      terminal_(isatty(STDERR_FILENO) == 1),
      began_(Now()),
      next_(Add(began_, terminal_ ? kSilentFirst : kLogEvery)) {}

Waiting::~Waiting() {
  if (shown_ && terminal_) {
    std::fputs(kEraseLine, stderr);
    std::fflush(stderr);
  }
}

void Waiting::Show(uint64_t done, uint64_t total, std::string_view detail) {
  const TimePoint now = Now();
  if (now < next_) {
    return;
  }
  next_ = Add(now, terminal_ ? kTerminalEvery : kLogEvery);
  shown_ = true;
  const std::string line = WaitingLine(what_, done, total, detail, now - began_);
  std::fputs((terminal_ ? kEraseLine + line : line + "\n").c_str(), stderr);
  std::fflush(stderr);
}

}  // namespace gemel::cli

// SPDX-License-Identifier: Apache-2.0
//
// CpuPressure: whether others want the cores that a thread runs on, by how long it waits for one:
// of the time that it was ready to run, the share in which it did not. The kernel counts both
// (/proc/thread-self/schedstat: ns on a core, ns ready and waiting).
//
// Thread safety: one thread's, whose times are read; which one is decided at the first Contended().
// Errors: none; where the kernel counts nothing the cores are never contended.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>

#include "common/time.h"

namespace gemel {

struct CpuTimes {
  Duration ran{};
  Duration waited{};
};

// Of the calling thread; nothing when the kernel does not count.
class ThreadCpuTimes {
 public:
  ThreadCpuTimes();
  ThreadCpuTimes(const ThreadCpuTimes&) = delete;
  ThreadCpuTimes& operator=(const ThreadCpuTimes&) = delete;
  ~ThreadCpuTimes();

  std::optional<CpuTimes> Read() const;

 private:
  int file_;  // -1: not counted
};

// "RAN WAITED SLICES", ns. Nothing for other text.
std::optional<CpuTimes> ParseSchedstat(const char* text);

class CpuPressure {
 public:
  // Two looks are at least so far apart, and what lies between two that are further apart than the
  // most says nothing of now.
  static constexpr Duration kLookEvery = std::chrono::milliseconds(10);
  static constexpr Duration kLookMost = std::chrono::milliseconds(500);
  // Of the time ready to run, waited: from this share on the cores are contended, until it is below
  // the lower one.
  static constexpr int kContendedPercent = 20;
  static constexpr int kFreePercent = 10;

  using Read = std::function<std::optional<CpuTimes>()>;

  // Null `read`: of the thread that calls Contended() first.
  explicit CpuPressure(Read read = nullptr) : read_(std::move(read)) {}

  // A system call every kLookEvery, between them none.
  bool Contended(TimePoint now);

 private:
  void Look(TimePoint now);

  Read read_;
  bool contended_ = false;
  std::optional<TimePoint> looked_at_;
  CpuTimes seen_;
};

}  // namespace gemel

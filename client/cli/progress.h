// SPDX-License-Identifier: Apache-2.0
//
// Progress: how far something is that takes more than a second, on standard error: a bar that is
// redrawn on a terminal, a line every five seconds elsewhere, nothing when the output is for a
// program.
//
// Thread safety: one thread.
#pragma once

#include <cstdint>
#include <string>

#include "common/time.h"

namespace gemel::cli {

class Progress {
 public:
  enum class Style { kBar, kLines, kNone };

  // kNone when `for_program`; else by whether standard error is a terminal.
  explicit Progress(bool for_program);

  explicit Progress(Style style) : style_(style) {}

  // Ends the bar's line.
  ~Progress() { Finish(); }

  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  // `done` of `total` bytes; `what` is being done. Cheap: prints at most ten times a second.
  void Update(uint64_t done, uint64_t total, const std::string& what);

  // So that what is printed next stands on a line of its own.
  void Finish();

  // The line at `now`, for tests: "writing x  12.0 of 40.0 MiB  30 %  5.0 MiB/s  6 s left".
  std::string LineAt(TimePoint now) const;

 private:
  const Style style_;
  uint64_t done_ = 0;
  uint64_t total_ = 0;
  std::string what_;
  TimePoint started_;
  uint64_t started_bytes_ = 0;  // done before the first update that counts for the rate
  bool began_ = false;
  bool drawn_ = false;
  TimePoint printed_at_;
};

}  // namespace gemel::cli

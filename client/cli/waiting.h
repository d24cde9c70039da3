// SPDX-License-Identifier: Apache-2.0
//
// Waiting: says on standard error how far a long work is. Nothing in its first second; then, on a
// terminal, one line that is rewritten; elsewhere a line every ten seconds.
//
// Thread safety: one thread.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "common/time.h"

namespace gemel::cli {

class Waiting {
 public:
  // `what` is done: "verifying gpt@7".
  explicit Waiting(std::string what);
  ~Waiting();  // takes the line away
  Waiting(const Waiting&) = delete;
  Waiting& operator=(const Waiting&) = delete;

  // `total` 0: not known, the time that went by is shown alone.
  void Show(uint64_t done, uint64_t total, std::string_view detail);

 private:
  const std::string what_;
  const bool terminal_;
  const TimePoint began_;
  TimePoint next_;
  bool shown_ = false;
};

// One line: "what [#####-----] 50 % detail (3 s)".
std::string WaitingLine(std::string_view what, uint64_t done, uint64_t total,
                        std::string_view detail, Duration elapsed);

}  // namespace gemel::cli

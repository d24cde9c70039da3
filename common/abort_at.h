// SPDX-License-Identifier: Apache-2.0
//
// AbortAt: ends this process with SIGKILL at a named crash point (common/points.h), for the crash
// loops. Behind the flag --abort-at POINT[:N] of gemel-server and gemel-placement; for testing
// only.
//
// Thread safety: any thread may reach a point. Ownership: outlives its time as the process's hooks.
// Invariants: the process dies at the N-th time that the point is reached, not before and not
// after. Errors: InvalidArgument for a point that there is none of, with the list, or an N below 1.
#pragma once

#include <atomic>
#include <memory>
#include <string>

#include "absl/status/statusor.h"

#include "common/points.h"

namespace gemel {

class AbortAt final : public PointHooks {
 public:
  // From "POINT" or "POINT:N". What is made is the process's hooks until it is destroyed; null when
  // `text` is empty.
  static absl::StatusOr<std::unique_ptr<AbortAt>> Set(const std::string& text);
  ~AbortAt() override;

  AbortAt(const AbortAt&) = delete;
  AbortAt& operator=(const AbortAt&) = delete;

  void Reached(CrashPoint point) override;

 private:
  AbortAt(CrashPoint point, uint32_t times) : point_(point), left_(times) {}

  const CrashPoint point_;
  std::atomic<uint32_t> left_;
};

}  // namespace gemel

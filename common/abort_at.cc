// SPDX-License-Identifier: Apache-2.0
#include "common/abort_at.h"

#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <iterator>

#include "absl/strings/numbers.h"

#include "common/check.h"
#include "common/errors.h"

namespace gemel {
namespace {

constexpr uint32_t kTimesMax = 1'000'000;
static_assert(std::size(kCrashPointNames) == std::size(kCrashPointMeanings));

std::string ListOfPoints() {
  std::string list;
  for (size_t i = 0; i < std::size(kCrashPointNames); ++i) {
    list += fmt::format("\n  {}: {}", kCrashPointNames[i], kCrashPointMeanings[i]);
  }
  return list;
}

}  // namespace

absl::StatusOr<std::unique_ptr<AbortAt>> AbortAt::Set(const std::string& text) {
  if (text.empty()) {
    return nullptr;
  }
  const size_t colon = text.find(':');
  const std::string name = text.substr(0, colon);
  uint32_t times = 1;
  if (colon != std::string::npos &&
      (!absl::SimpleAtoi(text.substr(colon + 1), &times) || times == 0 || times > kTimesMax)) {
    return error::InvalidArgument("--abort-at {}: after the colon comes a number of 1 to {}", text,
                                  kTimesMax);
  }
  const auto* const found =
      std::find(std::begin(kCrashPointNames), std::end(kCrashPointNames), name);
  if (found == std::end(kCrashPointNames)) {
    return error::InvalidArgument("--abort-at {}: no crash point is called '{}'; there are{}", text,
                                  name, ListOfPoints());
  }
  GEMEL_CHECK(internal::point_hooks == nullptr) << "--abort-at while other hooks are set";
  const auto point = static_cast<CrashPoint>(std::distance(std::begin(kCrashPointNames), found));
  std::unique_ptr<AbortAt> abort(new AbortAt(point, times));
  SetPointHooks(abort.get());
  return abort;
}

AbortAt::~AbortAt() { SetPointHooks(nullptr); }

void AbortAt::Reached(CrashPoint point) {
  if (point != point_) {
    return;
  }
  const uint32_t left = left_.fetch_sub(1);
  GEMEL_CHECK_GT(left, 0U) << "the process outlived its last time";
  if (left == 1) {
    const size_t index = static_cast<size_t>(point);
    std::fprintf(stderr, "abort-at: %s reached\n", kCrashPointNames[index].data());
    kill(getpid(), SIGKILL);
    pause();
  }
}

}  // namespace gemel

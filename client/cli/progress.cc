// SPDX-License-Identifier: Apache-2.0
#include "client/cli/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "client/cli/host_processes.h"
#include "common/bytes.h"

namespace gemel::cli {
namespace {

constexpr Duration kQuietFor = 1s;  // what is done by then needs no bar
constexpr Duration kRedrawEvery = 100ms;
constexpr Duration kLineEvery = 5s;
constexpr size_t kBarCells = 20;
constexpr double kMiBAsDouble = static_cast<double>(kMiB);

std::string TimeLeft(double seconds) {
  const auto whole = static_cast<uint64_t>(seconds + 0.5);
  return whole < 60     ? fmt::format("{} s left", whole)
         : whole < 3600 ? fmt::format("{} min {} s left", whole / 60, whole % 60)
                        : fmt::format("{} h {} min left", whole / 3600, whole / 60 % 60);
}

}  // namespace

Progress::Progress(bool for_program)
    : style_(for_program                  ? Style::kNone
             : isatty(STDERR_FILENO) == 1 ? Style::kBar
                                          : Style::kLines) {}

std::string Progress::LineAt(TimePoint now) const {
  const double seconds = std::max(Milliseconds(now - started_) / 1000, 0.001);
  const double rate = static_cast<double>(done_ - std::min(done_, started_bytes_)) / seconds;
  const double share = total_ == 0 ? 1 : static_cast<double>(done_) / static_cast<double>(total_);
  std::string line =
      fmt::format("{}  {:.1f} of {:.1f} MiB  {:.0f} %  {:.1f} MiB/s", what_,
                  static_cast<double>(done_) / kMiBAsDouble,
                  static_cast<double>(total_) / kMiBAsDouble, 100 * share, rate / kMiBAsDouble);
  if (rate > 0 && done_ < total_) {
    line += "  " + TimeLeft(static_cast<double>(total_ - done_) / rate);
  }
  return line;
}

void Progress::Update(uint64_t done, uint64_t total, const std::string& what) {
  const TimePoint now = Now();
  if (!began_ || done < done_ || total != total_) {
    began_ = true;
    started_ = now;
    started_bytes_ = done;
    printed_at_ = style_ == Style::kBar ? Add(now, kQuietFor - kRedrawEvery) : now;
  }
  done_ = done;
  total_ = total;
  what_ = what;
  if (style_ == Style::kNone ||
      now < Add(printed_at_, style_ == Style::kBar ? kRedrawEvery : kLineEvery)) {
    return;
  }
  printed_at_ = now;
  if (style_ == Style::kLines) {
    std::fprintf(stderr, "%s\n", LineAt(now).c_str());
    return;
  }
  const size_t cells =
      total == 0 ? kBarCells : std::min<size_t>(kBarCells, kBarCells * done / total);
  std::fprintf(stderr, "\r\033[K[%s%s] %s", std::string(cells, '#').c_str(),
               std::string(kBarCells - cells, ' ').c_str(), LineAt(now).c_str());
  std::fflush(stderr);
  drawn_ = true;
}

void Progress::Finish() {
  if (drawn_) {
    std::fputs("\r\033[K", stderr);
    std::fflush(stderr);
    drawn_ = false;
  }
}

}  // namespace gemel::cli

// SPDX-License-Identifier: Apache-2.0
#include "tests/sim/timeline.h"

#include <fmt/format.h>

#include <map>
#include <utility>

#include "common/check.h"

namespace gemel::sim {
namespace {

constexpr size_t kColumnWidth = 4;
constexpr size_t kLegendMax = 150;

// "scenario" and "placement" stand left of the hosts.
std::string ColumnKey(const std::string& node) {
  const bool host = node.starts_with("host-");
  return (host ? "1" : node == "scenario" ? "00" : "01") + node;
}

std::string ShortName(const std::string& node) {
  return node.starts_with("host-") ? "h" + node.substr(5) : node.substr(0, kColumnWidth - 1);
}

}  // namespace

void Timeline::Count(const Event& event) {
  const int64_t second = event.at.time_since_epoch() / 1s;
  Rate& rate = rates_[{event.node, event.name}];
  rate = {.second = second, .events = rate.second == second ? rate.events + 1 : 1};
  if (rate.events > kSameInASecondMax) {
    noise_ = fmt::format("{} tells {} more than {} times within a second: {}", event.node,
                         event.name, kSameInASecondMax, event.text);
  }
}

void Timeline::Add(Event event) {
  Count(event);
  if (on_event_) {
    on_event_(event);
  }
  events_.push_back(std::move(event));
  if (events_.size() > kEventsKept) {
    events_.pop_front();
  }
}

std::vector<std::string> Timeline::Lines() const {
  std::vector<std::string> lines;
  lines.reserve(events_.size());
  for (const Event& event : events_) {
    lines.push_back(fmt::format("{:>12.3f} ms  {:<12} {:<24} {}",
                                Milliseconds(event.at.time_since_epoch()), event.node, event.name,
                                event.text));
  }
  return lines;
}

std::vector<std::string> Timeline::Columns() const {
  std::map<std::string, size_t> columns;
  for (const Event& event : events_) {
    columns.emplace(ColumnKey(event.node), 0);
  }
  std::string head = fmt::format("{:>12}  ", "ms");
  size_t next = 0;
  for (auto& [key, column] : columns) {
    column = next++;
    head +=
        fmt::format("{:<{}}", ShortName(key.substr(key.starts_with("1") ? 1 : 2)), kColumnWidth);
  }
  std::vector<std::string> lines = {head};
  for (const Event& event : events_) {
    const size_t column = columns.at(ColumnKey(event.node));
    GEMEL_CHECK_LT(column, columns.size());
    std::string marks(columns.size() * kColumnWidth, ' ');
    for (size_t i = 0; i < columns.size(); ++i) {
      marks[i * kColumnWidth] = i == column ? '*' : '.';
    }
    lines.push_back(fmt::format("{:>12.3f}  {} {}: {}", Milliseconds(event.at.time_since_epoch()),
                                marks, event.name, event.text.substr(0, kLegendMax)));
  }
  return lines;
}

void NodeEvents::Emit(Severity /*severity*/, std::string_view name, std::string text) {
  timeline_->Add({scheduler_->now(), node_, std::string(name), std::move(text)});
}

}  // namespace gemel::sim

// SPDX-License-Identifier: Apache-2.0
//
// Timeline: the last events of every node of a run, printed with a violation: one line an event, or
// one column a node.
//
// Thread safety: one thread.
// Bounds: kEventsKept events; older ones go.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/events.h"
#include "common/sim_loop.h"

namespace gemel::sim {

class Timeline {
 public:
  static constexpr size_t kEventsKept = 4000;
  // By one node of one name. A busy cluster told 115 in 250 seeds.
  static constexpr size_t kSameInASecondMax = 400;

  struct Event {
    TimePoint at{};
    std::string node;
    std::string name;
    std::string text;
  };

  void Add(Event event);

  // Called with every event as it happens.
  void OnEvent(std::function<void(const Event&)> on_event) { on_event_ = std::move(on_event); }

  // A node that tells the same more often than kSameInASecondMax, as a retry without a pause does;
  // empty when there is none.
  const std::string& noise() const { return noise_; }

  // "     1234.567 ms  host-1       member_dead              server host-2 …"
  std::vector<std::string> Lines() const;
  // A column a node, in which an event is a mark, with what happened to the right of all. Nodes
  // that say nothing have none.
  std::vector<std::string> Columns() const;

 private:
  struct Rate {
    int64_t second = 0;
    size_t events = 0;
  };

  void Count(const Event& event);

  std::deque<Event> events_;
  std::map<std::pair<std::string, std::string>, Rate> rates_;  // by node and name
  std::string noise_;
  std::function<void(const Event&)> on_event_;
};

// Where one node's events go.
class NodeEvents final : public EventSink {
 public:
  NodeEvents(SimScheduler* scheduler, std::string node, Timeline* timeline)
      : scheduler_(scheduler), node_(std::move(node)), timeline_(timeline) {}

  void Emit(Severity severity, std::string_view name, std::string text) override;

 private:
  SimScheduler* const scheduler_;
  const std::string node_;
  Timeline* const timeline_;
};

}  // namespace gemel::sim

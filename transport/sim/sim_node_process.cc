// SPDX-License-Identifier: Apache-2.0
#include "transport/sim/sim_node_process.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "common/check.h"

namespace gemel {
namespace {

constexpr size_t kPruneAtLeast = 64;

}  // namespace

SimNodeProcess::SimNodeProcess(SimWorld* world, SimLoop* loop, std::string node, uint64_t pid,
                               Random random)
    : world_(world),
      loop_(loop),
      node_(std::move(node)),
      pid_(pid),
      random_(random),
      prune_at_(kPruneAtLeast) {
  GEMEL_CHECK(loop != nullptr && !loop->is_shut_down());
}

std::string SimNodeProcess::ToString() const { return fmt::format("{} (process {})", node_, pid_); }

SimWorld* SimNodeProcess::world() const {
  GEMEL_CHECK(world_ != nullptr) << ToString() << " outlived its world";
  return world_;
}

SimLoop* SimNodeProcess::loop() const {
  GEMEL_CHECK(alive_) << ToString() << " is dead";
  return loop_;
}

void SimNodeProcess::Post(Loop::Callback callback) {
  if (alive_) {
    loop_->Post(std::move(callback));
  }
}

void SimNodeProcess::Attach(const std::shared_ptr<SimPart>& part) {
  GEMEL_CHECK(alive_ && part != nullptr) << ToString();
  if (parts_.size() >= prune_at_) {
    std::erase_if(parts_, [](const auto& entry) { return entry.second.expired(); });
    prune_at_ = std::max(kPruneAtLeast, 2 * parts_.size());
  }
  parts_.emplace(next_part_++, part);
}

std::vector<std::shared_ptr<SimPart>> SimNodeProcess::Parts() {
  std::vector<std::shared_ptr<SimPart>> alive;
  for (const auto& [number, weak] : parts_) {
    if (std::shared_ptr<SimPart> part = weak.lock()) {
      alive.push_back(std::move(part));
    }
  }
  return alive;
}

}  // namespace gemel

// SPDX-License-Identifier: Apache-2.0
//
// The members as others see them: the map, WatchMap, and the plans that placement/model makes.
#include <algorithm>

#include "common/check.h"
#include "common/errors.h"
#include "placement/manager/core.h"

namespace gemel {

const model::DomainRule& Plan::RuleAt(uint32_t level) {
  auto found = rules.find(level);
  if (found == rules.end()) {
    found = rules.emplace(level, model::RuleOn(members, level)).first;
  }
  return found->second;
}

MemberEntry* PlacementCore::FindMember(const ServerId& id) {
  const auto found = members_.find(id);
  return found == members_.end() ? nullptr : found->second.get();
}

// Members that a restarted manager has not heard yet count too: they are expected back.
Plan& PlacementCore::PlanFor(uint32_t copies, StrategyChoice strategy) {
  GEMEL_CHECK(copies >= 1 && copies <= model::kCopiesMax) << copies;
  const auto found = plans_.find({copies, strategy});
  if (found != plans_.end()) {
    return found->second;
  }
  Plan plan;
  for (const auto& [id, member] : members_) {
    if (member->in_service()) {
      plan.index[id] = static_cast<uint32_t>(plan.ids.size());
      plan.ids.push_back(id);
      plan.members.push_back(
          {.domain = member->record.domain, .placeable = !draining_.contains(id)});
    }
  }
  plan.assignment = model::BuildGroups(plan.members, copies, strategy);
  GEMEL_CHECK_EQ(plan.assignment.holders.size(), plan.ids.size());
  GEMEL_CHECK_EQ(plan.index.size(), plan.ids.size());
  Plan& kept = plans_.emplace(std::pair(copies, strategy), std::move(plan)).first->second;
  kept.number = ++plans_made_;
  kept.AddRepairs();
  return kept;
}

// Of a committed snapshot, whose record may come from anywhere.
Plan& PlacementCore::PlanOf(const model::CommitRecord& record) {
  return PlanFor(std::clamp<uint32_t>(record.copies, 1, model::kCopiesMax), record.strategy);
}

// A rank that saves at a draining server keeps its local copy there, and all copies elsewhere.
void Plan::AddRepairs() {
  repairs = std::make_unique<model::RepairPlanner>(members, assignment);
  slots = assignment;
  for (uint32_t i = 0; i < members.size(); ++i) {
    if (!members[i].placeable) {
      slots.holders[i] = repairs->TargetsOf({.holders = {i}}).targets;
      slots.holders[i].insert(slots.holders[i].begin(), i);
    }
  }
}

std::vector<uint32_t> PlacementCore::Indices(const Plan& plan,
                                             const std::vector<ServerId>& ids) const {
  std::vector<uint32_t> indices;
  for (const ServerId& id : ids) {
    const auto found = plan.index.find(id);
    if (found != plan.index.end()) {
      indices.push_back(found->second);
    }
  }
  return indices;
}

// Everything that follows from another set of live members.
void PlacementCore::MembersChanged() {
  plans_.clear();
  RetargetAll();
  for (auto& [name, job] : jobs_) {
    for (auto& [order, snapshot] : job->snapshots) {
      CountCopies(&snapshot);
      snapshot.repair_failures.clear();  // they may have been the fault of who went
      snapshot.disk_settled = false;
    }
    job->changed.NotifyAll();
    ReviewRestoreSoon(job.get());
  }
  MaintainAllSoon();
}

void PlacementCore::MemberToProto(const MemberEntry& member, pb::Member* out) const {
  const MemberRecord& record = member.record;
  out->set_server_id(record.id.ToBytes());
  out->set_incarnation(record.incarnation.ToBytes());
  out->set_name(record.name);
  out->set_domain(record.domain);
  out->set_data_address(record.data_address);
  out->set_capacity_bytes(record.capacity_bytes);
  out->set_used_bytes(member.used_bytes);
  out->set_draining(draining_.contains(record.id));
  out->set_state(!member.alive()                    ? pb::MEMBER_DEAD
                 : member.suspect_since.has_value() ? pb::MEMBER_SUSPECT
                                                    : pb::MEMBER_ALIVE);
  if (member.suspect_since.has_value()) {
    const double silent = Milliseconds(loop_->Now() - *member.suspect_since);
    out->set_suspect_ms(std::max<uint64_t>(1, static_cast<uint64_t>(silent)));
  }
}

void PlacementCore::MemberToProto(const ServerId& id, pb::Member* out) const {
  const auto found = members_.find(id);
  GEMEL_CHECK(found != members_.end()) << id.ToShort();
  MemberToProto(*found->second, out);
}

void PlacementCore::MapToProto(pb::ClusterMap* out) const {
  out->set_version(cluster_.map_version);
  for (const auto& [id, member] : members_) {
    MemberToProto(*member, out->add_members());
  }
}

PlacementCore::Answer<pb::WatchMapReply> PlacementCore::WatchMap(CallPtr call,
                                                                 pb::WatchMapRequest request) {
  const TimePoint deadline = HoldUntil(request.wait_ms());
  while (!stopping_ && !call->cancelled() && cluster_.map_version == request.known_version()) {
    const bool notified = co_await map_changed_.WaitUntil(deadline);
    if (!notified) {
      break;
    }
  }
  pb::WatchMapReply reply;
  MapToProto(reply.mutable_map());
  co_return reply;
}

}  // namespace gemel

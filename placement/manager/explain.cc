// SPDX-License-Identifier: Apache-2.0
//
// Explain: the placement of the present map, or of one snapshot's shards, as lines for people.
#include "placement/model/explain.h"

#include "absl/strings/str_join.h"

#include "common/check.h"
#include "common/errors.h"
#include "placement/manager/core.h"

namespace gemel {

PlacementCore::Answer<pb::ExplainReply> PlacementCore::Explain(CallPtr,
                                                               pb::ExplainRequest request) {
  GEMEL_CO_RETURN_IF_ERROR(CheckServing());
  if (request.copies() > model::kCopiesMax) {
    co_return error::InvalidArgument("{} copies; 1 to {}", request.copies(), model::kCopiesMax);
  }
  if (!pb::Strategy_IsValid(request.strategy())) {
    co_return error::InvalidArgument("strategy {}; 0 is group, 1 is ring",
                                     static_cast<int>(request.strategy()));
  }
  uint32_t copies = request.copies() == 0 ? 2 : request.copies();
  StrategyChoice strategy = StrategyOf(request.strategy());
  pb::ExplainReply reply;
  if (!request.job().empty()) {
    GEMEL_CO_ASSIGN_OR_RETURN(Job * job, KnownJob(request.job()));
    GEMEL_CO_ASSIGN_OR_RETURN(const Committed* snapshot, FindSnapshot(job, request.name()));
    const model::CommitRecord& record = snapshot->record;
    copies = record.copies;
    strategy = record.strategy;
    reply.add_lines(fmt::format("{}: {} ranks, {} bytes, {} of {} copies, redundancy {}",
                                record.snapshot.ToString(), record.world_size, record.bytes,
                                snapshot->fewest, record.copies, snapshot->full ? "full" : "LOW"));
    const HolderTable holders = HoldersOf(*snapshot);
    for (uint32_t rank = 0; rank < holders.size(); ++rank) {
      std::vector<std::string> names;
      for (const ServerId& id : holders[rank]) {
        const MemberRecord& member = members_.at(id)->record;
        names.push_back(fmt::format("{} ({})", member.name, member.domain));
      }
      reply.add_lines(fmt::format("rank {}: {}", rank,
                                  names.empty() ? "NO LIVE HOLDER" : absl::StrJoin(names, ", ")));
    }
  }
  Plan& plan = PlanFor(copies, strategy);
  std::vector<std::string> names;
  names.reserve(plan.ids.size());
  for (const ServerId& id : plan.ids) {
    names.push_back(members_.at(id)->record.name);
  }
  const model::ClusterMap map{.version = cluster_.map_version, .members = plan.members};
  GEMEL_CHECK_EQ(names.size(), map.members.size());
  for (std::string& line : model::ExplainLines(model::Explain(map, plan.assignment), names)) {
    reply.add_lines(std::move(line));
  }
  co_return reply;
}

}  // namespace gemel

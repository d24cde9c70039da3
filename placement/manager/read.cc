// SPDX-License-Identifier: Apache-2.0
//
// BeginRead and EndRead: one committed snapshot, by name, for whoever reads it without an epoch. It
// is pinned for the server that asks until EndRead, or until that incarnation is gone. Pins are
// soft: a restarted manager has none, and a reader whose snapshot is retired meanwhile is told so
// by the servers.
#include <algorithm>

#include "absl/strings/str_join.h"

#include "common/check.h"
#include "common/errors.h"
#include "placement/manager/core.h"

namespace gemel {
namespace {

constexpr Duration kRecheck = 200ms;

}  // namespace

// Of one name only the newest attempt: an older one is other content.
PlacementCore::Choice PlacementCore::ChooseForRead(Job* job, const std::string& name) {
  if (name.empty()) {
    return Choose(job, std::nullopt);
  }
  Choice choice;
  if (!AllReported(&choice.progress)) {
    choice.wait = true;
    return choice;
  }
  for (auto it = job->snapshots.rbegin(); it != job->snapshots.rend(); ++it) {
    if (it->second.record.snapshot.name == name) {
      choice = Examine(job, it->first);
      choice.failed = !choice.wait && !choice.order.has_value();
      return choice;
    }
  }
  choice.none = true;
  return choice;
}

// True when `reply` is the answer; false: reply->progress() says for what to wait.
absl::StatusOr<bool> PlacementCore::ReadOnce(Job* job, const pb::BeginReadRequest& request,
                                             pb::BeginReadReply* reply) {
  GEMEL_ASSIGN_OR_RETURN(MemberEntry * reader,
                         AskingFor(request.caller(), request.job(), request.name()));
  Heard(reader);
  GEMEL_ASSIGN_OR_RETURN(const ReadId id, ReadId::FromBytes(request.read_id()));
  auto read = reads_.find(id);
  if (read == reads_.end()) {
    const Choice choice = ChooseForRead(job, request.name());
    if (choice.none) {
      GEMEL_RETURN_IF_ERROR(FindSnapshot(job, request.name()).status());
    }
    if (choice.failed) {
      return error::DataLoss("job {}: what was asked for cannot be read: {}", job->name,
                             absl::StrJoin(choice.lost, "; "));
    }
    if (choice.wait) {
      reply->set_progress(choice.progress);
      return false;
    }
    const auto own = std::count_if(reads_.begin(), reads_.end(), [job](const auto& entry) {
      return entry.second.job == job->name;
    });
    if (static_cast<size_t>(own) >= kReadsMax) {
      return error::ResourceExhausted("{} readers have snapshots of job {} open: close some", own,
                                      job->name);
    }
    if (job->snapshots.at(*choice.order).leaving) {
      reply->set_progress("the newest is being retired");
      return false;
    }
    job->reads[*choice.order] += 1;
    read = reads_
               .emplace(id, ReadPin{.job = job->name,
                                    .order = *choice.order,
                                    .reader = reader->record.id,
                                    .incarnation = reader->record.incarnation})
               .first;
  }
  GEMEL_CHECK(job->reads.contains(read->second.order)) << job->name;
  const auto found = job->snapshots.find(read->second.order);
  if (read->second.job != job->name || found == job->snapshots.end()) {
    return error::InvalidArgument("read {} of job {} was begun on job {}", id.ToShort(), job->name,
                                  read->second.job);
  }
  return FillChosen(&found->second, reply);
}

PlacementCore::Answer<pb::BeginReadReply> PlacementCore::BeginRead(CallPtr call,
                                                                   pb::BeginReadRequest request) {
  GEMEL_CO_RETURN_IF_ERROR(CheckServing());
  GEMEL_CO_ASSIGN_OR_RETURN(const ReadId id, ReadId::FromBytes(request.read_id()));
  if (id.IsZero()) {
    co_return error::InvalidArgument("a read of job {} has an id of zero", request.job());
  }
  GEMEL_CO_ASSIGN_OR_RETURN(Job * job, KnownJob(request.job()));
  const TimePoint deadline = HoldUntil(request.wait_ms());
  pb::BeginReadReply reply;
  while (true) {
    GEMEL_CO_ASSIGN_OR_RETURN(const bool filled, ReadOnce(job, request, &reply));
    if (filled) {
      co_return reply;
    }
    if (stopping_ || call->cancelled() || loop_->Now() >= deadline) {
      reply.set_decision(pb::BeginReadReply::WAIT);
      co_return reply;
    }
    const TimePoint recheck = Add(loop_->Now(), kRecheck);
    co_await job->changed.WaitUntil(std::min(deadline, recheck));
  }
}

void PlacementCore::Unpin(std::map<ReadId, ReadPin>::iterator read) {
  Job* job = FindJob(read->second.job);
  GEMEL_CHECK(job != nullptr) << read->second.job;
  const auto count = job->reads.find(read->second.order);
  GEMEL_CHECK(count != job->reads.end() && count->second > 0) << job->name;
  if (--count->second == 0) {
    job->reads.erase(count);
  }
  reads_.erase(read);
  job->changed.NotifyAll();
  MaintainSoon(job);
}

void PlacementCore::DropReadsOf(const ServerId& server, const Incarnation& incarnation) {
  for (auto read = reads_.begin(); read != reads_.end();) {
    const auto next = std::next(read);
    if (read->second.reader == server && read->second.incarnation == incarnation) {
      Unpin(read);
    }
    read = next;
  }
}

// OK also when it is not known: the reply of an earlier EndRead was lost.
PlacementCore::Answer<pb::EndReadReply> PlacementCore::EndRead(CallPtr,
                                                               pb::EndReadRequest request) {
  GEMEL_CO_ASSIGN_OR_RETURN(const ReadId id, ReadId::FromBytes(request.read_id()));
  GEMEL_CO_ASSIGN_OR_RETURN(const ServerId reader,
                            ServerId::FromBytes(request.caller().server_id()));
  const auto read = reads_.find(id);
  if (read != reads_.end() && read->second.reader == reader) {
    Unpin(read);
  }
  co_return pb::EndReadReply();
}

}  // namespace gemel

// SPDX-License-Identifier: Apache-2.0
#include "server/directives.h"

#include <utility>
#include <vector>

#include "common/check.h"
#include "common/errors.h"
#include "common/points.h"
#include "common/status_macros.h"

namespace gemel {
namespace {

constexpr uint32_t kBusyPollMs = 50;  // while results of background work are to come

bool RunsInBackground(const pb::Directive& directive) {
  return directive.has_pull_shard() || directive.has_verify_shard() ||
         directive.has_fetch_manifest() || directive.has_persist_shard() ||
         directive.has_mark_persisted() || directive.has_drop_persisted();
}

}  // namespace

Directives::Directives(const ServerSeams& seams, const Parts& parts)
    : seams_(seams), parts_(parts) {
  GEMEL_CHECK(parts.control != nullptr && parts.identity != nullptr && parts.objects != nullptr);
  GEMEL_CHECK(parts.uploads != nullptr && parts.holder != nullptr && parts.fetches != nullptr);
  GEMEL_CHECK(parts.tier != nullptr);
}

void Directives::Hold(bool held) {
  joins_ += 1;
  held_ = held;
  if (!held) {
    taken_ = joins_;
    running_.clear();
    results_.clear();
  }
}

Task<void> Directives::Run(Gate* gate) {
  const Gate::Pass pass = gate->Enter();
  RetryDelay delay;
  while (pass && !gate->closed()) {
    const absl::Status polled = co_await Poll(gate);
    if (polled.ok()) {
      delay.Reset();
    } else {
      co_await seams_.loop->Sleep(delay.Next());
    }
  }
}

Task<absl::Status> Directives::Poll(Gate* gate) {
  pb::DirectivesRequest request;
  std::set<uint64_t> told;
  if (!held_) {  // one that overtook an inventory made before it would be forgotten with it
    for (const auto& [id, result] : results_) {
      *request.add_results() = result;
      told.insert(id);
    }
  }
  const uint64_t joins = joins_;
  absl::StatusOr<pb::DirectivesReply> reply = co_await parts_.control->Poll<pb::DirectivesReply>(
      "Directives", std::move(request), running_.empty() ? kPollMs : kBusyPollMs);
  GEMEL_CO_RETURN_IF_ERROR(reply.status());
  GEMEL_CO_RETURN_IF_ERROR(parts_.identity->CheckLeader(reply->generation(), reply->term()));
  if (joins != joins_) {
    co_return absl::OkStatus();  // asked before a join: placement forgot then what it tells here
  }
  for (const uint64_t id : told) {
    results_.erase(id);
  }
  if (reply->rejoin()) {
    if (rejoin_) {
      rejoin_("placement gives this server no directives: joining again");
    }
    co_return error::Unavailable("this server is not a member");
  }
  bool anything = false;
  for (const pb::Directive& directive : reply->directives()) {
    if (running_.contains(directive.id()) || results_.contains(directive.id()) ||
        told.contains(directive.id())) {
      continue;
    }
    if (Buggify(BuggifySite::kDirectiveLate)) {
      co_await seams_.loop->Sleep(kPollPause);
    }
    if (held_ || joins != joins_) {
      break;  // a join came between two of them: placement forgot the rest
    }
    anything = true;
    running_.insert(directive.id());
    if (RunsInBackground(directive)) {
      seams_.loop->Spawn(DoInBackground(gate, directive, joins));
      continue;
    }
    std::string manifest;
    const absl::Status status = co_await Do(directive, &manifest);
    Finish(directive.id(), joins, status, std::move(manifest));
  }
  if (!anything && reply->directives_size() > 0) {
    co_await seams_.loop->Sleep(kPollPause);
  }
  co_return absl::OkStatus();
}

Task<void> Directives::DoInBackground(Gate* gate, pb::Directive directive, uint64_t joins) {
  const Gate::Pass pass = gate->Enter();
  if (!pass) {
    co_return;
  }
  std::string manifest;
  const absl::Status status = co_await Do(directive, &manifest);
  Finish(directive.id(), joins, status, std::move(manifest));
  // Placement forgot the directive at the join, and the inventory was made before its end.
  if (joins != joins_ && directive.has_persist_shard() && status.ok() && rejoin_) {
    rejoin_("a shard came to disk after the inventory was made: joining again");
  }
}

void Directives::Finish(uint64_t id, uint64_t joins, const absl::Status& status,
                        std::string manifest) {
  if (joins < taken_) {
    return;  // placement forgot it, and may since have given its number to another
  }
  GEMEL_CHECK_EQ(running_.erase(id), 1U) << "directive " << id;
  if (!status.ok()) {
    seams_.events->Emit(Severity::kWarning, "directive_failed",
                        fmt::format("directive {}: {}", id, ToText(status)));
  }
  pb::DirectiveResult& result = results_[id];
  result.set_id(id);
  result.set_code(static_cast<uint32_t>(status.code()));
  result.set_message(TextField(MessageOf(status)));
  result.set_manifest(std::move(manifest));
}

Task<absl::Status> Directives::Do(pb::Directive directive, std::string* manifest) {
  switch (directive.work_case()) {
    case pb::Directive::kStoreCommit:
      co_return co_await StoreCommit(directive.store_commit());
    case pb::Directive::kDropSnapshot:
      co_return co_await DropSnapshot(directive.drop_snapshot());
    case pb::Directive::kDropStaging:
      co_return DropStaging(directive.drop_staging());
    case pb::Directive::kSeeEpoch:
      co_return co_await SeeEpoch(directive.see_epoch());
    case pb::Directive::kPullShard:
      co_return co_await PullShard(directive.pull_shard());
    case pb::Directive::kVerifyShard:
      co_return co_await VerifyShard(directive.verify_shard());
    case pb::Directive::kFetchManifest:
      co_return co_await FetchManifest(directive.fetch_manifest(), manifest);
    case pb::Directive::kPersistShard:
      co_return co_await PersistShard(directive.persist_shard());
    case pb::Directive::kMarkPersisted:
      co_return co_await MarkPersisted(directive.mark_persisted());
    case pb::Directive::kDropPersisted:
      co_return co_await DropPersisted(directive.drop_persisted());
    case pb::Directive::WORK_NOT_SET:
      break;
  }
  co_return error::Unimplemented("directive {} is not known to this release", directive.id());
}

Task<absl::Status> Directives::StoreCommit(pb::StoreCommit work) {
  std::vector<ServerId> members;
  for (const std::string& raw : work.members()) {
    GEMEL_CO_ASSIGN_OR_RETURN(const ServerId member, ServerId::FromBytes(raw));
    members.push_back(member);
  }
  GEMEL_CO_RETURN_IF_ERROR(co_await parts_.identity->AddMembers(std::move(members)));
  co_return co_await parts_.identity->StoreCommit(work.record(), work.manifest());
}

Task<absl::Status> Directives::DropSnapshot(pb::DropSnapshot work) {
  const SnapshotId snapshot = ReadSnapshotId(work.snapshot());
  const absl::Status why = error::Aborted("{} was superseded or removed", snapshot.ToString());
  parts_.uploads->EndSnapshot(snapshot, why);
  parts_.holder->DropStaging(snapshot);
  // The record goes first: a record without objects would be taken for a loss.
  GEMEL_CO_RETURN_IF_ERROR(co_await parts_.identity->DropCommit(snapshot));
  // What began while the disk worked ends too: nobody writes into an object that is dropped.
  parts_.uploads->EndSnapshot(snapshot, why);
  parts_.holder->DropStaging(snapshot);
  for (const std::shared_ptr<Object>& object : parts_.objects->OfSnapshot(snapshot)) {
    parts_.objects->DropObject(object);
  }
  Reach(CrashPoint::kSnapshotDropped);
  co_return absl::OkStatus();
}

absl::Status Directives::DropStaging(const pb::DropStaging& work) {
  const SnapshotId snapshot = ReadSnapshotId(work.snapshot());
  if (parts_.identity->HasRecord(snapshot)) {
    return error::FailedPrecondition("{} is committed on this server's disk: it is not staging",
                                     snapshot.ToString());
  }
  const absl::Status why = error::Aborted("{}", snapshot.AbortedBecause(work.why()));
  parts_.uploads->EndSnapshot(snapshot, why);
  parts_.holder->DropStaging(snapshot);
  for (const std::shared_ptr<Object>& object : parts_.objects->OfSnapshot(snapshot)) {
    parts_.objects->DropObject(object);
  }
  return absl::OkStatus();
}

Task<absl::Status> Directives::SeeEpoch(pb::SeeEpoch work) {
  const std::string& job = work.job();
  const EpochId epoch = ReadEpochId(work.epoch());
  const absl::Status seen = co_await parts_.identity->SeeEpoch(job, epoch);
  // In memory it holds already: nothing of a lower epoch goes on, whatever the disk said.
  const absl::Status why = error::FailedPrecondition(
      "epoch {} of job {} has begun: a newer start of the job has taken over", epoch.ToString(),
      job);
  parts_.uploads->EndBelow(job, epoch, why);
  parts_.holder->DropStagingBelow(job, epoch);
  Reach(CrashPoint::kEpochSeen);
  co_return seen;
}

Task<absl::Status> Directives::PullShard(pb::PullShard work) {
  WantedShard wanted;
  wanted.shard = ReadShardId(work.object().shard());
  GEMEL_CO_ASSIGN_OR_RETURN(wanted.root, ReadDigestField(work.object().root(), "root"));
  if (!work.object().token().empty()) {
    GEMEL_CO_ASSIGN_OR_RETURN(wanted.token, EpochToken::FromBytes(work.object().token()));
  }
  wanted.bytes = work.object().bytes();
  wanted.layout_bytes = work.object().layout_bytes();
  if (wanted.bytes == 0 || wanted.layout_bytes > wanted.bytes) {
    co_return error::InvalidArgument("{} is to be pulled with {} bytes and a layout of {}",
                                     wanted.shard.ToString(), wanted.bytes, wanted.layout_bytes);
  }
  GEMEL_CO_ASSIGN_OR_RETURN(const std::vector<PeerMember> sources, ReadPeerMembers(work.sources()));
  if (work.writer_gone()) {
    parts_.holder->DropStagingOf(wanted.shard);  // it is in the way of the copy
  }
  if (Buggify(BuggifySite::kPullRefused)) {
    co_return error::Unavailable("{} is pulled another time", wanted.shard.ToString());
  }
  const std::shared_ptr<ShardFetch> fetch = parts_.fetches->Get(wanted);
  fetch->SetSources(sources);
  const auto chunks = static_cast<uint32_t>(ChunkCount(wanted.bytes));
  const Pace pace = work.urgent() ? Pace::kNow : Pace::kBudget;
  GEMEL_CO_RETURN_IF_ERROR(co_await fetch->Ensure(0, chunks, pace));
  Reach(CrashPoint::kPullDone);
  co_return parts_.objects->FindSealed(wanted.shard, wanted.root).status();
}

Task<absl::Status> Directives::VerifyShard(pb::VerifyShard work) {
  const ShardId shard = ReadShardId(work.object().shard());
  GEMEL_CO_ASSIGN_OR_RETURN(const Digest128 root, ReadDigestField(work.object().root(), "root"));
  const absl::StatusOr<std::shared_ptr<Object>> found = parts_.objects->FindSealed(shard, root);
  if (!found.ok() && parts_.tier->Find(shard, root) != nullptr) {
    co_return co_await parts_.tier->Verify(shard, root);
  }
  GEMEL_CO_RETURN_IF_ERROR(found.status());
  const std::shared_ptr<Object>& object = *found;
  const absl::Status checked = co_await CheckAllChunks(seams_.loop, object);
  if (!checked.ok()) {
    if (corrupt_) {
      corrupt_(object, checked);
    }
    co_return checked;
  }
  if (object->ComputeRoot() != root) {
    co_return error::DataLoss("the digests of {} do not give its root", shard.ToString());
  }
  co_return absl::OkStatus();
}

Task<absl::Status> Directives::FetchManifest(pb::FetchManifest work, std::string* manifest) {
  GEMEL_CO_ASSIGN_OR_RETURN(const Digest128 root, ReadDigestField(work.root(), "root"));
  const SnapshotId snapshot = ReadSnapshotId(work.snapshot());
  absl::StatusOr<std::string> read = co_await parts_.identity->ReadManifest(snapshot, root);
  if (!read.ok()) {
    absl::StatusOr<std::string> persisted = co_await parts_.tier->ReadManifest(snapshot, root);
    read = persisted.ok() ? std::move(persisted) : std::move(read);
  }
  GEMEL_CO_RETURN_IF_ERROR(read.status());
  *manifest = *std::move(read);
  co_return absl::OkStatus();
}

}  // namespace gemel

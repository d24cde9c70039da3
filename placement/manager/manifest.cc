// SPDX-License-Identifier: Apache-2.0
//
// The manifest after a restart: built again from the holders' inventories when these hash to the
// record's root, otherwise fetched from a holder, and verified either way. Older snapshots that
// need nothing let theirs go, so that memory stays bounded when all are kept.
#include "common/check.h"
#include "common/errors.h"
#include "placement/manager/core.h"

namespace gemel {

bool PlacementCore::TakeManifest(Committed* snapshot, const std::string& bytes) {
  absl::StatusOr<model::Manifest> manifest = model::DecodeManifestOf(snapshot->record, bytes);
  if (!manifest.ok()) {
    Emit(Severity::kError, "manifest_refused", ToText(manifest.status()));
    return false;
  }
  snapshot->manifest = std::make_shared<const std::string>(bytes);
  snapshot->parsed = std::make_shared<const model::Manifest>(*std::move(manifest));
  snapshot->manifest_idle = false;
  GEMEL_CHECK_EQ(snapshot->parsed->shards.size(), snapshot->record.world_size);
  CountCopies(snapshot);
  return true;
}

bool PlacementCore::LearnManifest(Committed* snapshot) {
  if (snapshot->manifest != nullptr) {
    return true;
  }
  const SnapshotKey key = KeyOf(snapshot->record.snapshot);
  model::Manifest manifest{.snapshot = snapshot->record.snapshot};
  manifest.shards.resize(snapshot->record.world_size);
  std::vector<bool> known(manifest.shards.size(), false);
  size_t missing = known.size();
  const auto learn = [&](const std::map<SnapshotKey, std::map<uint32_t, HeldCopy>>& copies) {
    const auto held = copies.find(key);
    if (held == copies.end()) {
      return;
    }
    for (const auto& [rank, copy] : held->second) {
      if (rank < known.size() && !known[rank]) {
        known[rank] = true;
        missing -= 1;
        manifest.shards[rank] = {
            .root = copy.root, .bytes = copy.bytes, .layout_bytes = copy.layout_bytes};
      }
    }
  };
  for (const auto& [id, member] : members_) {
    learn(member->held);
    learn(member->disk);
  }
  if (missing > 0) {
    return false;
  }
  const std::string encoded = model::EncodeManifest(manifest);
  return model::ManifestRoot(encoded) == snapshot->record.manifest_root &&
         TakeManifest(snapshot, encoded);
}

// Whoever may have it, in turn: one that cannot give it now is no reason not to ask the others.
MemberEntry* PlacementCore::ManifestHolder(const Committed& snapshot) {
  const SnapshotKey key = KeyOf(snapshot.record.snapshot);
  MemberEntry* first = nullptr;
  for (auto& [server, member] : members_) {
    const bool may = member->records.contains(key) || member->disk.contains(key);
    if (!may || !member->alive() || !member->reported ||
        snapshot.without_manifest.contains(server)) {
      continue;
    }
    if (!snapshot.fetched_from.has_value() || server > *snapshot.fetched_from) {
      return member.get();
    }
    first = first == nullptr ? member.get() : first;
  }
  return first;
}

void PlacementCore::FetchManifest(Committed* snapshot) {
  GEMEL_CHECK(snapshot->manifest == nullptr);
  MemberEntry* member = ManifestHolder(*snapshot);
  if (snapshot->fetching_from.has_value() || member == nullptr) {
    return;
  }
  const SnapshotId& id = snapshot->record.snapshot;
  const ServerId server = member->record.id;
  snapshot->fetching_from = server;
  snapshot->fetched_from = server;
  QueuedDirective directive;
  ToProto(id, directive.body.mutable_fetch_manifest()->mutable_snapshot());
  directive.body.mutable_fetch_manifest()->set_root(DigestToBytes(snapshot->record.manifest_root));
  directive.done = [this, id, server](const pb::DirectiveResult& result) {
    TakeFetched(id, server, result);
  };
  Direct(member, std::move(directive));
}

void PlacementCore::TakeFetched(const SnapshotId& id, const ServerId& server,
                                const pb::DirectiveResult& result) {
  Job* job = FindJob(id.job);
  const auto found = job->snapshots.find(OrderOf(id.epoch, id.sequence));
  MemberEntry* holder = FindMember(server);
  if (found == job->snapshots.end() || holder == nullptr) {
    return;
  }
  Committed& snapshot = found->second;
  snapshot.fetching_from.reset();
  const auto code = static_cast<absl::StatusCode>(result.code());
  const bool later =
      code == absl::StatusCode::kUnavailable || code == absl::StatusCode::kDeadlineExceeded;
  if (later) {
    return;  // whoever waits asks again, at its own pace
  }
  if (snapshot.manifest == nullptr &&
      (result.code() != 0 || !TakeManifest(&snapshot, result.manifest()))) {
    holder->records.erase(KeyOf(id));
    snapshot.without_manifest.insert(server);
  }
  job->changed.NotifyAll();
  MaintainSoon(job);
}

// Only when every copy that is held has its committed root, and its holder the record: then nothing
// needs the manifest before a holder changes, and what it says can be learned again.
void PlacementCore::LetManifestGo(const Job& job, const model::SnapshotOrder& order,
                                  Committed* snapshot) const {
  auto newer = job.snapshots.upper_bound(order);
  for (size_t i = 0; i < kManifestsKept; ++i) {
    if (newer == job.snapshots.end()) {
      return;
    }
    ++newer;
  }
  if (snapshot->manifest == nullptr || !snapshot->told ||
      (snapshot->in_memory && !snapshot->full) || !snapshot->pulls.empty() ||
      !snapshot->storing.empty() || snapshot->fetching_from.has_value() || IsPinned(job, order)) {
    return;
  }
  const SnapshotKey key = KeyOf(snapshot->record.snapshot);
  const std::vector<model::ManifestShard>& shards = snapshot->parsed->shards;
  for (const auto& [id, member] : members_) {
    const auto held = member->held.find(key);
    if (held == member->held.end()) {
      continue;
    }
    for (const auto& [rank, copy] : held->second) {
      if (rank >= shards.size() || shards[rank].root != copy.root) {
        return;
      }
    }
    if (!member->records.contains(key)) {
      return;
    }
  }
  GEMEL_CHECK(snapshot->manifest != nullptr && snapshot->told);
  snapshot->manifest.reset();
  snapshot->parsed.reset();
  snapshot->manifest_idle = true;
}

void PlacementCore::CountManifests() {
  size_t bytes = 0;
  for (const auto& [name, job] : jobs_) {
    for (const auto& [order, snapshot] : job->snapshots) {
      GEMEL_CHECK_EQ(snapshot.manifest == nullptr, snapshot.parsed == nullptr) << name;
      bytes += snapshot.manifest != nullptr ? snapshot.manifest->size() : 0;
    }
  }
  manifest_bytes_.Set(static_cast<int64_t>(bytes));
}

}  // namespace gemel

// SPDX-License-Identifier: Apache-2.0
//
// What placement asks of the persistent tier (amendment 12): PersistShard, whose OK is the persist
// receipt; MarkPersisted; DropPersisted.
#include "common/check.h"
#include "common/errors.h"
#include "common/points.h"
#include "common/status_macros.h"
#include "placement/model/records.h"
#include "server/directives.h"

namespace gemel {
namespace {

// What lies beside a shard on disk must name it: a restore believes nothing else.
absl::Status CheckRecordOf(const ShardId& shard, const Digest128& root,
                           const pb::PersistShard& work, const ClusterId& cluster) {
  GEMEL_ASSIGN_OR_RETURN(const model::CommitRecord record,
                         model::DecodeCommitRecord(work.record()));
  if (record.cluster != cluster) {
    return error::FailedPrecondition("the commit record of {} is of cluster {}, not of {}",
                                     record.snapshot.ToString(), record.cluster.ToHex(),
                                     cluster.ToHex());
  }
  GEMEL_ASSIGN_OR_RETURN(const model::Manifest manifest,
                         model::DecodeManifestOf(record, work.manifest()));
  if (record.snapshot != shard.snapshot || shard.rank >= manifest.shards.size() ||
      manifest.shards[shard.rank].root != root) {
    return error::InvalidArgument("{} with root {} is not in the manifest of {}", shard.ToString(),
                                  ToHex(root), record.snapshot.ToString());
  }
  return absl::OkStatus();
}

}  // namespace

Task<absl::Status> Directives::PersistShard(pb::PersistShard work) {
  const ShardId shard = ReadShardId(work.object().shard());
  GEMEL_CO_ASSIGN_OR_RETURN(const Digest128 root, ReadDigestField(work.object().root(), "root"));
  GEMEL_CO_RETURN_IF_ERROR(CheckRecordOf(shard, root, work, parts_.control->cluster()));
  if (parts_.tier->HasSound(shard, root)) {
    co_return absl::OkStatus();  // its receipt was lost
  }
  GEMEL_CO_ASSIGN_OR_RETURN(const std::shared_ptr<Object> object,
                            parts_.objects->FindSealed(shard, root));
  const absl::Status persisted =
      co_await parts_.tier->Persist(object, work.record(), work.manifest());
  if (persisted.ok()) {
    Reach(CrashPoint::kShardPersisted);
  }
  if (persisted.code() == absl::StatusCode::kDataLoss) {
    // Was it the memory? Then nobody may read it either.
    const absl::Status checked = co_await CheckAllChunks(seams_.loop, object);
    if (!checked.ok() && corrupt_) {
      corrupt_(object, checked);
    }
  }
  co_return persisted;
}

Task<absl::Status> Directives::MarkPersisted(pb::MarkPersisted work) {
  return parts_.tier->MarkComplete(ReadSnapshotId(work.snapshot()));
}

Task<absl::Status> Directives::DropPersisted(pb::DropPersisted work) {
  return parts_.tier->Drop(ReadSnapshotId(work.snapshot()));
}

}  // namespace gemel

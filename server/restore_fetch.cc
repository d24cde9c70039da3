// SPDX-License-Identifier: Apache-2.0
//
// FetchChunks: chunks of the chosen snapshot into memory of this host, from local slabs or from
// peers, each verified in this restore.
#include <utility>

#include "common/check.h"
#include "common/errors.h"
#include "common/points.h"
#include "common/status_macros.h"
#include "server/restore.h"

namespace gemel {
namespace {

constexpr uint32_t kFetchTriesMax = 3;  // after local copies that turned out to be damaged

}  // namespace

absl::StatusOr<Restores::Shard*> Restores::ShardOf(Restore* restore, const FetchChunks& request) {
  if (request.shard >= restore->manifest.shards.size()) {
    return error::InvalidArgument("shard {} of {}: it has {} shards", request.shard,
                                  restore->manifest.snapshot.ToString(),
                                  restore->manifest.shards.size());
  }
  const model::ManifestShard& entry = restore->manifest.shards[request.shard];
  const uint64_t chunks = ChunkCount(entry.bytes);
  if (request.count == 0 || request.count > kFetchChunksMax || request.first_chunk >= chunks ||
      request.count > chunks - request.first_chunk) {
    return error::InvalidArgument(
        "chunks [{}, +{}) of shard {}, which has {} chunks; at most {} may be asked for at once",
        request.first_chunk, request.count, request.shard, chunks, kFetchChunksMax);
  }
  Shard& shard = restore->shards[request.shard];
  if (shard.fetch == nullptr) {
    WantedShard wanted;
    wanted.shard = ShardId{restore->manifest.snapshot, request.shard};
    wanted.root = entry.root;
    wanted.bytes = entry.bytes;
    wanted.layout_bytes = entry.layout_bytes;
    shard.fetch = fetches_->Get(wanted);
    shard.fetch->SetSources(restore->sources[request.shard]);
    shard.checked.assign(chunks, false);
  }
  return &shard;
}

Task<absl::StatusOr<Restores::Chunks>> Restores::Fetch(uint64_t client, FetchChunks request) {
  GEMEL_CO_ASSIGN_OR_RETURN(std::shared_ptr<Restore> restore, Find(client, request.restore));
  GEMEL_CO_ASSIGN_OR_RETURN(Shard * shard, ShardOf(restore.get(), request));
  Chunks chunks;
  absl::Status status;
  for (uint32_t i = 0; i < kFetchTriesMax; ++i) {
    const uint32_t forgotten = shard->fetch->forgotten();
    status = co_await FetchOnce(shard, request, &chunks);
    if (status.ok()) {
      co_return chunks;
    }
    if (shard->fetch->object() != nullptr && shard->fetch->forgotten() == forgotten) {
      break;  // not for a damaged local copy, found here or by another call: its sources failed
    }
  }
  co_return status;
}

Task<absl::Status> Restores::FetchOnce(Shard* shard, FetchChunks request, Chunks* chunks) {
  const std::shared_ptr<Object> before = shard->fetch->object();
  std::vector<bool> was_here(request.count, false);
  for (uint32_t i = 0; i < request.count && before != nullptr; ++i) {
    was_here[i] = before->present(request.first_chunk + i);
  }
  GEMEL_CO_RETURN_IF_ERROR(co_await shard->fetch->Ensure(request.first_chunk, request.count));
  const std::shared_ptr<Object> object = shard->fetch->object();
  if (object == nullptr) {
    co_return error::Unavailable("{} is fetched anew: ask again",
                                 shard->fetch->wanted().shard.ToString());
  }
  // A sealed object that the fetch found here was here as a whole.
  const bool found_sealed = before == nullptr && object->state() == ObjectState::kSealed &&
                            !shard->fetch->fetched_anything();
  GEMEL_CHECK_EQ(shard->checked.size(), object->chunks());
  *chunks = Chunks();
  chunks->object = object;
  for (uint32_t i = 0; i < request.count; ++i) {
    const uint32_t chunk = request.first_chunk + i;
    GEMEL_CHECK(object->present(chunk)) << "chunk " << chunk;
    const bool local = found_sealed || was_here[i];
    (local ? chunks->local_bytes : chunks->peer_bytes) += object->Chunk(chunk).size();
    // What arrived for this call was hashed as it arrived.
    shard->checked[chunk] = shard->checked[chunk] || !local;
  }
  GEMEL_CO_RETURN_IF_ERROR(co_await CheckLocal(shard, object, request));
  if (shard->kept.empty() || shard->kept.back() != object) {
    shard->kept.push_back(object);
  }
  co_return absl::OkStatus();
}

Task<absl::Status> Restores::CheckLocal(Shard* shard, std::shared_ptr<Object> object,
                                        FetchChunks request) {
  for (uint32_t i = 0; i < request.count; ++i) {
    const uint32_t chunk = request.first_chunk + i;
    if (shard->checked[chunk]) {
      continue;
    }
    const absl::Status checked = object->CheckChunk(chunk);
    if (!checked.ok()) {
      Sometimes(Situation::kLocalCopyDamaged);
      if (corrupt_) {
        corrupt_(object, checked);
      }
      shard->checked.assign(shard->checked.size(), false);
      shard->fetch->Forget(object);
      co_return checked;
    }
    shard->checked[chunk] = true;
    co_await seams_.loop->Yield();
  }
  co_return absl::OkStatus();
}

}  // namespace gemel

// SPDX-License-Identifier: Apache-2.0
#include "client/archive/client_source.h"

#include "client/archive/body_digest.h"
#include "common/check.h"
#include "common/errors.h"
#include "common/status_macros.h"

namespace gemel::archive {
namespace {

constexpr int64_t kReadTimeoutMs = int64_t{24} * 3600 * 1000;  // of all reads of one snapshot

}  // namespace

absl::Status StatusOf(const Status& status) {
  return status.ok() ? absl::OkStatus()
                     : MakeStatus(static_cast<absl::StatusCode>(status.code()), status.message());
}

ClientSource::ClientSource(Restore restore, SnapshotFacts facts)
    : restore_(std::move(restore)), facts_(std::move(facts)) {
  GEMEL_CHECK(!facts_.shards.empty()) << facts_.ToString();
}

absl::StatusOr<std::unique_ptr<ClientSource>> ClientSource::Open(Client* client,
                                                                 const std::string& job,
                                                                 const std::string& name) {
  GEMEL_CHECK(client != nullptr);
  auto begun = client->BeginRead({.job = job, .name = name, .timeout_ms = kReadTimeoutMs});
  GEMEL_RETURN_IF_ERROR(StatusOf(begun.status()));
  Restore restore = std::move(*begun);
  const SnapshotInfo info = restore.info();
  SnapshotFacts facts;
  facts.cluster = client->cluster_id();
  facts.job = job;
  facts.name = info.name;
  facts.epoch_generation = info.epoch.generation;
  facts.epoch_counter = info.epoch.counter;
  facts.sequence = info.sequence;
  for (uint32_t rank = 0; rank < info.world_size; ++rank) {
    auto shard = restore.Shard(rank);
    GEMEL_RETURN_IF_ERROR(StatusOf(shard.status()));
    const std::string_view root(reinterpret_cast<const char*>(shard->root), sizeof(shard->root));
    facts.shards.push_back({HexOf(root), shard->bytes, shard->layout_bytes});
  }
  return std::unique_ptr<ClientSource>(new ClientSource(std::move(restore), std::move(facts)));
}

absl::Status ClientSource::Read(std::span<const Range> ranges) {
  return StatusOf(restore_.Read(ranges));
}

}  // namespace gemel::archive

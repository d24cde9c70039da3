// SPDX-License-Identifier: Apache-2.0
//
// What says what is committed: the commit record with its manifest, as placement reads them back,
// the files that servers keep of it, and a server's identity.
#include "common/bytes.h"
#include "common/file_frame.h"
#include "placement/manager/stored.h"
#include "placement/model/records.h"
#include "server/identity.h"
#include "tests/corruption/layers.h"

namespace gemel {
namespace {

std::string ManifestOf(const Item& item) {
  model::Manifest manifest;
  manifest.snapshot = ShardOf(item).snapshot;
  for (uint32_t rank = 0; rank < 4; ++rank) {
    const Item of_rank{.identity = item.identity + 7 * rank, .version = item.version};
    manifest.shards.push_back(
        {.root = CommittedRoot(of_rank), .bytes = ContentOf(of_rank).size(), .layout_bytes = 10});
  }
  return model::EncodeManifest(manifest);
}

std::string RecordOf(const Item& item) {
  model::CommitRecord record;
  record.cluster.bytes[0] = 5;
  record.snapshot = ShardOf(item).snapshot;
  record.manifest_root = model::ManifestRoot(ManifestOf(item));
  record.map_version = 4;
  record.bytes = 12'345;
  record.world_size = 4;
  record.copies = 2;
  record.min_copies = 2;
  record.keep_latest = 1;
  return model::EncodeCommitRecord(record);
}

std::string KeyOf(const SnapshotId& id) { return StoredSnapshotKey(id.job, id.epoch, id.sequence); }

class CommitRecords final : public Layer {
 public:
  std::string_view name() const override { return "commit record"; }

  std::string Bytes(const Item& item) const override { return RecordOf(item) + ManifestOf(item); }

  Reading Read(const Item& wanted, const std::string& bytes) const override {
    const size_t cut = std::min(RecordOf(wanted).size(), bytes.size());
    const auto record = model::DecodeCommitRecord(std::string_view(bytes).substr(0, cut));
    // Under the key it was stored at.
    if (!record.ok() || KeyOf(record->snapshot) != KeyOf(ShardOf(wanted).snapshot)) {
      return Reading::kRefused;
    }
    const auto manifest = model::DecodeManifestOf(*record, std::string_view(bytes).substr(cut));
    if (!manifest.ok()) {
      return Reading::kRefused;
    }
    return bytes == Bytes(wanted) ? Reading::kRight : Reading::kWrong;
  }
};

class RecordFiles final : public Layer {
 public:
  std::string_view name() const override { return "record file"; }

  std::string Bytes(const Item& item) const override { return FrameFile(RecordOf(item)); }

  Reading Read(const Item& wanted, const std::string& bytes) const override {
    const absl::StatusOr<std::string> content = UnframeFile(bytes, "record");
    if (!content.ok()) {
      return Reading::kRefused;
    }
    const auto record = model::DecodeCommitRecord(*content);
    if (!record.ok() || KeyOf(record->snapshot) != KeyOf(ShardOf(wanted).snapshot)) {
      return Reading::kRefused;
    }
    return *content == RecordOf(wanted) ? Reading::kRight : Reading::kWrong;
  }
};

// A whole file of another server, or an older one of its own, is no damage that a server could see
// in the file: placement refuses it by cluster, incarnation and epochs. So only its bytes are hurt.
class IdentityFiles final : public Layer {
  static constexpr size_t kFileBytes = 40 * kKiB;

 public:
  std::string_view name() const override { return "identity file"; }

  static std::string Content(const Item& item) {
    IdentityFile identity;
    identity.server.bytes[0] = static_cast<uint8_t>(item.identity);
    identity.cluster.bytes[0] = 5;
    identity.generation = 1;
    identity.epochs = {{"gpt", {1, item.version}}, {"llama", {1, 9}}};
    identity.last_members.resize(3);
    return EncodeIdentity(identity);
  }

  // One of the two in the file; which one is hurt is the same to a reader.
  std::string Bytes(const Item& item) const override { return FrameCopy(Content(item), 1); }

  Reading Read(const Item& wanted, const std::string& bytes) const override {
    std::string file = bytes;
    file.resize(kFileBytes, '\xff');
    const absl::StatusOr<std::string> content = UnframeFile(file, "identity");
    const bool good = content.ok() && DecodeIdentity(*content).ok();
    const Item older{.identity = wanted.identity, .version = wanted.version - 1};
    const Item other{.identity = wanted.identity + 1, .version = wanted.version};
    if (!good || *content == Content(older) || *content == Content(other)) {
      return Reading::kRefused;
    }
    return *content == Content(wanted) ? Reading::kRight : Reading::kWrong;
  }
};

}  // namespace

std::unique_ptr<Layer> CommitRecordLayer() { return std::make_unique<CommitRecords>(); }

std::unique_ptr<Layer> RecordFileLayer() { return std::make_unique<RecordFiles>(); }

std::unique_ptr<Layer> IdentityFileLayer() { return std::make_unique<IdentityFiles>(); }

}  // namespace gemel

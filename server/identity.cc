// SPDX-License-Identifier: Apache-2.0
#include "server/identity.h"

#include <algorithm>
#include <utility>

#include "common/check.h"
#include "common/codec.h"
#include "common/errors.h"
#include "common/points.h"
#include "common/status_macros.h"

namespace gemel {
namespace {

constexpr uint32_t kIdentityMagic = 0x44494d47;  // "GMID"
constexpr size_t kEpochBytesMin = 20;
constexpr const char* kIdentityName = "identity";
constexpr const char* kRecordsFolder = "records";

// The prefix keeps a job called ".x" from being a hidden file.
std::string FileOf(std::string_view folder, const std::string& job, uint64_t sequence) {
  return fmt::format("{}/job-{}/{:020}", folder, job, sequence);
}

std::string RecordFile(const SnapshotId& id) { return FileOf(kRecordsFolder, id.job, id.sequence); }

std::string ManifestFile(const SnapshotId& id) { return FileOf("manifests", id.job, id.sequence); }

}  // namespace

std::string EncodeIdentity(const IdentityFile& identity) {
  Encoder out;
  out.Int(kIdentityMagic).Int(kIdentityVersion);
  out.Id(identity.server).Id(identity.cluster).Int(identity.generation).Int(identity.term);
  out.Int(static_cast<uint32_t>(identity.epochs.size()));
  for (const auto& [job, epoch] : identity.epochs) {
    out.String(job).Epoch(epoch);
  }
  out.Int(static_cast<uint32_t>(identity.last_members.size()));
  for (const ServerId& member : identity.last_members) {
    out.Id(member);
  }
  return out.Take();
}

absl::StatusOr<IdentityFile> DecodeIdentity(std::string_view raw) {
  Decoder in(raw);
  if (in.Int<uint32_t>("magic") != kIdentityMagic) {
    in.Fail("magic", "is not that of a server's identity");
  }
  const auto version = in.Int<uint8_t>("version");
  if (in.ok() && version != kIdentityVersion) {
    return error::FailedPrecondition("the server's identity has version {}, this release reads {}",
                                     version, kIdentityVersion);
  }
  IdentityFile identity;
  identity.server = in.Id<ServerTag>("server");
  identity.cluster = in.Id<ClusterTag>("cluster");
  identity.generation = in.Int<uint64_t>("generation");
  identity.term = in.Int<uint64_t>("term");
  const uint32_t epochs = in.Count("epochs", kEpochBytesMin);
  for (uint32_t i = 0; i < epochs && in.ok(); ++i) {
    std::string job = in.String("job", model::kJobNameBytesMax);
    const EpochId epoch = in.Epoch("epoch");
    if (!identity.epochs.empty() && job <= identity.epochs.rbegin()->first) {
      in.Fail("job", "is not in ascending order");
    }
    identity.epochs[std::move(job)] = epoch;
  }
  const uint32_t members = in.Count("last_members", sizeof(ServerId));
  if (members > kIdentityMembersMax) {
    in.Fail("last_members", "counts more than a cluster has");
  }
  for (uint32_t i = 0; i < members && in.ok(); ++i) {
    identity.last_members.push_back(in.Id<ServerTag>("member"));
  }
  GEMEL_RETURN_IF_ERROR(in.Finish("the server's identity"));
  return identity;
}

Task<absl::StatusOr<std::unique_ptr<Identity>>> Identity::Load(Disk* disk, Random random) {
  std::unique_ptr<Identity> identity(new Identity(disk));
  absl::StatusOr<std::string> raw = co_await disk->Read(kIdentityName);
  if (raw.status().code() == absl::StatusCode::kNotFound) {
    identity->file_.server = ServerId::Draw(&random);
    GEMEL_CO_RETURN_IF_ERROR(co_await identity->Save());
  } else if (!raw.ok()) {
    co_return Annotate(raw.status(), "reading this server's identity");
  } else {
    GEMEL_CO_ASSIGN_OR_RETURN(identity->file_, DecodeIdentity(*raw));
  }
  GEMEL_CO_RETURN_IF_ERROR(co_await identity->LoadRecords());
  co_return std::move(identity);
}

Task<absl::Status> Identity::LoadRecords() {
  GEMEL_CO_ASSIGN_OR_RETURN(const std::vector<std::string> names,
                            co_await disk_->List(kRecordsFolder));
  for (const std::string& name : names) {
    GEMEL_CO_ASSIGN_OR_RETURN(std::string raw, co_await disk_->Read(name));
    absl::StatusOr<model::CommitRecord> record = model::DecodeCommitRecord(raw);
    if (!record.ok()) {
      co_return Annotate(record.status(), fmt::format("commit record in file {}", name));
    }
    if (RecordFile(record->snapshot) != name) {
      co_return error::DataLoss(
          "file {} holds the commit record of {}: the disk wrote it to another place; replace the "
          "disk, or remove that file",
          name, record->snapshot.ToString());
    }
    records_[RecordKey(record->snapshot.job, record->snapshot.sequence)] = std::move(raw);
  }
  co_return absl::OkStatus();
}

Task<absl::Status> Identity::Save() {
  GEMEL_CHECK(!file_.server.IsZero());
  const uint64_t saving = changes_;
  std::string encoded = EncodeIdentity(file_);
  const absl::Status written = co_await disk_->WriteInPlace(kIdentityName, std::move(encoded));
  if (written.ok()) {
    Reach(CrashPoint::kIdentitySaved);
    saved_ = std::max(saved_, saving);
  }
  co_return written;
}

// Also what an earlier call changed and could not save, or is still saving.
Task<absl::Status> Identity::SaveChanges() {
  GEMEL_CHECK_LE(saved_, changes_);
  if (saved_ == changes_) {
    co_return absl::OkStatus();
  }
  co_return co_await Save();
}

absl::Status Identity::CheckPlacement(const ClusterId& cluster, uint64_t generation) const {
  if (!file_.cluster.IsZero() && cluster != file_.cluster) {
    return error::FailedPrecondition(
        "this server keeps state of cluster {} and placement is of cluster {}: point --placement "
        "at "
        "its own cluster; if that lost its MetaStore, run `gemel placement recover "
        "--from-servers`; to give up what the server keeps, start it with an empty --dir",
        file_.cluster.ToHex(), cluster.ToHex());
  }
  if (generation < file_.generation) {
    return error::FailedPrecondition(
        "placement is of generation {} of cluster {} and this server has seen {}: an older "
        "MetaStore was put back; run `gemel placement recover --from-servers`",
        generation, cluster.ToHex(), file_.generation);
  }
  return absl::OkStatus();
}

absl::Status Identity::CheckLeader(uint64_t generation, uint64_t term) const {
  if (std::pair(generation, term) >= std::pair(file_.generation, file_.term)) {
    return absl::OkStatus();
  }
  return error::Unavailable(
      "a placement of generation {} and term {} answered, this server has obeyed term {} of "
      "generation {}: it leads no more",
      generation, term, file_.term, file_.generation);
}

Task<absl::Status> Identity::Joined(Leader leader, std::vector<ServerId> members) {
  GEMEL_CO_RETURN_IF_ERROR(CheckPlacement(leader.cluster, leader.generation));
  GEMEL_CO_RETURN_IF_ERROR(CheckLeader(leader.generation, leader.term));
  IdentityFile next = file_;
  next.cluster = leader.cluster;
  next.generation = leader.generation;
  next.term = leader.term;
  if (!members.empty()) {
    next.last_members = std::move(members);
  }
  if (next != file_) {
    GEMEL_CHECK_GE(next.generation, file_.generation);
    file_ = std::move(next);
    changes_ += 1;
  }
  co_return co_await SaveChanges();
}

Task<absl::Status> Identity::SetMembers(std::vector<ServerId> members) {
  GEMEL_CHECK_LE(members.size(), kIdentityMembersMax);
  std::sort(members.begin(), members.end());
  if (members != file_.last_members) {
    file_.last_members = std::move(members);
    changes_ += 1;
  }
  co_return co_await SaveChanges();
}

Task<absl::Status> Identity::AddMembers(std::vector<ServerId> members) {
  members.insert(members.end(), file_.last_members.begin(), file_.last_members.end());
  std::sort(members.begin(), members.end());
  members.erase(std::unique(members.begin(), members.end()), members.end());
  if (members.size() > kIdentityMembersMax) {
    co_return error::InvalidArgument("{} members, a cluster has {} at most", members.size(),
                                     kIdentityMembersMax);
  }
  co_return co_await SetMembers(std::move(members));
}

absl::Status Identity::CheckEpoch(const std::string& job, const EpochId& epoch) const {
  const auto seen = file_.epochs.find(job);
  if (seen == file_.epochs.end() || seen->second <= epoch) {
    return absl::OkStatus();
  }
  Sometimes(Situation::kEpochRefused);
  return error::FailedPrecondition(
      "epoch {} of job {} is superseded by epoch {}: a newer start of the job has taken over",
      epoch.ToString(), job, seen->second.ToString());
}

Task<absl::Status> Identity::SeeEpoch(std::string job, EpochId epoch) {
  GEMEL_CO_RETURN_IF_ERROR(model::CheckJobName(job));
  EpochId& highest = file_.epochs[job];
  if (epoch > highest) {
    highest = epoch;
    changes_ += 1;
  }
  co_return co_await SaveChanges();
}

Task<absl::Status> Identity::StoreCommit(std::string record, std::string manifest) {
  GEMEL_CO_ASSIGN_OR_RETURN(const model::CommitRecord decoded, model::DecodeCommitRecord(record));
  if (decoded.cluster != file_.cluster) {
    co_return error::FailedPrecondition("the commit record of {} is of cluster {}, not of {}",
                                        decoded.snapshot.ToString(), decoded.cluster.ToHex(),
                                        file_.cluster.ToHex());
  }
  GEMEL_CO_RETURN_IF_ERROR(model::DecodeManifestOf(decoded, manifest).status());
  const std::string manifest_file = ManifestFile(decoded.snapshot);
  GEMEL_CO_RETURN_IF_ERROR(co_await disk_->WriteAtomically(manifest_file, std::move(manifest)));
  Reach(CrashPoint::kManifestStored);
  const std::string record_file = RecordFile(decoded.snapshot);
  GEMEL_CO_RETURN_IF_ERROR(co_await disk_->WriteAtomically(record_file, record));
  Reach(CrashPoint::kRecordStored);
  const RecordKey key(decoded.snapshot.job, decoded.snapshot.sequence);
  records_[key] = std::move(record);
  co_return absl::OkStatus();
}

Task<absl::Status> Identity::DropCommit(SnapshotId snapshot) {
  GEMEL_CO_RETURN_IF_ERROR(model::CheckJobName(snapshot.job));
  const std::string record_file = RecordFile(snapshot);
  GEMEL_CO_RETURN_IF_ERROR(co_await disk_->Remove(record_file));
  Reach(CrashPoint::kRecordDropped);
  const RecordKey key(snapshot.job, snapshot.sequence);
  records_.erase(key);
  const std::string manifest_file = ManifestFile(snapshot);
  co_return co_await disk_->Remove(manifest_file);
}

Task<absl::StatusOr<std::string>> Identity::ReadManifest(SnapshotId snapshot, Digest128 root) {
  GEMEL_CO_RETURN_IF_ERROR(model::CheckJobName(snapshot.job));
  const std::string file = ManifestFile(snapshot);
  absl::StatusOr<std::string> raw = co_await disk_->Read(file);
  if (!raw.ok()) {
    co_return Annotate(raw.status(), fmt::format("manifest of {}", snapshot.ToString()));
  }
  const Digest128 found = model::ManifestRoot(*raw);
  if (found != root) {
    co_return error::DataLoss("the manifest of {} on this server has root {} where {} belongs",
                              snapshot.ToString(), ToHex(found), ToHex(root));
  }
  co_return raw;
}

std::vector<std::string> Identity::records() const {
  std::vector<std::string> all;
  all.reserve(records_.size());
  for (const auto& [key, raw] : records_) {
    all.push_back(raw);
  }
  return all;
}

bool Identity::HasRecord(const SnapshotId& snapshot) const {
  const auto found = records_.find(RecordKey(snapshot.job, snapshot.sequence));
  if (found == records_.end()) {
    return false;
  }
  const absl::StatusOr<model::CommitRecord> record = model::DecodeCommitRecord(found->second);
  GEMEL_CHECK(record.ok()) << record.status().ToString();
  return record->snapshot == snapshot;
}

}  // namespace gemel

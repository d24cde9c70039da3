// SPDX-License-Identifier: Apache-2.0
#include "placement/manager/stored.h"

#include "common/check.h"
#include "common/errors.h"
#include "common/fields.h"

namespace gemel {

std::string MemberKey(const ServerId& id) { return kMemberPrefix + id.ToHex(); }

std::string JobKey(const std::string& job) {
  GEMEL_CHECK(job.find('/') == job.npos) << job;
  return kJobPrefix + job;
}

std::string TokenKey(const std::string& job, const EpochToken& token) {
  GEMEL_CHECK(!token.IsZero()) << job;
  return fmt::format("{}{}/{}", kTokenPrefix, job, token.ToHex());
}

std::string OpenKey(const std::string& job, uint64_t sequence) {
  GEMEL_CHECK_GT(sequence, 0U) << job;
  return fmt::format("{}{}/{:016x}", kOpenPrefix, job, sequence);
}

namespace {

std::string CommittedKey(std::string_view prefix, const std::string& job, const EpochId& epoch,
                         uint64_t sequence) {
  GEMEL_CHECK(!epoch.IsNone() && sequence > 0) << job;
  return fmt::format("{}{}/{:016x}.{:016x}/{:016x}", prefix, job, epoch.generation, epoch.counter,
                     sequence);
}

}  // namespace

std::string StoredSnapshotKey(const std::string& job, const EpochId& epoch, uint64_t sequence) {
  return CommittedKey(kSnapshotPrefix, job, epoch, sequence);
}

std::string PersistedKey(const std::string& job, const EpochId& epoch, uint64_t sequence) {
  return CommittedKey(kPersistedPrefix, job, epoch, sequence);
}

std::string RestoreKey(const std::string& job) { return kRestorePrefix + job; }

std::string EndedKey(const std::string& job) { return kEndedPrefix + job; }

std::string DrainKey(const ServerId& id) { return kDrainPrefix + id.ToHex(); }

template <typename Record>
std::string EncodeStored(const Record& record) {
  return static_cast<char>(kStoredVersion) + EncodeMessage(record);
}

template <typename Record>
absl::StatusOr<Record> DecodeStored(const std::string& key, const std::string& value) {
  if (value.empty()) {
    return error::DataLoss("key '{}' of the placement store is empty", key);
  }
  const auto version = static_cast<uint8_t>(value[0]);
  if (version != kStoredVersion) {
    return error::FailedPrecondition(
        "key '{}' of the placement store has format {}; this Gemel reads {}", key, version,
        kStoredVersion);
  }
  absl::StatusOr<Record> record = DecodeMessage<Record>(std::string_view(value).substr(1));
  if (!record.ok()) {
    return error::DataLoss("key '{}' of the placement store: {}", key, MessageOf(record.status()));
  }
  return record;
}

template std::string EncodeStored(const LeaderRecord&);
template std::string EncodeStored(const BeatRecord&);
template std::string EncodeStored(const ClusterRecord&);
template std::string EncodeStored(const MemberRecord&);
template std::string EncodeStored(const JobRecord&);
template std::string EncodeStored(const TokenRecord&);
template std::string EncodeStored(const OpenRecord&);
template std::string EncodeStored(const RestoreRecord&);
template std::string EncodeStored(const EndedRecord&);
template absl::StatusOr<LeaderRecord> DecodeStored(const std::string&, const std::string&);
template absl::StatusOr<BeatRecord> DecodeStored(const std::string&, const std::string&);
template std::string EncodeStored(const DrainRecord&);
template absl::StatusOr<ClusterRecord> DecodeStored(const std::string&, const std::string&);
template absl::StatusOr<MemberRecord> DecodeStored(const std::string&, const std::string&);
template absl::StatusOr<JobRecord> DecodeStored(const std::string&, const std::string&);
template absl::StatusOr<TokenRecord> DecodeStored(const std::string&, const std::string&);
template absl::StatusOr<OpenRecord> DecodeStored(const std::string&, const std::string&);
template absl::StatusOr<RestoreRecord> DecodeStored(const std::string&, const std::string&);
template absl::StatusOr<EndedRecord> DecodeStored(const std::string&, const std::string&);
template absl::StatusOr<DrainRecord> DecodeStored(const std::string&, const std::string&);

}  // namespace gemel

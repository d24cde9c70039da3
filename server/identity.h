// SPDX-License-Identifier: Apache-2.0
//
// Identity: what a server knows across its lives, on its disk (docs/formats/records.md):
//
//   identity                           server id, cluster id, highest generation and term, highest
//                                      epoch of each job, the last members
//   records/job-<job>/<sequence>       one commit record a file
//   manifests/job-<job>/<sequence>     its manifest
//
// Thread safety: one loop.
// Ownership: borrows the disk.
// Invariants:
//   (1) generation, term and epochs never go back, in memory from the call on, on disk when it
//   returns OK; (2) a record is written after its manifest and removed before it: a record on disk
//   has its
//       manifest.
// Errors: those of Disk; FailedPrecondition names the two cluster ids, generations or epochs that
// do not fit, and the way out.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

#include "common/disk.h"
#include "common/ids.h"
#include "common/random.h"
#include "placement/model/records.h"

namespace gemel {

inline constexpr uint8_t kIdentityVersion = 2;
inline constexpr size_t kIdentityMembersMax = 65'536;

// The content of the file "identity".
struct IdentityFile {
  ServerId server;
  ClusterId cluster;        // zero before the first join
  uint64_t generation = 0;  // highest of the cluster that was seen
  uint64_t term = 0;        // highest of a leader in that generation
  std::map<std::string, EpochId> epochs;
  std::vector<ServerId> last_members;

  friend bool operator==(const IdentityFile&, const IdentityFile&) = default;
};

std::string EncodeIdentity(const IdentityFile& identity);
// InvalidArgument naming the field; FailedPrecondition for another version.
absl::StatusOr<IdentityFile> DecodeIdentity(std::string_view raw);

class Identity {
 public:
  // Reads everything; on an empty disk draws a server id and writes it.
  static Task<absl::StatusOr<std::unique_ptr<Identity>>> Load(Disk* disk, Random random);

  const ServerId& server() const { return file_.server; }

  const ClusterId& cluster() const { return file_.cluster; }

  uint64_t generation() const { return file_.generation; }

  uint64_t term() const { return file_.term; }

  const std::map<std::string, EpochId>& epochs() const { return file_.epochs; }

  const std::vector<ServerId>& last_members() const { return file_.last_members; }

  // All of the above is on disk, as far as the disk has said.
  bool is_saved() const { return saved_ == changes_; }

  // FailedPrecondition when placement is of another cluster, or of a generation below ours.
  absl::Status CheckPlacement(const ClusterId& cluster, uint64_t generation) const;
  // Unavailable when a leader with a higher term was obeyed: this one leads no more.
  absl::Status CheckLeader(uint64_t generation, uint64_t term) const;

  // Who answered a join.
  struct Leader {
    ClusterId cluster;
    uint64_t generation = 0;
    uint64_t term = 0;
  };

  Task<absl::Status> Joined(Leader leader, std::vector<ServerId> members);
  Task<absl::Status> SetMembers(std::vector<ServerId> members);
  // Beside those that are known.
  Task<absl::Status> AddMembers(std::vector<ServerId> members);

  // FailedPrecondition when a higher epoch of the job was seen.
  absl::Status CheckEpoch(const std::string& job, const EpochId& epoch) const;
  // Remembers it, durable when OK. A lower one changes nothing.
  Task<absl::Status> SeeEpoch(std::string job, EpochId epoch);

  // Synced. FailedPrecondition for a record of another cluster; DataLoss when `manifest` is not the
  // record's.
  Task<absl::Status> StoreCommit(std::string record, std::string manifest);
  // OK when it was not there.
  Task<absl::Status> DropCommit(SnapshotId snapshot);
  // NotFound, or DataLoss when the file is not what the record names.
  Task<absl::StatusOr<std::string>> ReadManifest(SnapshotId snapshot, Digest128 root);

  // Encoded commit records, by job and sequence.
  std::vector<std::string> records() const;
  bool HasRecord(const SnapshotId& snapshot) const;

 private:
  using RecordKey = std::pair<std::string, uint64_t>;

  explicit Identity(Disk* disk) : disk_(disk) {}

  Task<absl::Status> LoadRecords();
  Task<absl::Status> Save();
  Task<absl::Status> SaveChanges();

  Disk* const disk_;
  IdentityFile file_;
  uint64_t changes_ = 0;  // of file_
  uint64_t saved_ = 0;    // of them, those on disk
  std::map<RecordKey, std::string> records_;
};

}  // namespace gemel

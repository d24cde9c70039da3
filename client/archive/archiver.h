// SPDX-License-Identifier: Apache-2.0
//
// Archiver: keeps exporting the newest committed snapshot of a job.
//
//   JOB/00000000000000000012-7/…    one export each (exporter.h): sequence and name
//   JOB/latest.json                 which are complete, the newest last; put after everything under
//                                   its newest is there and verified
//
// It never queues: when the target is slower than the job, the snapshots in between are left out.
// What fails is told, with the way out, and tried again; a snapshot is not pinned in the cluster's
// memory meanwhile, so a dead target costs the job nothing. Started again it goes on where it
// stopped. REQUIRES: one archiver a job and prefix.
//
// Thread safety: one thread.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"

#include "client/archive/export_record.h"
#include "client/archive/exporter.h"
#include "client/archive/object_store.h"
#include "client/archive/pace.h"

namespace gemel::archive {

// Where snapshots come from.
class SnapshotSupply {
 public:
  struct Newest {
    std::string cluster;
    std::string name;
    uint64_t sequence = 0;
  };

  virtual ~SnapshotSupply() = default;
  // Nothing when the job never committed. Unavailable when the cluster cannot be reached now.
  virtual absl::StatusOr<std::optional<Newest>> FindNewest(const std::string& job) = 0;
  // Pinned until the result is dropped.
  virtual absl::StatusOr<std::unique_ptr<SnapshotSource>> Open(const std::string& job,
                                                               const std::string& name) = 0;
};

struct ArchiveOptions {
  std::string job;
  uint64_t every = 1;      // sequence numbers from one archived snapshot to the next, at least
  Duration interval = {};  // from one archived snapshot to the next, at least
  uint32_t keep = 0;       // complete exports that stay; 0: all
  bool once = false;       // the newest, then return
  bool verify = false;     // read everything back before it is named
  uint64_t file_bytes = kExportFileBytes;
};

class Archiver {
 public:
  // Told of every archived snapshot.
  using Archived = std::function<void(const ArchivedExport&)>;
  // Told what went wrong and how to mend it; it is tried again.
  using Warned = std::function<void(const std::string&)>;

  struct Listener {
    Archived archived;
    Warned warned;
    Watcher watcher;
  };

  // All outlive this.
  Archiver(SnapshotSupply* supply, ObjectStore* store, Pace* pace, ArchiveOptions options,
           Listener listener);

  // Until asked to end: OK. With `once`: after the newest, or with the first error.
  absl::Status Run();

  // One look: exports the newest snapshot when it is due. True when it did.
  absl::StatusOr<bool> Step();

 private:
  absl::Status ReadLatest();
  bool IsDue(const SnapshotSupply::Newest& newest);
  absl::StatusOr<ArchivedExport> ExportOne(const SnapshotSupply::Newest& newest);
  absl::Status Name(ArchivedExport archived);
  absl::Status Sweep();
  absl::Status RemoveExport(const std::string& path, const std::vector<ObjectInfo>& objects);
  void Warn(const std::string& text);

  SnapshotSupply* const supply_;
  ObjectStore* const store_;
  Pace* const pace_;
  const ArchiveOptions options_;
  const Listener listener_;
  const std::string folder_;  // "gpt/"
  std::optional<Latest> latest_;
  std::optional<TimePoint> archived_at_;  // by this process
  bool swept_ = false;                    // since it was named last
  std::string warned_;                    // the last warning, and when
  TimePoint warned_at_;
};

}  // namespace gemel::archive

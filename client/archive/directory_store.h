// SPDX-License-Identifier: Apache-2.0
//
// DirectoryStore: an ObjectStore in a directory of a file system (local, NFS, Lustre).
//
// A file is written under ".NAME.part" beside its place, fsynced, renamed, and its directory
// fsynced. After an error of fsync the file is unlinked and never synced again: its pages may be
// gone. Names that begin with a dot are never seen by List().
#pragma once

#include <memory>
#include <set>
#include <string>
#include <vector>

#include "client/archive/object_store.h"
#include "common/file_calls.h"

namespace gemel::archive {

class DirectoryStore final : public ObjectStore {
 public:
  // Does not touch `root` yet; Create() makes it. `calls` lets tests fail writes and syncs.
  explicit DirectoryStore(const std::string& root,
                          std::shared_ptr<FileCalls> calls = std::make_shared<FileCalls>());

  absl::StatusOr<std::unique_ptr<ObjectWriter>> Create(const std::string& key,
                                                       uint64_t bytes) override;
  absl::Status Read(const std::string& key, uint64_t offset, MutableByteSpan into) override;
  absl::StatusOr<uint64_t> Size(const std::string& key) override;
  absl::StatusOr<std::vector<ObjectInfo>> List(const std::string& prefix) override;
  absl::Status Remove(const std::string& key) override;
  absl::Status RemoveUnfinished(const std::string& prefix) override;
  std::string Where(const std::string& key) const override;

 private:
  absl::Status EnsureDirectory(const std::string& path);

  const std::string root_;
  const std::shared_ptr<FileCalls> calls_;  // shared with the writers, which may outlive this
  std::set<std::string> durable_;           // directories whose entry in their parent is synced
};

}  // namespace gemel::archive

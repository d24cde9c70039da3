// SPDX-License-Identifier: Apache-2.0
//
// ClientSource: a committed snapshot of the cluster, through the public interface only.
//
// Thread safety: one thread.
#pragma once

#include <memory>
#include <span>
#include <string>

#include "absl/status/statusor.h"

#include "client/archive/snapshot_source.h"
#include "gemel/client.h"

namespace gemel::archive {

class ClientSource final : public SnapshotSource {
 public:
  // Opens the committed snapshot `name` of `job`, the newest when it is empty, and keeps it from
  // being retired while this lives. NotFound names what is there instead. `client` outlives this.
  static absl::StatusOr<std::unique_ptr<ClientSource>> Open(Client* client, const std::string& job,
                                                            const std::string& name);

  const SnapshotFacts& facts() const override { return facts_; }

  absl::Status Read(std::span<const Range> ranges) override;

 private:
  ClientSource(Restore restore, SnapshotFacts facts);

  Restore restore_;
  const SnapshotFacts facts_;
};

// A status of the public interface as one of ours: the codes are the same.
absl::Status StatusOf(const Status& status);

}  // namespace gemel::archive

// SPDX-License-Identifier: Apache-2.0
//
// Directives: what placement asks of this server, in a long poll. Short work is done in order
// before the next poll, which carries its results; pulling, verifying and what the disk does run
// beside it.
//
// Thread safety: one loop.
// Ownership: Run() is spawned by the server and ends when the gate closes.
// Invariants:
//   (1) a directive is done once: what is told again while it runs, or before its result was
//       acknowledged, is not begun again. All of them may be repeated without harm after a restart;
//   (2) a result is forgotten only when a poll that carried it was answered.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>

#include "absl/status/statusor.h"

#include "common/sync.h"
#include "server/control.h"
#include "server/fetch.h"
#include "server/holder.h"
#include "server/identity.h"
#include "server/objects.h"
#include "server/tier.h"
#include "server/uploads.h"

namespace gemel {

class Directives {
 public:
  struct Parts {
    Control* control = nullptr;
    Identity* identity = nullptr;
    ObjectTable* objects = nullptr;
    Uploads* uploads = nullptr;
    Holder* holder = nullptr;
    Fetches* fetches = nullptr;
    Tier* tier = nullptr;
  };

  using Rejoin = std::function<void(std::string why)>;
  using Corrupt = std::function<void(const std::shared_ptr<Object>&, const absl::Status&)>;

  Directives(const ServerSeams& seams, const Parts& parts);

  void OnRejoin(Rejoin rejoin) { rejoin_ = std::move(rejoin); }

  void OnCorrupt(Corrupt corrupt) { corrupt_ = std::move(corrupt); }

  // From before an inventory is made until placement has taken it: nothing begins that would make
  // it untrue. What is not begun is given again, or is no longer wanted; nothing is told of what
  // was begun, as placement has forgotten it.
  void Hold(bool held);
  Task<void> Run(Gate* gate);

  // One directive; its status is the result's. `manifest` is set by FetchManifest. For Run() and
  // tests.
  Task<absl::Status> Do(pb::Directive directive, std::string* manifest);

 private:
  Task<absl::Status> Poll(Gate* gate);
  Task<void> DoInBackground(Gate* gate, pb::Directive directive, uint64_t joins);
  void Finish(uint64_t id, uint64_t joins, const absl::Status& status, std::string manifest);

  Task<absl::Status> StoreCommit(pb::StoreCommit work);
  Task<absl::Status> DropSnapshot(pb::DropSnapshot work);
  absl::Status DropStaging(const pb::DropStaging& work);
  Task<absl::Status> SeeEpoch(pb::SeeEpoch work);
  Task<absl::Status> PullShard(pb::PullShard work);
  Task<absl::Status> VerifyShard(pb::VerifyShard work);
  Task<absl::Status> FetchManifest(pb::FetchManifest work, std::string* manifest);
  Task<absl::Status> PersistShard(pb::PersistShard work);
  Task<absl::Status> MarkPersisted(pb::MarkPersisted work);
  Task<absl::Status> DropPersisted(pb::DropPersisted work);

  const ServerSeams seams_;
  const Parts parts_;
  Rejoin rejoin_;
  Corrupt corrupt_;
  bool held_ = false;
  uint64_t joins_ = 0;  // that began, and that ended
  uint64_t taken_ = 0;  // joins_ when placement took an inventory last
  std::set<uint64_t> running_;
  std::map<uint64_t, pb::DirectiveResult> results_;  // not acknowledged
};

}  // namespace gemel

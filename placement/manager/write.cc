// SPDX-License-Identifier: Apache-2.0
//
// Transactions with a known outcome. Each one compares that this manager still leads, and puts, as
// its first key, a value that no other transaction puts (a counter in it grows); so after an
// unknown outcome reading that key tells whether it was applied, and compare-and-set makes
// repeating it safe when it was not.
#include <algorithm>

#include "common/check.h"
#include "common/errors.h"
#include "common/points.h"
#include "placement/manager/core.h"

namespace gemel {
namespace {

constexpr Duration kRarePause = 50ms;  // where the simulator lets the manager pause
constexpr Duration kRereadMin = 20ms;
constexpr Duration kRereadMax = 1s;

}  // namespace

// The version at which the store holds this transaction's first value; none when it holds another.
Task<absl::StatusOr<std::optional<uint64_t>>> PlacementCore::ReadBack(const Txn* txn) {
  GEMEL_CHECK(!txn->puts.empty());
  std::string key = txn->puts.front().first;
  const absl::StatusOr<std::optional<Versioned>> found = co_await seams_.store->Get(std::move(key));
  GEMEL_CO_RETURN_IF_ERROR(found.status());
  std::optional<uint64_t> version;
  if (found->has_value() && (*found)->value == txn->puts.front().second) {
    version = (*found)->version;
  }
  co_return version;
}

// A write would only wait behind the one whose outcome is unknown: what waits for it is told why.
absl::Status PlacementCore::CheckStore() const {
  if (store_trouble_.ok()) {
    return absl::OkStatus();
  }
  return error::Unavailable("placement waits for its store: {}", MessageOf(store_trouble_));
}

Task<absl::StatusOr<uint64_t>> PlacementCore::Write(Txn txn) {
  GEMEL_CHECK(!txn.puts.empty() && !txn.compares.empty());
  GEMEL_CHECK(txn.puts.front().first == txn.compares.front().key) << txn.puts.front().first;
  txn.compares.emplace_back();  // the leader's, filled in at each try
  Duration pause = kRereadMin;
  bool uncertain = false;  // a try may have been applied
  bool refused = false;    // what was compared has changed
  while (!stopping_) {
    if (uncertain) {
      const absl::StatusOr<std::optional<uint64_t>> ours = co_await ReadBack(&txn);
      store_trouble_ = ours.status();
      if (!ours.ok()) {
        co_await loop_->Sleep(pause);
        pause = std::min(2 * pause, kRereadMax);
        continue;
      }
      if (ours->has_value()) {
        Sometimes(Situation::kUnknownApplied);
        co_return **ours;
      }
      Sometimes(Situation::kUnknownLost);
    }
    if (refused || !leadership_->HoldsTerm()) {
      co_return leadership_->Refused(txn.compares.front().key);
    }
    txn.compares.back() = leadership_->Compare();
    GEMEL_CHECK_LE(txn.compares.size(), kMetaTxnOpsMax) << txn.puts.front().first;
    const absl::StatusOr<CommitResult> result = co_await seams_.store->Commit(txn);
    if (result.ok()) {
      if (result->applied && Buggify(BuggifySite::kPauseAfterWrite)) {
        co_await loop_->Sleep(kRarePause);
      }
      if (result->applied && Buggify(BuggifySite::kOutcomeUnread)) {
        uncertain = true;
        continue;
      }
      if (result->applied) {
        co_return result->version;
      }
      refused = true;
    } else if (result.status().code() == absl::StatusCode::kUnknown) {
      uncertain = true;
      Sometimes(Situation::kStoreOutcomeUnknown);
      Emit(Severity::kWarning, "store_outcome_unknown",
           fmt::format("{}: outcome of a write of '{}' is not known; reading it again",
                       seams_.store->name(), txn.puts.front().first));
    } else if (uncertain) {
      co_await loop_->Sleep(pause);
      pause = std::min(2 * pause, kRereadMax);
    } else {
      store_errors_.Add(1);
      co_return result.status();
    }
  }
  co_return error::Cancelled("placement is stopping");
}

// REQUIRES: the job's lock is held.
Task<absl::Status> PlacementCore::WriteJob(Job* job, JobRecord record, Txn more) {
  record.writes = job->record.writes + 1;
  Txn txn;
  txn.compares.push_back({.key = JobKey(job->name), .version = std::nullopt});
  if (job->version != 0) {
    txn.compares.back().version = job->version;
  }
  txn.puts.emplace_back(JobKey(job->name), EncodeStored(record));
  std::move(more.compares.begin(), more.compares.end(), std::back_inserter(txn.compares));
  std::move(more.puts.begin(), more.puts.end(), std::back_inserter(txn.puts));
  std::move(more.deletes.begin(), more.deletes.end(), std::back_inserter(txn.deletes));
  const absl::StatusOr<uint64_t> version = co_await Write(std::move(txn));
  GEMEL_CO_RETURN_IF_ERROR(version.status());
  GEMEL_CHECK_GT(*version, job->version);
  job->version = *version;
  job->record = record;
  co_return absl::OkStatus();
}

// One change of the members: the map's version grows with it. REQUIRES: map_lock_ is held.
Task<absl::Status> PlacementCore::WriteMember(MemberRecord record, uint64_t version, bool remove) {
  ClusterRecord cluster = cluster_;
  cluster.map_version += 1;
  cluster.writes += 1;
  Txn txn;
  txn.compares.push_back({.key = kClusterKey, .version = cluster_version_});
  txn.compares.push_back({.key = MemberKey(record.id), .version = std::nullopt});
  if (version != 0) {
    txn.compares.back().version = version;
  }
  txn.puts.emplace_back(kClusterKey, EncodeStored(cluster));
  if (remove) {
    txn.deletes.push_back(MemberKey(record.id));
  } else {
    txn.puts.emplace_back(MemberKey(record.id), EncodeStored(record));
  }
  const absl::StatusOr<uint64_t> written = co_await Write(std::move(txn));
  GEMEL_CO_RETURN_IF_ERROR(written.status());
  GEMEL_CHECK_GT(*written, cluster_version_);
  cluster_version_ = *written;
  cluster_ = cluster;
  co_return absl::OkStatus();
}

}  // namespace gemel

// SPDX-License-Identifier: Apache-2.0
#include "placement/manager/leadership.h"

#include <algorithm>
#include <utility>

#include "common/check.h"
#include "common/errors.h"
#include "common/status_macros.h"

namespace gemel {
namespace {

constexpr size_t kUnknownMax = 8;  // claims of unknown outcome that are remembered

}  // namespace

Leadership::Leadership(const PlacementOptions& options, const PlacementSeams& seams)
    : options_(options),
      seams_(seams),
      loop_(seams.loop),
      changed_(seams.loop),
      leads_(seams.metrics->Gauge("gemel_placement_leads", "1 while this placement leads")),
      elections_(seams.metrics->Counter("gemel_placement_elections_total",
                                        "times this placement became the leader")) {
  const ElectionOptions& times = options.election;
  GEMEL_CHECK(times.beat_every < times.serve_for && times.serve_for < times.takeover_after);
  GEMEL_CHECK(times.poll_every < times.takeover_after);
}

bool Leadership::Leads() const {
  return version_ != 0 && !stopped_ && unfit_.ok() &&
         (!options_.shared_store || loop_->Now() < serves_until_);
}

absl::Status Leadership::NotLeading() const {
  if (!unfit_.ok()) {
    return unfit_;
  }
  if (version_ != 0 && doubted_) {
    return StandsBy(
        fmt::format("placement {} was told of a later leader and asks {} whether it is so",
                    options_.name, seams_.store->name()));
  }
  if (version_ != 0) {
    return StandsBy(fmt::format(
        "placement {} has not reached {} for {:.0f} ms and answers nothing till then",
        options_.name, seams_.store->name(), Milliseconds(options_.election.serve_for)));
  }
  if (other_.term == 0 || other_.resigned) {
    return StandsBy(fmt::format("placement {} waits, and nobody leads yet", options_.name));
  }
  return StandsBy(fmt::format("placement {} waits; {} at {} leads (term {})", options_.name,
                              other_.name, other_.address, other_.term));
}

std::string Leadership::Describe() const {
  if (version_ != 0) {
    return fmt::format("leads in term {}", record_.term);
  }
  return fmt::format("standby of {}", other_.term == 0 ? "nobody" : other_.name);
}

Txn::Compare Leadership::Compare() const {
  GEMEL_CHECK(version_ != 0) << "a deposed manager changes nothing";
  return {.key = kLeaderKey, .version = version_};
}

void Leadership::Depose(const std::string& why) {
  if (version_ == 0) {
    return;
  }
  version_ = 0;
  leads_.Set(0);
  seams_.events->Emit(Severity::kWarning, "deposed",
                      fmt::format("placement {} led in term {} and leads no more: {}",
                                  options_.name, record_.term, why));
  changed_.NotifyAll();
}

absl::Status Leadership::Refused(const std::string& key) {
  if (!options_.shared_store) {
    unfit_ = error::FailedPrecondition(
        "{} was changed by another gemel-placement at '{}'; only one may run: stop this one",
        seams_.store->name(), key);
    Depose("another one has written to its store");
    return unfit_;
  }
  Depose(fmt::format("{} refused a change of '{}'", seams_.store->name(), key));
  return error::Unavailable("placement {} leads no more; the outcome is with the one that does",
                            options_.name);
}

void Leadership::SeenNewer(uint64_t term) {
  GEMEL_CHECK_GT(term, record_.term);
  if (version_ == 0 || doubted_) {
    return;
  }
  doubted_ = true;
  serves_until_ = TimePoint();
  seams_.events->Emit(
      Severity::kWarning, "newer_term_seen",
      fmt::format("a caller has seen term {}, this placement leads in {}", term, record_.term));
  if (!options_.shared_store) {
    unfit_ = error::FailedPrecondition(
        "servers have seen term {} of this cluster, this placement's store has {}: the store is "
        "older than the cluster; rebuild it with `gemel placement recover --from-servers`",
        term, record_.term);
  }
  changed_.NotifyAll();
}

void Leadership::Stop() {
  stopped_ = true;
  changed_.NotifyAll();
}

Task<absl::StatusOr<Leadership::Seen>> Leadership::Look() {
  Seen seen;
  GEMEL_CO_ASSIGN_OR_RETURN(seen.leader, co_await seams_.store->Get(kLeaderKey));
  GEMEL_CO_ASSIGN_OR_RETURN(seen.beat, co_await seams_.store->Get(kBeatKey));
  Remember(seen);
  co_return seen;
}

void Leadership::Remember(const Seen& seen) {
  if (!seen.leader.has_value()) {
    other_ = LeaderRecord();
    return;
  }
  absl::StatusOr<LeaderRecord> leader = DecodeStored<LeaderRecord>(kLeaderKey, seen.leader->value);
  if (leader.ok() && leader->term < kTermMax) {
    other_ = *std::move(leader);
  }
}

// Compares the beat too: a leader that beat after `seen` stays.
Task<absl::StatusOr<Leadership::Claim>> Leadership::TakeOver(const Seen* seen, uint64_t term) {
  LeaderRecord claim;
  GEMEL_CHECK(term > 0 && term <= kTermMax) << term;
  claim.term = term;
  claim.manager = Incarnation::Draw(seams_.random);
  claim.name = options_.name;
  claim.address = options_.address;
  BeatRecord beat{.manager = claim.manager, .beats = 0};
  Txn txn;
  const auto expect = [&txn](const char* key, const std::optional<Versioned>& there) {
    txn.compares.push_back({.key = key, .version = std::nullopt});
    if (there.has_value()) {
      txn.compares.back().version = there->version;
    }
  };
  expect(kLeaderKey, seen->leader);
  expect(kBeatKey, seen->beat);
  txn.puts.emplace_back(kLeaderKey, EncodeStored(claim));
  txn.puts.emplace_back(kBeatKey, EncodeStored(beat));
  const TimePoint began = loop_->Now();
  const absl::StatusOr<CommitResult> result = co_await seams_.store->Commit(std::move(txn));
  if (!result.ok() && result.status().code() != absl::StatusCode::kUnknown) {
    co_return result.status();
  }
  if (result.ok()) {
    if (result->applied) {
      Won(claim, result->version, began);
    }
    co_return result->applied ? Claim::kWon : Claim::kLost;
  }
  // Not there is not lost: the claim may still be applied, and then nobody but its maker can beat;
  // that is found by looking again.
  unknown_.push_back({claim, began});
  if (unknown_.size() > kUnknownMax) {
    unknown_.erase(unknown_.begin());
  }
  GEMEL_CO_ASSIGN_OR_RETURN(const std::optional<Versioned> found,
                            co_await seams_.store->Get(kLeaderKey));
  co_return IsOwn(found) ? Claim::kWon : Claim::kUnknown;
}

// Takes a claim of unknown outcome for won when it is what the store has. Another may have seen it
// there since it was begun, and no beat after it: it serves from its next beat on, if it took long.
bool Leadership::IsOwn(const std::optional<Versioned>& leader) {
  const auto own = std::find_if(unknown_.begin(), unknown_.end(), [&leader](const auto& claim) {
    return leader.has_value() && leader->value == EncodeStored(claim.record);
  });
  if (own == unknown_.end()) {
    return false;
  }
  const Unknown claim = std::move(*own);
  Won(claim.record, leader->version, claim.since);
  return true;
}

void Leadership::Won(const LeaderRecord& claim, uint64_t version, TimePoint since) {
  GEMEL_CHECK_GT(claim.term, record_.term);  // invariant (1)
  GEMEL_CHECK(version != 0) << claim.name;
  version_ = version;
  record_ = claim;
  unknown_.clear();  // they compare what this one has changed
  beats_ = 0;
  doubted_ = false;
  serves_until_ = Add(since, options_.election.serve_for);
  leads_.Set(1);
  elections_.Add(1);
  seams_.events->Emit(Severity::kInfo, "elected",
                      fmt::format("placement {} leads in term {}", options_.name, claim.term));
}

Task<absl::Status> Leadership::Seize() {
  GEMEL_CHECK(!options_.shared_store && version_ == 0);
  while (!stopped_) {
    const absl::StatusOr<Seen> seen = co_await Look();
    GEMEL_CO_RETURN_IF_ERROR(seen.status());
    if (IsOwn(seen->leader)) {
      co_return absl::OkStatus();
    }
    const absl::StatusOr<Claim> claim = co_await TakeOver(&*seen, other_.term + 1);
    GEMEL_CO_RETURN_IF_ERROR(claim.status());
    if (*claim == Claim::kWon) {
      co_return absl::OkStatus();
    }
    co_await loop_->Sleep(options_.election.poll_every);
  }
  co_return error::Cancelled("placement is stopping");
}

Task<absl::Status> Leadership::RaiseTerm(uint64_t term) {
  while (version_ != 0 && record_.term < term && !stopped_) {
    Seen seen;
    GEMEL_CO_ASSIGN_OR_RETURN(seen, co_await Look());
    if (!seen.leader.has_value() || seen.leader->version != version_) {
      if (IsOwn(seen.leader)) {
        continue;
      }
      co_return Refused(kLeaderKey);
    }
    const absl::StatusOr<Claim> claim = co_await TakeOver(&seen, term);
    GEMEL_CO_RETURN_IF_ERROR(claim.status());
  }
  co_return version_ != 0 ? absl::OkStatus() : Refused(kLeaderKey);
}

// Nobody leads, or has beaten for takeover_after while the store answered.
bool Leadership::IsStill(const Seen& seen, Watch* watch) const {
  const TimePoint now = loop_->Now();
  const auto version = [](const std::optional<Versioned>& there) {
    return there.has_value() ? there->version : 0;
  };
  // While the store or this process stood still, so may have the leader.
  const Duration takeover_after = options_.election.takeover_after;
  const bool gap = now - std::exchange(watch->looked, now) > takeover_after / 2;
  if (gap || version(seen.leader) != version(watch->last.leader) ||
      version(seen.beat) != version(watch->last.beat)) {
    watch->since = now;
  }
  watch->last = seen;
  const bool vacant = !seen.leader.has_value() || other_.resigned;
  return vacant || now - watch->since >= takeover_after;
}

Task<absl::Status> Leadership::Campaign() {
  GEMEL_CHECK(options_.shared_store && version_ == 0);
  Watch watch;
  while (!stopped_) {
    const absl::StatusOr<Seen> seen = co_await Look();
    if (seen.ok() && IsOwn(seen->leader)) {
      co_return absl::OkStatus();
    }
    if (seen.ok() && IsStill(*seen, &watch)) {
      const absl::StatusOr<Claim> claim = co_await TakeOver(&*seen, other_.term + 1);
      if (claim.ok() && *claim == Claim::kWon) {
        co_return absl::OkStatus();
      }
    }
    co_await changed_.WaitUntil(Add(loop_->Now(), options_.election.poll_every));
  }
  co_return error::Cancelled("placement is stopping");
}

Task<void> Leadership::BeatOnce() {
  GEMEL_CHECK(!record_.manager.IsZero() && !record_.resigned);
  beats_ += 1;
  Txn txn;
  txn.compares.push_back(Compare());
  txn.puts.emplace_back(kBeatKey, EncodeStored(BeatRecord{record_.manager, beats_}));
  const TimePoint began = loop_->Now();
  const uint64_t version = version_;
  const absl::StatusOr<CommitResult> result = co_await seams_.store->Commit(std::move(txn));
  if (version_ != version || !result.ok()) {
    co_return;  // deposed meanwhile, or nobody knows: the next beat tells
  }
  if (!result->applied) {
    Depose("another placement has taken over");
  } else if (doubted_) {
    unfit_ = error::FailedPrecondition(
        "servers have obeyed a later leader than {} knows: the store is older than the cluster; "
        "rebuild it with `gemel placement recover --from-servers`",
        seams_.store->name());
    seams_.events->Emit(Severity::kError, "store_too_old", ToText(unfit_));
  } else {
    serves_until_ = Add(began, options_.election.serve_for);
  }
}

Task<void> Leadership::Beat() {
  GEMEL_CHECK(options_.shared_store);
  while (!stopped_ && version_ != 0) {
    const TimePoint next = Add(loop_->Now(), options_.election.beat_every);
    co_await BeatOnce();
    if (!stopped_ && version_ != 0) {
      co_await changed_.WaitUntil(next);
    }
  }
}

Task<void> Leadership::WaitUntilDeposed() {
  while (!stopped_ && version_ != 0) {
    co_await changed_.WaitUntil(kTimeNever);
  }
}

Task<void> Leadership::Resign() {
  if (version_ == 0 || !unfit_.ok()) {
    co_return;
  }
  GEMEL_CHECK_GT(record_.term, 0U);
  LeaderRecord gone = record_;
  gone.resigned = true;
  Txn txn;
  txn.compares.push_back(Compare());
  txn.puts.emplace_back(kLeaderKey, EncodeStored(gone));
  version_ = 0;  // first: it answers nothing from here on
  leads_.Set(0);
  changed_.NotifyAll();
  const absl::StatusOr<CommitResult> result = co_await seams_.store->Commit(std::move(txn));
  seams_.events->Emit(
      Severity::kInfo, "resigned",
      result.ok() ? fmt::format("term {} is over", gone.term) : ToText(result.status()));
}

}  // namespace gemel

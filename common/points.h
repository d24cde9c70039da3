// SPDX-License-Identifier: Apache-2.0
//
// Points: named places in the code that tests look at or act on.
//
//   CrashPoint  a moment between "bytes arrived" and "acknowledged": Reach(point) ends the process
//               there when a crash loop asked for it (a daemon's --abort-at)
//   Buggify     a rare but legal turn (a short read, an early time-out): Buggify(site) is true now
//               and then in the simulator, never elsewhere. Never where it could break a promise
//   Sometimes   a situation that a campaign must have met: Sometimes(name) counts it
//
// The lists are here, in one file, so that a report can name those never reached. In production no
// PointHooks is set and each point is one load and one branch.
//
// Thread safety: hooks are set before the first loop runs; implementations say from which threads
// they may be called. Source of the idea: FoundationDB's BUGGIFY and CODE_PROBE (SIGMOD'21, 4.2).
#pragma once

#include <cstdint>
#include <string_view>

namespace gemel {

// Name, what it reads as on a command line and in reports, and what is done and not yet done there.
#define GEMEL_CRASH_POINTS(X)                                                                      \
  X(kUploadStaged, "server.upload-staged", "an open has memory; the client is not answered")       \
  X(kChunkPlaced, "server.chunk-placed",                                                           \
    "a peer's chunk is in its place; the writer is not answered")                                  \
  X(kUploadSealed, "server.upload-sealed", "the own copy is sealed; no receipt is queued")         \
  X(kSealFenced, "server.seal-fenced", "nobody may write the copy any more; it is not hashed")     \
  X(kSealHashed, "server.seal-hashed",                                                             \
    "a peer's copy is sealed under its root; no receipt is queued")                                \
  X(kReceiptSending, "server.receipt-sending", "receipts are ready to be sent")                    \
  X(kReceiptSent, "server.receipt-sent", "placement has the receipts; they still wait here")       \
  X(kManifestStored, "server.manifest-stored",                                                     \
    "a commit's manifest is on disk; its record is not")                                           \
  X(kRecordStored, "server.record-stored", "a commit record is on disk; placement is not told")    \
  X(kCommitHeard, "server.commit-heard", "placement says COMMITTED; the client is not told")       \
  X(kRecordDropped, "server.record-dropped",                                                       \
    "a dropped commit's record is gone; its manifest and shards are here")                         \
  X(kSnapshotDropped, "server.snapshot-dropped", "a snapshot is gone here; placement is not told") \
  X(kEpochSeen, "server.epoch-seen", "a newer epoch holds here; placement is not told")            \
  X(kIdentitySaved, "server.identity-saved",                                                       \
    "the identity file is on disk; its caller is not told")                                        \
  X(kServerJoined, "server.joined",                                                                \
    "placement has taken the incarnation; this server does not know")                              \
  X(kTierListed, "server.tier-listed",                                                             \
    "the persistent tier was read; nobody is told what it holds")                                  \
  X(kChunkFetched, "server.chunk-fetched",                                                         \
    "a chunk from a peer or a disk is verified; it does not count yet")                            \
  X(kShardFetched, "server.shard-fetched", "a fetched shard is whole; no receipt is queued")       \
  X(kPullDone, "server.pull-done", "a repair has its copy; placement is not told")                 \
  X(kRestoreReported, "server.restore-reported",                                                   \
    "placement has the rank's report; the client is not answered")                                 \
  X(kShardPersisted, "server.shard-persisted",                                                     \
    "a shard is on disk; its persist receipt is not sent")                                         \
  X(kPersistMarked, "server.persist-marked",                                                       \
    "a snapshot is marked PERSISTED on disk; placement is not told")                               \
  X(kPersistChunkWritten, "persist.chunk-written", "a chunk is in the temporary file")             \
  X(kPersistFileSynced, "persist.file-synced", "the temporary file is durable")                    \
  X(kPersistDirectorySynced, "persist.directory-synced", "the temporary name is durable")          \
  X(kPersistRenamed, "persist.renamed", "the file has its name; not durably")                      \
  X(kPersistRenameSynced, "persist.rename-synced", "the name is durable")                          \
  X(kPersistIngested, "persist.ingested", "the file is part of the database; it has no record")    \
  X(kPersistRecorded, "persist.recorded", "the record is synced")                                  \
  X(kPersistUnrecorded, "persist.unrecorded",                                                      \
    "a dropped shard's record is gone; its bytes are there")                                       \
  X(kPersistRetired, "persist.retired", "a dropped shard's bytes are gone; placement is not told") \
  X(kStoreLoaded, "placement.store-loaded",                                                        \
    "the store is read and this start is counted; nobody is served")                               \
  X(kMemberDurable, "placement.member-durable",                                                    \
    "an incarnation is registered; its server is not answered")                                    \
  X(kDeathDurable, "placement.death-durable",                                                      \
    "a member's death is stored; the map is not changed")                                          \
  X(kEpochDurable, "placement.epoch-durable", "a token has its epoch; nobody is told")             \
  X(kOpenDurable, "placement.open-durable",                                                        \
    "an open has its sequence number; the rank is not answered")                                   \
  X(kReceiptsEnough, "placement.receipts-enough",                                                  \
    "every shard has its receipts; the transaction has not begun")                                 \
  X(kCommitDurable, "placement.commit-durable",                                                    \
    "the commit is in the store; no holder has its record")                                        \
  X(kCommitTold, "placement.commit-told", "holders have the record; no rank is told COMMITTED")    \
  X(kAbortDurable, "placement.abort-durable", "an attempt is deleted; no rank or holder is told")  \
  X(kRetireDurable, "placement.retire-durable",                                                    \
    "a retired snapshot is deleted; no holder is told to drop it")                                 \
  X(kRestoreDurable, "placement.restore-durable",                                                  \
    "the restore record is written; no rank is told")                                              \
  X(kVerifiedDurable, "placement.verified-durable",                                                \
    "a rank's VERIFIED is written; it is not answered")                                            \
  X(kRepairHeard, "placement.repair-heard",                                                        \
    "a server says that it has pulled a copy; it does not count yet")                              \
  X(kPersistedDurable, "placement.persisted-durable", "PERSISTED is written; no server is told")   \
  X(kPersistRetireDurable, "placement.persist-retire-durable",                                     \
    "a persisted snapshot is deleted; no server is told to drop it")

// Name, and what it reads as in reports.
#define GEMEL_BUGGIFY_SITES(X)                       \
  X(kAnswerYields, "transport.answer-yields")        \
  X(kHoldNot, "client.hold-not")                     \
  X(kReportLate, "client.report-late")               \
  X(kHeartbeatEarly, "server.heartbeat-early")       \
  X(kJoinAgain, "server.join-again")                 \
  X(kControlEarly, "server.control-early")           \
  X(kDirectiveLate, "server.directive-late")         \
  X(kWriteWindowOne, "server.write-window-one")      \
  X(kCopyAgain, "server.copy-again")                 \
  X(kPeerSealLate, "server.peer-seal-late")          \
  X(kWriteAstray, "server.write-astray")             \
  X(kSliceAgain, "server.slice-again")               \
  X(kCreditScarce, "server.credit-scarce")           \
  X(kPullRefused, "server.pull-refused")             \
  X(kTierListLate, "server.tier-list-late")          \
  X(kReadLaneOne, "server.read-lane-one")            \
  X(kHedgeAtOnce, "transport.hedge-at-once")         \
  X(kLaneFenced, "transport.lane-fenced")            \
  X(kProbationSoon, "transport.probation-soon")      \
  X(kCommitLate, "placement.commit-late")            \
  X(kPauseAfterWrite, "placement.pause-after-write") \
  X(kOutcomeUnread, "placement.outcome-unread")      \
  X(kPollShort, "placement.poll-short")              \
  X(kDirectiveOne, "placement.directive-one")        \
  X(kMaintainLate, "placement.maintain-late")        \
  X(kRestoreWaits, "placement.restore-waits")

#define GEMEL_SOMETIMES(X)                                      \
  X(kReadAgain, "client.read-again")                            \
  X(kWriteRefused, "server.write-refused")                      \
  X(kWriteFenced, "server.write-fenced")                        \
  X(kSliceTakenOver, "server.slice-taken-over")                 \
  X(kLaneLost, "server.lane-lost")                              \
  X(kWriteCorrupt, "server.write-corrupt")                      \
  X(kCreditWaited, "server.credit-waited")                      \
  X(kCreditSilent, "server.credit-silent")                      \
  X(kSealedAgain, "server.sealed-again")                        \
  X(kOfferedAgain, "server.offered-again")                      \
  X(kReadDamaged, "server.read-damaged")                        \
  X(kLocalCopyDamaged, "server.local-copy-damaged")             \
  X(kSourceFailed, "server.source-failed")                      \
  X(kHedgeWon, "transport.hedge-won")                           \
  X(kReadStopped, "transport.read-stopped")                     \
  X(kSourceOnProbation, "transport.source-on-probation")        \
  X(kCopyUnwanted, "server.copy-unwanted")                      \
  X(kEpochRefused, "server.epoch-refused")                      \
  X(kDropRepeated, "server.drop-repeated")                      \
  X(kStoreOutcomeUnknown, "placement.store-outcome-unknown")    \
  X(kUnknownApplied, "placement.unknown-applied")               \
  X(kUnknownLost, "placement.unknown-lost")                     \
  X(kCommitTooFew, "placement.commit-too-few")                  \
  X(kCommitAfterEpoch, "placement.commit-after-epoch")          \
  X(kCommitLow, "placement.commit-low")                         \
  X(kCommitReplaces, "placement.commit-replaces")               \
  X(kRestoreWaits, "placement.restore-waits")                   \
  X(kRestoreMoved, "placement.restore-moved")                   \
  X(kSnapshotLost, "placement.snapshot-lost")                   \
  X(kSourceOnDisk, "placement.source-on-disk")                  \
  X(kCopyGone, "placement.copy-gone")                           \
  X(kMemberHangs, "placement.member-hangs")                     \
  X(kStarved, "placement.starved")                              \
  X(kSuspicionCleared, "placement.suspicion-cleared")           \
  X(kJoinWaits, "placement.join-waits")                         \
  X(kLateCommit, "placement.late-commit")                       \
  X(kUnknownKept, "placement.unknown-kept")                     \
  X(kIncarnationSuperseded, "placement.incarnation-superseded") \
  X(kRetargeted, "placement.retargeted")                        \
  X(kSealedPulled, "placement.sealed-pulled")                   \
  X(kRepairPull, "placement.repair-pull")                       \
  X(kRepairFailed, "placement.repair-failed")                   \
  X(kTokenSuperseded, "placement.token-superseded")             \
  X(kEpochEndsSave, "placement.epoch-ends-save")                \
  X(kPersistGivenUp, "placement.persist-given-up")              \
  X(kPersistFinishedLater, "placement.persist-finished-later")

#define GEMEL_POINT_ENUM(symbol, ...) symbol,
#define GEMEL_POINT_NAME(symbol, text, ...) text,
#define GEMEL_POINT_MEANING(symbol, text, meaning) meaning,

enum class CrashPoint : uint8_t { GEMEL_CRASH_POINTS(GEMEL_POINT_ENUM) };
enum class BuggifySite : uint8_t { GEMEL_BUGGIFY_SITES(GEMEL_POINT_ENUM) };
enum class Situation : uint8_t { GEMEL_SOMETIMES(GEMEL_POINT_ENUM) };

inline constexpr std::string_view kCrashPointNames[] = {GEMEL_CRASH_POINTS(GEMEL_POINT_NAME)};
inline constexpr std::string_view kCrashPointMeanings[] = {GEMEL_CRASH_POINTS(GEMEL_POINT_MEANING)};
inline constexpr std::string_view kBuggifyNames[] = {GEMEL_BUGGIFY_SITES(GEMEL_POINT_NAME)};
inline constexpr std::string_view kSituationNames[] = {GEMEL_SOMETIMES(GEMEL_POINT_NAME)};

#undef GEMEL_POINT_ENUM
#undef GEMEL_POINT_NAME
#undef GEMEL_POINT_MEANING

class PointHooks {
 public:
  virtual ~PointHooks() = default;

  virtual void Reached(CrashPoint) {}

  virtual void Met(Situation) {}

  virtual bool Fires(BuggifySite) { return false; }
};

namespace internal {
inline PointHooks* point_hooks = nullptr;
}  // namespace internal

// Null takes them away. The hooks outlive their use.
inline void SetPointHooks(PointHooks* hooks) { internal::point_hooks = hooks; }

inline void Reach(CrashPoint point) {
  if (internal::point_hooks != nullptr) [[unlikely]] {
    internal::point_hooks->Reached(point);
  }
}

inline void Sometimes(Situation situation) {
  if (internal::point_hooks != nullptr) [[unlikely]] {
    internal::point_hooks->Met(situation);
  }
}

inline bool Buggify(BuggifySite site) {
  return internal::point_hooks != nullptr && internal::point_hooks->Fires(site);
}

}  // namespace gemel

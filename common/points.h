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

// Name, and what it reads as on a command line and in reports.
#define GEMEL_CRASH_POINTS(X) X(kServerJoined, "server.joined")

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
  X(kReadLaneOne, "server.read-lane-one")            \
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
  X(kWriteCorrupt, "server.write-corrupt")                      \
  X(kSealedAgain, "server.sealed-again")                        \
  X(kOfferedAgain, "server.offered-again")                      \
  X(kReadDamaged, "server.read-damaged")                        \
  X(kLocalCopyDamaged, "server.local-copy-damaged")             \
  X(kSourceFailed, "server.source-failed")                      \
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
  X(kIncarnationSuperseded, "placement.incarnation-superseded") \
  X(kRetargeted, "placement.retargeted")                        \
  X(kSealedPulled, "placement.sealed-pulled")                   \
  X(kRepairPull, "placement.repair-pull")                       \
  X(kRepairFailed, "placement.repair-failed")                   \
  X(kTokenSuperseded, "placement.token-superseded")             \
  X(kEpochEndsSave, "placement.epoch-ends-save")                \
  X(kPersistGivenUp, "placement.persist-given-up")              \
  X(kPersistFinishedLater, "placement.persist-finished-later")

#define GEMEL_POINT_ENUM(symbol, text) symbol,
#define GEMEL_POINT_NAME(symbol, text) text,

enum class CrashPoint : uint8_t { GEMEL_CRASH_POINTS(GEMEL_POINT_ENUM) };
enum class BuggifySite : uint8_t { GEMEL_BUGGIFY_SITES(GEMEL_POINT_ENUM) };
enum class Situation : uint8_t { GEMEL_SOMETIMES(GEMEL_POINT_ENUM) };

inline constexpr std::string_view kCrashPointNames[] = {GEMEL_CRASH_POINTS(GEMEL_POINT_NAME)};
inline constexpr std::string_view kBuggifyNames[] = {GEMEL_BUGGIFY_SITES(GEMEL_POINT_NAME)};
inline constexpr std::string_view kSituationNames[] = {GEMEL_SOMETIMES(GEMEL_POINT_NAME)};

#undef GEMEL_POINT_ENUM
#undef GEMEL_POINT_NAME

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

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

#define GEMEL_BUGGIFY_SITES(X) X(kHeartbeatEarly, "server.heartbeat-early")

#define GEMEL_SOMETIMES(X)                      \
  X(kCommitUnknown, "placement.commit-unknown") \
  X(kStoreOutcomeUnknown, "placement.store-outcome-unknown")

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

// SPDX-License-Identifier: Apache-2.0
//
// Fault: the classes of faults that the simulator injects; Phase: what the jobs were at when one
// struck; FaultLedger: how often each struck in each phase.
//
// A fault is counted where it happens (a call that was dropped, a frame that was repeated, a bit
// that was flipped), so a class that is enabled and never strikes shows as an empty cell.
//
// Thread safety: values.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>

namespace gemel::sim {

// Symbol, and its name on command lines and in reports.
#define GEMEL_SIM_FAULTS(X)                                                                 \
  X(kKillServer, "kill-server")       /* and the trainers of its host; comes back empty */  \
  X(kKillPlacement, "kill-placement") /* goes on from its MetaStore */                      \
  X(kKillTrainers, "kill-trainers")   /* the host lives: restored from local slabs */       \
  X(kRestartStorm, "restart-storm")   /* the same processes again and again */              \
  X(kPauseServer, "pause-server")                                                           \
  X(kPausePlacement, "pause-placement")                                                     \
  X(kPauseStorm, "pause-storm") /* all processes, shortly, one after the other */           \
  X(kZombieLaunch, "zombie")    /* the old incarnation wakes beside the new one */          \
  X(kEpochRace, "epoch-race")   /* two launches at once */                                  \
  X(kPowerCut, "power-cut")     /* only disks are left */                                   \
  X(kReformat, "reformat")      /* a new disk under the old name */                         \
  X(kRollBack, "roll-back")     /* a disk of an earlier time */                             \
  X(kMembers, "members")        /* a server joins or leaves for good, or has less memory */ \
  X(kUpgrade, "upgrade")        /* of one process to the newer protocol, or back */         \
  X(kPartition, "partition")    /* one or both ways, a server from everyone */              \
  X(kBridge, "bridge")          /* two halves that see each other only through one node */  \
  X(kClog, "clog")              /* one link is held up, then all comes at once */           \
  X(kSwizzle, "swizzle")        /* links clog one by one, and clear in another order */     \
  X(kLossyCalls, "lossy-calls") /* lost before or after they were executed */               \
  X(kDuplicates, "duplicates")  /* calls, replies and writes that arrive twice */           \
  X(kStragglers, "stragglers")  /* overtaken by what was sent later */                      \
  X(kResets, "resets")          /* connections reset in the middle of a frame */            \
  X(kLateWrites, "late-writes") /* one-sided writes that land again later */                \
  X(kCorruption, "corruption")  /* bits flipped on the wire */                              \
  X(kMemoryRot, "memory-rot")   /* bits flipped in slabs at rest */                         \
  X(kDiskRot, "disk-rot")       /* files and chunks that decay */                           \
  X(kTornWrites, "torn-writes") /* misdirected, or torn by a crash */                       \
  X(kFsyncErrors, "fsync-errors")                                                           \
  X(kFullDisk, "full-disk")                                                                 \
  X(kHungDisk, "hung-disk")                                                                 \
  X(kSlow, "slow")                    /* a CPU, a disk, a link */                           \
  X(kClockRate, "clock-rate")         /* monotonic clocks that go at different rates */     \
  X(kClockJump, "clock-jump")         /* wall clocks, by days */                            \
  X(kStoreTrouble, "store-trouble")   /* transactions with unknown outcome */               \
  X(kAtPoint, "at-point")             /* killed at a named point of its work */             \
  X(kRackDown, "rack-down")           /* all servers of a rack at once */                   \
  X(kLateCalls, "late-calls")         /* executed again, after their sender's restart */    \
  X(kSlowLanding, "slow-landing")     /* a payload that lands in two parts, far apart */    \
  X(kRotEverywhere, "rot-everywhere") /* every copy of one shard */                         \
  X(kSlowDisks, "slow-disks")         /* one of them, or all, by far */                     \
  X(kStoreOutage, "store-outage")     /* the MetaStore is gone or full for a while */       \
  X(kStoreLost, "store-lost")         /* the MetaStore for good: recovered from servers */  \
  X(kRemoval, "removal")              /* a person removes a job that goes on */             \
  X(kHungKeeper, "hung-keeper")       /* it stands still, and its server is killed */       \
  X(kDrain, "drain")                  /* a person empties a server and takes it away */     \
  X(kOddRank, "odd-rank")             /* a rank that disagrees about the layout */          \
  X(kBuggify, "buggify")              /* rare but legal turns of production code */

#define GEMEL_SIM_FAULT_ENUM(symbol, name) symbol,
enum class Fault : uint8_t { GEMEL_SIM_FAULTS(GEMEL_SIM_FAULT_ENUM) kCount };
#undef GEMEL_SIM_FAULT_ENUM

inline constexpr size_t kFaultCount = static_cast<size_t>(Fault::kCount);

enum class Phase : uint8_t {
  kRestore,   // a job acquires its epoch, or restores
  kSave,      // the jobs save, with all copies
  kRepair,    // a server is away, or copies are missing
  kOverkill,  // more is lost than the placement tolerates
  kCount,
};

inline constexpr size_t kPhaseCount = static_cast<size_t>(Phase::kCount);

std::string_view NameOf(Fault fault);
std::string_view NameOf(Phase phase);
std::optional<Fault> FaultNamed(std::string_view name);

// How often each class has struck.
using FaultCounts = std::array<uint64_t, kFaultCount>;

class FaultLedger {
 public:
  void Add(Fault fault, Phase phase, uint64_t count);
  void Add(const FaultLedger& other);
  // What `now` counts beyond `before` struck in `phase`. REQUIRES: no count went down.
  void AddGrowth(const FaultCounts& before, const FaultCounts& now, Phase phase);

  uint64_t at(Fault fault, Phase phase) const;
  uint64_t Sum(Fault fault) const;
  uint64_t Total() const;
  size_t EmptyCells() const;

 private:
  std::array<std::array<uint64_t, kPhaseCount>, kFaultCount> cells_{};
};

}  // namespace gemel::sim

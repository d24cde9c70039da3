// SPDX-License-Identifier: Apache-2.0
//
// SlabPool: the memory that Gemel keeps, in slabs of one size, each a shared memory of its own.
//
// A slab is free, idle (held by one client process that may map it writable, without an object), or
// in use by one object. Its holder is one client process or the server. Slabs are made and
// populated in the background ahead of a watermark, so that a save seldom touches cold memory.
//
// Slabs outlive the server's process when a keeper holds them (server/keeper/): the next life takes
// them over with their numbers, generations and holders.
//
// Thread safety: one loop.
// Ownership: shared_ptr, because objects give their slabs back when their last user lets go, which
// may be a reply still being sent after the server stopped.
// Invariants:
//   (1) slabs() * slab_bytes <= memory_bytes; slabs are never unmapped and indices never reused;
//   (2) a slab that a client was given writable has that client as its holder until HolderDied():
//       only then may it be free or become the server's. The death is proven (ExitWatch), never
//       concluded from a closed connection;
//   (3) the generation of a slab grows each time it gets a new owner, also from life to life: its
//       upper half is the life that it was taken in;
//   (4) a client is forgotten only when it is dead, or has given up what it was given, and no entry
//       of the directory names it: a later life finds the process of every holder that it reads;
//   (5) after its loop was shut down the directory is not written: the objects that end with this
//       life are there for the next one.
// Errors: ResourceExhausted names what is asked for, held and the flag to raise.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

#include "common/bytes.h"
#include "common/metrics.h"
#include "common/sync.h"
#include "server/seams.h"
#include "server/slab_directory.h"

namespace gemel {

// One connection of a client process, never used again by this server's memory; kServerHolder is
// the server.
using HolderKey = uint64_t;
inline constexpr HolderKey kServerHolder = 0;
// Of a slab whose entry was torn: any client of a former life.
inline constexpr HolderKey kUnknownHolder = UINT64_MAX;
inline constexpr uint32_t kNoSlab = 0xffffffff;

// A slab as a former life of this server left it.
struct FormerSlab {
  std::shared_ptr<SharedHandle> memory;  // null: nobody kept it
  SlabEntry entry;
  bool torn = false;  // the entry cannot be read
};

// Memory that was kept over the death of a former life.
struct FormerMemory {
  uint64_t life = 0;                                           // 0: there was none
  std::vector<FormerSlab> slabs;                               // by number
  std::map<HolderKey, std::shared_ptr<SharedHandle>> clients;  // their processes, dead or alive
};

class SlabPool : public std::enable_shared_from_this<SlabPool> {
 public:
  struct Options {
    ServerId server;
    Incarnation incarnation;
    uint64_t life = 1;          // of this memory
    uint64_t slab_bytes = 0;    // REQUIRES: a multiple of kChunkBytes, <= kSlabBytesMax.
    uint64_t memory_bytes = 0;  // REQUIRES: >= slab_bytes.
  };

  // InvalidArgument for sizes that cannot be; ResourceExhausted when the machine has no memory.
  static absl::StatusOr<std::shared_ptr<SlabPool>> Create(const ServerSeams& seams,
                                                          const Options& options);

  // Takes over what a former life left, before anything else. Sealed extents stay in use and are
  // claimed by NewFormer() of the table or given back by Release(); all others are dropped. A slab
  // whose holder's process is not known is nobody's for the life of this server.
  // FailedPrecondition when there are more slabs than the budget has.
  absl::Status Inherit(const FormerMemory& former);

  // Called with each slab that is made, and with each client that is forgotten (4).
  void OnAdded(std::function<void(uint32_t)> added) { added_ = std::move(added); }

  void OnForgotten(std::function<void(HolderKey)> forgotten) { forgotten_ = std::move(forgotten); }

  // A client process; `pid` is a label for people.
  HolderKey AddHolder(uint64_t pid);
  // The process is known dead: its idle slabs are free, those in use are the server's (2).
  void HolderDied(HolderKey holder);
  // Both are connections of one process, and nothing of what `from` was given is mapped any more:
  // all of it is `to`'s.
  void MoveSlabs(HolderKey from, HolderKey to);
  // No process of a client of the former life lives: slabs of kUnknownHolder are free.
  void FormerClientsDied();

  bool holds(HolderKey holder) const { return living_.contains(holder); }

  // As it said, for people and tests; 0: not known.
  uint64_t PidOf(HolderKey holder) const;

  // Slabs for `bytes`, in use by the caller. Prefers idle ones of `holder`, then free ones.
  absl::StatusOr<std::vector<uint32_t>> Take(HolderKey holder, uint64_t bytes);
  // The slabs that Take(holder, bytes) would give, now idle and the holder's; fewer when the budget
  // is short. REQUIRES: holder is a client.
  std::vector<uint32_t> Prepare(HolderKey holder, uint64_t bytes);
  // The object is gone.
  void Release(uint32_t slab);

  // Populates the first slabs: before the server is ready.
  absl::Status WarmFirst();
  // Populates ahead of the watermark until `gate` closes.
  Task<void> KeepWarm(Gate* gate);

  MutableByteSpan bytes(uint32_t slab) const;
  std::shared_ptr<SharedHandle> memory(uint32_t slab) const;

  HolderKey holder(uint32_t slab) const { return At(slab).holder; }

  SlabState state(uint32_t slab) const { return At(slab).state; }

  uint64_t generation(uint32_t slab) const { return At(slab).generation; }

  // Writes the extent of an object into the directory; header fields are filled in here.
  void Describe(uint32_t slab, SlabEntry extent);

  ByteSpan directory() const { return directory_->bytes(); }

  std::shared_ptr<SharedHandle> directory_memory() const { return directory_->memory(); }

  uint64_t life() const { return options_.life; }

  uint32_t slabs() const { return static_cast<uint32_t>(slabs_.size()); }

  uint64_t slab_bytes() const { return options_.slab_bytes; }

  uint64_t capacity_bytes() const { return uint64_t{slabs_max_} * options_.slab_bytes; }

  uint64_t used_bytes() const;
  uint64_t idle_bytes() const;

 private:
  struct Slab {
    std::shared_ptr<SharedHandle> memory;
    std::unique_ptr<Mapping> mapping;
    SlabState state = SlabState::kFree;
    HolderKey holder = kServerHolder;
    HolderKey named = kServerHolder;  // by its entry
    uint64_t generation = 0;
    uint64_t warm_bytes = 0;  // populated so far; content may be anything
    bool shown = false;       // to the net
  };

  SlabPool(const ServerSeams& seams, const Options& options,
           std::unique_ptr<SlabDirectory> directory);

  absl::Status AddSlab();
  absl::Status InheritSlab(uint32_t slab, const FormerSlab& former);
  void MaybeForget(HolderKey holder);
  const Slab& At(uint32_t slab) const;
  void SetState(uint32_t slab, SlabState state, HolderKey holder);
  std::vector<uint32_t> Pick(HolderKey holder, uint64_t count);

  uint64_t CountIn(SlabState state) const { return counts_[static_cast<size_t>(state)]; }

  uint64_t WarmFreeBytes() const;
  uint32_t ColdFreeSlab() const;
  bool TouchStep(uint32_t slab);
  void ShowToNet(uint32_t slab);
  absl::Status NoMemory(HolderKey holder, uint64_t count) const;
  void SetGauges();

  const ServerSeams seams_;
  const Options options_;
  const uint32_t slabs_max_;
  const std::unique_ptr<SlabDirectory> directory_;
  Metric& used_gauge_;
  Metric& idle_gauge_;
  std::vector<Slab> slabs_;
  std::array<uint64_t, kSlabStates> counts_{};  // of slabs_, by state
  std::map<HolderKey, uint64_t> living_;        // client processes and their pids
  std::map<HolderKey, uint32_t> named_;         // how many entries name a holder
  bool unproven_ = false;                       // a former holder's process is not known
  HolderKey next_holder_ = 1;
  std::function<void(uint32_t)> added_;
  std::function<void(HolderKey)> forgotten_;
  uint64_t watermark_bytes_;
  WaitQueue taken_;
};

}  // namespace gemel

// SPDX-License-Identifier: Apache-2.0
//
// SlabPool: the memory that Gemel keeps, in slabs of one size, each a shared memory of its own.
//
// A slab is free, idle (held by one client process that may map it writable, without an object), or
// in use by one object. Its holder is one client process or the server. Slabs are made and
// populated in the background ahead of a watermark, so that a save seldom touches cold memory.
//
// Thread safety: one loop.
// Ownership: shared_ptr, because objects give their slabs back when their last user lets go, which
// may be a reply still being sent after the server stopped.
// Invariants:
//   (1) slabs() * slab_bytes <= memory_bytes; slabs are never unmapped and indices never reused;
//   (2) a slab that a client was given writable has that client as its holder until HolderDied():
//       only then may it be free or become the server's. The death is proven (ExitWatch), never
//       concluded from a closed connection;
//   (3) the generation of a slab grows each time it gets a new owner.
// Errors: ResourceExhausted names what is asked for, held and the flag to raise.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

#include "common/bytes.h"
#include "common/sync.h"
#include "server/seams.h"
#include "server/slab_directory.h"

namespace gemel {

// One client process, for the life of the server; kServerHolder is the server.
using HolderKey = uint64_t;
inline constexpr HolderKey kServerHolder = 0;
inline constexpr uint32_t kNoSlab = 0xffffffff;

class SlabPool : public std::enable_shared_from_this<SlabPool> {
 public:
  struct Options {
    ServerId server;
    Incarnation incarnation;
    uint64_t slab_bytes = 0;    // REQUIRES: a multiple of kChunkBytes, <= kSlabBytesMax.
    uint64_t memory_bytes = 0;  // REQUIRES: >= slab_bytes.
  };

  // InvalidArgument for sizes that cannot be; ResourceExhausted when the machine has no memory.
  static absl::StatusOr<std::shared_ptr<SlabPool>> Create(const ServerSeams& seams,
                                                          const Options& options);

  // A client process; `pid` is a label for people and for the directory.
  HolderKey AddHolder(uint64_t pid);
  // The process is known dead: its idle slabs are free, those in use are the server's (2).
  void HolderDied(HolderKey holder);

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
    uint64_t generation = 0;
    uint64_t warm_bytes = 0;  // populated so far; content may be anything
  };

  SlabPool(const ServerSeams& seams, const Options& options,
           std::unique_ptr<SlabDirectory> directory);

  absl::Status AddSlab();
  const Slab& At(uint32_t slab) const;
  void SetState(uint32_t slab, SlabState state, HolderKey holder);
  std::vector<uint32_t> Pick(HolderKey holder, uint64_t count);
  uint64_t CountIn(SlabState state) const;
  uint64_t WarmFreeBytes() const;
  uint32_t ColdFreeSlab() const;
  bool TouchStep(uint32_t slab);
  absl::Status NoMemory(HolderKey holder, uint64_t count) const;
  void SetGauges();

  const ServerSeams seams_;
  const Options options_;
  const uint32_t slabs_max_;
  const std::unique_ptr<SlabDirectory> directory_;
  std::vector<Slab> slabs_;
  std::map<HolderKey, uint64_t> living_;  // client processes and their pids
  HolderKey next_holder_ = 1;
  uint64_t watermark_bytes_;
  WaitQueue taken_;
};

}  // namespace gemel

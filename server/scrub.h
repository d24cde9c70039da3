// SPDX-License-Identifier: Apache-2.0
//
// Scrub: reads again, slowly and for ever, what this server keeps, so that a byte that changed is
// found while another copy is good. In memory every sealed object is hashed against its digests; on
// disk every shard is read. What is damaged is no source any more, and placement is told.
//
//   memory   a chunk at a time in the order of shards, so fast that a pass over what is used takes
//            `memory_pass`, bounded by bytes a second; while clients or peers write, steps are put
//            off by up to kScrubDeferMax
//   disk     the same with the persistent tier, one read at a time
//
// Thread safety: one loop.
// Ownership: borrows its parts. RunMemory() and RunDisk() are spawned by the server and end when
// the gate closes. An object is shared while its chunk is hashed; it may be dropped meanwhile.
// Invariant: an object that is scrubbed damaged is told once: it is not in the table any more.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "common/sync.h"
#include "server/objects.h"
#include "server/seams.h"
#include "server/tier.h"

namespace gemel {

struct ScrubOptions {
  Duration memory_pass = 10min;  // zero: never
  uint64_t memory_bytes_per_second_max = 512 * kMiB;
  Duration disk_pass = 24h;  // zero: never
  uint64_t disk_bytes_per_second_max = 32 * kMiB;
};

class Scrub {
 public:
  using Corrupt = std::function<void(const std::shared_ptr<Object>&, const absl::Status&)>;
  using Busy = std::function<bool()>;

  struct Parts {
    const ObjectTable* objects = nullptr;
    const SlabPool* pool = nullptr;
    Tier* tier = nullptr;
  };

  Scrub(const ServerSeams& seams, const Parts& parts, const ScrubOptions& options);

  // REQUIRES: both are set before it runs.
  void OnCorrupt(Corrupt corrupt) { corrupt_ = std::move(corrupt); }

  void SetBusy(Busy busy) { busy_ = std::move(busy); }

  Task<void> RunMemory(Gate* gate);
  Task<void> RunDisk(Gate* gate);

 private:
  // Where a pass is, and how many bytes may be read by now.
  struct Walk {
    std::optional<ShardId> shard;  // none: at the beginning
    uint32_t chunk = 0;            // the next of it
    int64_t tokens = 0;
    TimePoint at{};
    TimePoint deferred_since{};
    bool deferred = false;
  };

  static uint64_t RateOf(uint64_t bytes, Duration pass, uint64_t bytes_per_second_max);
  static Duration PauseOf(uint64_t rate);
  void Earn(Walk* walk, uint64_t rate) const;
  bool Defer(Walk* walk) const;
  std::shared_ptr<Object> NextObject(Walk* walk);
  bool CheckNextChunk(Walk* walk);
  bool NextOnDisk(Walk* walk, PersistedShard* shard);
  Task<bool> ReadNextChunk(Walk* walk);

  const ServerSeams seams_;
  const Parts parts_;
  const ScrubOptions options_;
  Corrupt corrupt_;
  Busy busy_;
  Metric& bytes_;
  Metric& passes_;
  Metric& memory_corruptions_;
  Metric& disk_bytes_;
  Metric& disk_passes_;
  Metric& disk_corruptions_;
};

}  // namespace gemel

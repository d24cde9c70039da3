// SPDX-License-Identifier: Apache-2.0
//
// What the tests of client/archive share: time that a test turns, files that fail, and a
// snapshot in memory.
//
// Thread safety: one thread.
#pragma once

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "client/archive/layout.h"
#include "client/archive/pace.h"
#include "client/archive/snapshot_source.h"
#include "common/check.h"
#include "common/errors.h"
#include "common/file_calls.h"
#include "common/random.h"

namespace gemel::archive {

class FakePace final : public Pace {
 public:
  TimePoint Now() const override { return now; }

  void Pause(Duration duration) override { now = Add(now, duration); }

  bool stopping() override { return stop_after >= 0 && looks++ >= stop_after; }

  TimePoint now;
  int looks = 0;
  int stop_after = -1;  // looks at stopping() that say no; -1: all
};

// Fails after some calls, and does not wait for the disk; ENOSPC of a write leaves what was written
// before.
class FailingCalls final : public FileCalls {
 public:
  ssize_t Write(int fd, ByteSpan bytes) override {
    if (writes_left == 0) {
      errno = write_error;
      return -1;
    }
    writes_left -= 1;
    return FileCalls::Write(fd, bytes);
  }

  int Sync(int /*fd*/) override {
    if (syncs_left == 0) {
      errno = EIO;
      return -1;
    }
    syncs_left -= 1;
    return 0;  // what is synced is not what these tests are about; a real one takes milliseconds
  }

  int writes_left = -1;  // -1: all succeed
  int syncs_left = -1;
  int write_error = ENOSPC;
};

// Shards of random bytes with the given entries.
class MemorySource final : public SnapshotSource {
 public:
  MemorySource(std::string name, uint64_t sequence, std::vector<std::vector<LayoutEntry>> entries) {
    facts_.cluster = std::string(32, 'c');
    facts_.job = "gpt";
    facts_.name = std::move(name);
    facts_.epoch_generation = 1;
    facts_.epoch_counter = 2;
    facts_.sequence = sequence;
    Random random(sequence);
    for (uint32_t rank = 0; rank < entries.size(); ++rank) {
      ShardLayout layout;
      layout.rank = rank;
      layout.world_size = static_cast<uint32_t>(entries.size());
      layout.layout_hash.fill(7);
      layout.entries = std::move(entries[rank]);
      GEMEL_CHECK(PlaceEntries(&layout).ok());
      std::string shard = EncodeLayout(layout);
      shard.resize(layout.shard_bytes, '\0');
      for (const LayoutEntry& entry : layout.entries) {
        for (uint64_t i = 0; i < entry.data_bytes; ++i) {
          shard[entry.data_offset + i] = static_cast<char>(random.Next());
        }
      }
      facts_.shards.push_back({std::string(32, 'a'), shard.size(), layout.layout_bytes});
      layouts.push_back(std::move(layout));
      shards.push_back(std::move(shard));
    }
  }

  const SnapshotFacts& facts() const override { return facts_; }

  absl::Status Read(std::span<const Range> ranges) override {
    for (const Range& range : ranges) {
      if (fail_after >= 0 && reads++ >= fail_after) {
        return error::Unavailable("the source is gone");
      }
      GEMEL_CHECK_LE(range.offset + range.size, shards[range.shard].size());
      std::memcpy(range.destination, shards[range.shard].data() + range.offset, range.size);
      bytes_read += range.size;
    }
    return absl::OkStatus();
  }

  // The whole tensor, element by element.
  std::string Whole(const std::string& name) const {
    std::string whole;
    for (const ShardLayout& layout : layouts) {
      for (const LayoutEntry& entry : layout.entries) {
        if (entry.name == name) {
          Place(entry, shards[layout.rank], &whole);
        }
      }
    }
    return whole;
  }

  std::vector<ShardLayout> layouts;
  std::vector<std::string> shards;
  int fail_after = -1;
  int reads = 0;
  uint64_t bytes_read = 0;

 private:
  static void Place(const LayoutEntry& entry, const std::string& shard, std::string* whole) {
    const uint64_t item = ItemBytes(entry.dtype);
    uint64_t elements = 1;
    for (const Dim& dim : entry.dims) {
      elements *= dim.full;
    }
    whole->resize(elements * item);
    for (uint64_t i = 0; i * item < entry.data_bytes; ++i) {
      uint64_t rest = i;
      uint64_t at = 0;
      uint64_t stride = 1;
      for (size_t d = entry.dims.size(); d-- > 0;) {
        at += (entry.dims[d].offset + rest % entry.dims[d].size) * stride;
        rest /= entry.dims[d].size;
        stride *= entry.dims[d].full;
      }
      std::memcpy(whole->data() + at * item, shard.data() + entry.data_offset + i * item, item);
    }
  }

  SnapshotFacts facts_;
};

inline LayoutEntry Piece(std::string name, Dtype dtype, std::vector<Dim> dims) {
  uint64_t bytes = ItemBytes(dtype);
  for (const Dim& dim : dims) {
    bytes *= dim.size;
  }
  return {std::move(name), dtype, std::move(dims), 0, bytes};
}

inline LayoutEntry Bytes(std::string name, uint64_t bytes) {
  return {std::move(name), Dtype::kNone, {}, 0, bytes};
}

// A small job of two ranks: rows, columns, a scalar, replicas, a dtype that safetensors lacks.
inline MemorySource TwoRanks(uint64_t sequence = 12) {
  return MemorySource(
      "7", sequence,
      {{Bytes("values/common", 100), Bytes("values/rank", 33),
        Piece("model/rows", Dtype::kFloat32, {{5, 0, 3}, {7, 0, 7}}),
        Piece("model/columns", Dtype::kBfloat16, {{6, 0, 6}, {9, 0, 4}}),
        Piece("model/both", Dtype::kUint8, {{3, 1, 2}}),
        Piece("optim/state.rows.step", Dtype::kFloat32, {})},
       {Bytes("values/rank", 35), Piece("model/rows", Dtype::kFloat32, {{5, 3, 2}, {7, 0, 7}}),
        Piece("model/columns", Dtype::kBfloat16, {{6, 0, 6}, {9, 4, 5}}),
        Piece("model/both", Dtype::kUint8, {{3, 0, 1}}),
        Piece("optim/state.c", Dtype::kComplex128, {{4, 0, 4}})}});
}

}  // namespace gemel::archive

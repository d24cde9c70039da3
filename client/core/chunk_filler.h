// SPDX-License-Identifier: Apache-2.0
//
// ChunkFiller: the caller's side of staging a shard. Copies bytes into the slabs and hashes each
// chunk in the same pass (common/xxh3.h), without a system call; the loop's side watches filled().
// From an accelerator's memory the device copies, and each piece is hashed as soon as it is here.
//
// Thread safety: the Append functions from one thread at a time; filled() and digest(i < filled())
// from any.
// Ownership: places are mapped slabs kept alive by the writer.
// Invariants:
//   (1) filled() only grows; digests below it never change;
//   (2) bytes are appended in order, each once; after complete() nothing is accepted.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "absl/status/status.h"

#include "client/core/device.h"
#include "common/bytes.h"
#include "common/digest.h"
#include "common/xxh3.h"

namespace gemel {

class ChunkFiller {
 public:
  // `places` in order make up `bytes`; each but the last holds whole chunks.
  ChunkFiller(const std::vector<MutableByteSpan>& places, uint64_t bytes);

  // InvalidArgument, naming both sizes, when more than the shard's bytes come.
  absl::Status Append(ByteSpan source);
  // The same for a caller who says where: InvalidArgument when that is not where it goes on.
  absl::Status AppendAt(uint64_t offset, ByteSpan source);
  // The same from a device's memory; when it returns nothing is under way. The device's error when
  // a copy fails: what was hashed by then stays appended, and the shard is to be given up.
  absl::Status AppendFrom(DeviceStream* device, uint64_t offset, ByteSpan source);

  uint32_t filled() const { return filled_.load(std::memory_order_acquire); }

  const Digest128& digest(uint32_t chunk) const { return digests_[chunk]; }

  const std::vector<Digest128>& digests() const { return digests_; }

  uint64_t appended() const { return appended_; }

  bool complete() const { return filled() == chunks_.size(); }

 private:
  absl::Status CheckNext(uint64_t offset, uint64_t size) const;
  absl::Status AppendPieces(DeviceStream* device, ByteSpan source);
  MutableByteSpan PieceAt(uint64_t at, uint64_t end) const;
  void Landed(MutableByteSpan piece);
  size_t AppendWithin(ByteSpan source);
  void Publish(uint32_t chunk, const Digest128& digest);

  const uint64_t bytes_;
  std::vector<MutableByteSpan> chunks_;
  std::vector<Digest128> digests_;
  Xxh3Stream stream_;  // of the chunk that is partly filled
  uint64_t appended_ = 0;
  std::atomic<uint32_t> filled_{0};
};

}  // namespace gemel

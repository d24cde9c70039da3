// SPDX-License-Identifier: Apache-2.0
//
// XXH3-128 (seed 0, default secret) of bytes: one call, a stream, and fused with a copy.
//
// The hash is compiled once for each instruction set; the best one for the processor is chosen at
// run time, once. All variants give the same digest, so the choice never shows in stored bytes.
//
// Thread safety: functions are pure (CopyAndDigest writes dst only); a Xxh3Stream belongs to one
// thread at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "common/digest.h"
#include "common/xxh3_kernel.h"

namespace gemel {

enum class Xxh3Isa : uint8_t {
  kBaseline = 0,  // what the compiler may assume: SSE2 on x86-64
  kAvx2 = 1,
  kAvx512 = 2,
};

std::string_view Xxh3IsaName(Xxh3Isa isa);

// Every instruction set this processor runs, kBaseline first. Lives for ever.
std::span<const Xxh3Isa> SupportedXxh3Isas();

// The one the functions without an `isa` use.
Xxh3Isa PreferredXxh3Isa();

// NOLINTNEXTLINE(readability-identifier-naming)
Digest128 Xxh3_128(std::span<const std::byte> data);

// Copies n bytes and returns their digest: each 4 KiB step is read from memory once, hashed, and
// stored while it is in the first-level cache. From
// kStreamingCopyBytesMin on the stores bypass the cache, which saves reading the destination in;
// they are ordered before any later store of this thread.
//
// The source must not change during the call: the digest may then differ from what was stored,
// which the holder's own hash finds at seal.
// REQUIRES: the ranges do not overlap; pointers may be null only when n is 0; no alignment needed.
Digest128 CopyAndDigest(void* dst, const void* src, size_t n);

// As above with a given instruction set, for tests and benchmarks.
// REQUIRES: `isa` is in SupportedXxh3Isas().
// NOLINTNEXTLINE(readability-identifier-naming)
Digest128 Xxh3_128(std::span<const std::byte> data, Xxh3Isa isa);
Digest128 CopyAndDigest(void* dst, const void* src, size_t n, Xxh3Isa isa);

// The digest of the concatenation of all updates, whatever their sizes.
//
// Invariants:
//   (1) the state lies at a multiple of kXxh3StateAlignment wherever the object lies: a coroutine
//       frame does not honour alignas, so the object carries the slack and may not move.
//   (2) no update after Finish() before the next Reset().
class Xxh3Stream {
 public:
  Xxh3Stream();
  explicit Xxh3Stream(Xxh3Isa isa);  // REQUIRES: `isa` is in SupportedXxh3Isas().
  Xxh3Stream(const Xxh3Stream&) = delete;
  Xxh3Stream& operator=(const Xxh3Stream&) = delete;

  void Update(std::span<const std::byte> data);
  // The same, and copies n bytes as CopyAndDigest() does, with what it requires.
  void CopyAndUpdate(void* dst, const void* src, size_t n);
  Digest128 Finish();
  void Reset();

 private:
  void* State();

  const internal::Xxh3Kernel* kernel_;
  bool finished_ = false;
  std::byte storage_[internal::kXxh3StateBytes + internal::kXxh3StateAlignment];
};

}  // namespace gemel

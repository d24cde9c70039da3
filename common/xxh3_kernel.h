// SPDX-License-Identifier: Apache-2.0
//
// Xxh3Kernel: XXH3-128 compiled for one instruction set, as a table of functions.
//
// The sources that define the tables are compiled with wider instruction sets than the rest. An
// inline function or a template of theirs that the linker kept for everybody would crash an older
// processor, so they include this header, <xxhash.h> inlined as static functions, and nothing
// else: plain structs, C types, no standard library, no check macros. Argument checks are in
// xxh3.cc.
//
// Thread safety: tables are constant; functions touch only what they are given.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace gemel::internal {

inline constexpr size_t kXxh3StateBytes = 576;
inline constexpr size_t kXxh3StateAlignment = 64;

// Copies of this size and more use stores that bypass the cache. Measured on Zen 4, 1 MiB chunks of
// 256 MiB: 1.5 x memcpy with such stores, 1.05 x without.
inline constexpr size_t kStreamingCopyBytesMin = size_t{256} << 10;

// A step is hashed, then stored from the first-level cache. 16 KiB and more cost a quarter.
inline constexpr size_t kCopyStepBytes = size_t{4} << 10;

struct Xxh3Words {
  uint64_t low;
  uint64_t high;
};

struct Xxh3Kernel {
  Xxh3Words (*hash)(const void* data, size_t size);
  Xxh3Words (*copy_and_hash)(void* dst, const void* src, size_t size);
  // `state`: kXxh3StateBytes at a multiple of kXxh3StateAlignment.
  void (*reset)(void* state);
  void (*update)(void* state, const void* data, size_t size);
  void (*copy_and_update)(void* state, void* dst, const void* src, size_t size);
  Xxh3Words (*finish)(const void* state);
};

extern const Xxh3Kernel kXxh3Baseline;
#if defined(__x86_64__)
extern const Xxh3Kernel kXxh3Avx2;    // REQUIRES: a processor with AVX2.
extern const Xxh3Kernel kXxh3Avx512;  // REQUIRES: a processor with AVX-512 F, BW and VL.
#endif

}  // namespace gemel::internal

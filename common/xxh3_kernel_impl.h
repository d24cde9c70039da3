// SPDX-License-Identifier: Apache-2.0
//
// The body of every Xxh3Kernel, included once by the source of each instruction set; the compiler's
// flags choose the variant. Everything is static inline (see xxh3_kernel.h for why).
#pragma once

#define XXH_INLINE_ALL
#include <string.h>
#include <xxhash.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "common/xxh3_kernel.h"

namespace gemel::internal {

static_assert(sizeof(XXH3_state_t) == kXxh3StateBytes);
static_assert(alignof(XXH3_state_t) == kXxh3StateAlignment);

inline constexpr size_t kCacheLineBytes = 64;
static_assert(kCopyStepBytes % kCacheLineBytes == 0);
static_assert(kStreamingCopyBytesMin >= kCopyStepBytes + kCacheLineBytes);

static inline void Require(XXH_errorcode code) {
  if (code != XXH_OK) __builtin_trap();
}

static inline Xxh3Words ToWords(XXH128_hash_t hash) { return Xxh3Words{hash.low64, hash.high64}; }

static inline Xxh3Words KernelHash(const void* data, size_t size) {
  return ToWords(XXH3_128bits(data, size));
}

static inline void KernelReset(void* state) {
  Require(XXH3_128bits_reset(static_cast<XXH3_state_t*>(state)));
}

static inline void KernelUpdate(void* state, const void* data, size_t size) {
  Require(XXH3_128bits_update(static_cast<XXH3_state_t*>(state), data, size));
}

static inline Xxh3Words KernelFinish(const void* state) {
  return ToWords(XXH3_128bits_digest(static_cast<const XXH3_state_t*>(state)));
}

// Stores one cache line past the cache. REQUIRES: dst is a multiple of kCacheLineBytes.
static inline void StreamLine(unsigned char* dst, const unsigned char* src) {
#if defined(__AVX512F__)
  _mm512_stream_si512(reinterpret_cast<__m512i*>(dst), _mm512_loadu_si512(src));
#elif defined(__AVX2__)
  const __m256i first = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(src));
  const __m256i second = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(src + 32));
  _mm256_stream_si256(reinterpret_cast<__m256i*>(dst), first);
  _mm256_stream_si256(reinterpret_cast<__m256i*>(dst + 32), second);
#elif defined(__x86_64__)
  for (size_t i = 0; i < kCacheLineBytes; i += 16) {
    const __m128i part = _mm_loadu_si128(reinterpret_cast<const __m128i*>(src + i));
    _mm_stream_si128(reinterpret_cast<__m128i*>(dst + i), part);
  }
#else
  memcpy(dst, src, kCacheLineBytes);
#endif
}

static inline void StreamFence() {
#if defined(__x86_64__)
  _mm_sfence();
#endif
}

// `ahead` is how many bytes of the source follow the step: asked for while this one is stored, as
// the processor's own prefetcher ends at the page.
static inline void CopyStep(unsigned char* dst, const unsigned char* src, size_t size, size_t ahead,
                            bool stream) {
  size_t done = 0;
  if (stream) {
    for (; size - done >= kCacheLineBytes; done += kCacheLineBytes) {
      if (done < ahead) __builtin_prefetch(src + size + done);
      StreamLine(dst + done, src + done);
    }
  }
  if (done < size) memcpy(dst + done, src + done, size - done);
}

static inline void KernelCopyAndUpdate(void* state, void* dst, const void* src, size_t size) {
  auto* to = static_cast<unsigned char*>(dst);
  const auto* from = static_cast<const unsigned char*>(src);
  const bool stream = size >= kStreamingCopyBytesMin;
  // The first step also brings dst to a cache line, so that all others start on one.
  const size_t head = stream ? (0 - reinterpret_cast<uintptr_t>(to)) % kCacheLineBytes : 0;
  if (head > 0) {
    KernelUpdate(state, from, head);
    memcpy(to, from, head);
  }
  for (size_t done = head; done < size;) {
    const size_t left = size - done;
    const size_t step = left < kCopyStepBytes ? left : kCopyStepBytes;
    KernelUpdate(state, from + done, step);
    CopyStep(to + done, from + done, step, left - step, stream);
    done += step;
  }
  if (stream) StreamFence();
}

static inline Xxh3Words KernelCopyAndHash(void* dst, const void* src, size_t size) {
  XXH3_state_t state;
  KernelReset(&state);
  KernelCopyAndUpdate(&state, dst, src, size);
  return KernelFinish(&state);
}

static constexpr Xxh3Kernel MakeKernel() {
  return Xxh3Kernel{KernelHash,   KernelCopyAndHash,   KernelReset,
                    KernelUpdate, KernelCopyAndUpdate, KernelFinish};
}

}  // namespace gemel::internal

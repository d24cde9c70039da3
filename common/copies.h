// SPDX-License-Identifier: Apache-2.0
//
// Copies of state, counted: bytes of shards that code of ours moved from one place in this
// process's memory to another. What the kernel copies in and out of a socket is the wire and is not
// among them; nor are headers, tables and digests, but where a fabric carries them with the rest.
//
// In server/, client/core and transport/ bytes are copied by CopyState() and nothing else
// (tests/tidy, rule "copy"), so that no copy is forgotten here.
//
// Thread safety: any thread. The count is the process's: it only grows.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace gemel {

namespace internal {
inline std::atomic<uint64_t> copied_bytes{0};
}  // namespace internal

inline uint64_t CopiedBytes() { return internal::copied_bytes.load(std::memory_order_relaxed); }

// For a copy that is made by other means, as one that hashes meanwhile.
inline void CountCopied(uint64_t bytes) {
  internal::copied_bytes.fetch_add(bytes, std::memory_order_relaxed);
}

// memcpy(), counted. REQUIRES: as memcpy(): the ranges do not overlap.
inline void CopyState(void* to, const void* from, size_t bytes) {
  std::memcpy(to, from, bytes);
  CountCopied(bytes);
}

}  // namespace gemel

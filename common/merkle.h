// SPDX-License-Identifier: Apache-2.0
//
// The root digest of an object: binds the digests of its chunks to whose they are, what they are
// called, where they lie and how much there is. A chunk's own digest covers content only (so equal
// content has equal digests everywhere); right bytes in the wrong place fail here.
//
// All hashes are XXH3-128 over these bytes; integers little-endian, no padding:
//
//   leaf      "GMLF" u8 version  digest[16]  u32 owner_bytes owner  u32 name_bytes name
//             u64 offset  u32 length
//   inner     "GMIN" u8 version  left[16]  right[16]
//   promoted  "GMOD" u8 version  node[16]
//   root      "GMRT" u8 version  u64 chunks  u64 object_bytes  u32 chunk_bytes
//             u32 owner_bytes owner  u32 name_bytes name  top[16]
//
// Leaves stand in order of offset. Each level pairs neighbours from the left into inner nodes; a
// last node without a neighbour becomes a promoted node, so that no tree of n leaves looks like one
// of n + 1 with the last repeated. `top` is the node that is left, or 16 zero bytes with 0 chunks.
// Each field has a failure it is there for: tags keep a leaf from passing for a node; lengths
// before strings keep "ab"+"c" from "a"+"bc"; chunks and object_bytes stop truncation and
// extension.
//
// Thread safety: pure functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "common/digest.h"

namespace gemel {

inline constexpr uint8_t kMerkleVersion = 1;

// Owner and name are each at most this long; callers refuse longer ones where they come in.
inline constexpr size_t kMerkleLabelBytesMax = 4096;

// One chunk in its place.
struct ChunkLeaf {
  Digest128 digest;     // of the chunk's content
  uint64_t offset = 0;  // bytes from the start of the object
  uint32_t length = 0;  // bytes; below the object's chunk_bytes only in its last chunk
};

// ceil(object_bytes / chunk_bytes). REQUIRES: chunk_bytes > 0.
uint64_t ChunkCount(uint64_t object_bytes, uint32_t chunk_bytes);

// Where chunk `index` of such an object lies. REQUIRES: index < ChunkCount(...).
ChunkLeaf LeafAt(uint64_t index, const Digest128& digest, uint64_t object_bytes,
                 uint32_t chunk_bytes);

// REQUIRES: labels within kMerkleLabelBytesMax; leaf.length > 0.
Digest128 MerkleLeaf(std::string_view owner, std::string_view name, const ChunkLeaf& leaf);

// REQUIRES: chunk_digests.size() == ChunkCount(object_bytes, chunk_bytes), labels within
// kMerkleLabelBytesMax, chunk_bytes > 0. An object of zero bytes has no chunks and a root.
// Memory: 16 bytes a chunk.
Digest128 MerkleRoot(std::string_view owner, std::string_view name,
                     std::span<const Digest128> chunk_digests, uint64_t object_bytes,
                     uint32_t chunk_bytes);

}  // namespace gemel

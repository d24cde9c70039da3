// SPDX-License-Identifier: Apache-2.0
#include "common/merkle.h"

#include <string>
#include <utility>
#include <vector>

#include "common/check.h"
#include "common/xxh3.h"

namespace gemel {
namespace {

constexpr std::string_view kLeafTag = "GMLF";
constexpr std::string_view kInnerTag = "GMIN";
constexpr std::string_view kPromotedTag = "GMOD";
constexpr std::string_view kRootTag = "GMRT";

// The bytes of one hashed record. Sizes are small: labels are bounded.
class Record {
 public:
  explicit Record(std::string_view tag) : bytes_(tag) {
    bytes_.push_back(static_cast<char>(kMerkleVersion));
  }

  void PutU32(uint32_t value) { PutLittleEndian(value, sizeof(value)); }

  void PutU64(uint64_t value) { PutLittleEndian(value, sizeof(value)); }

  void PutDigest(const Digest128& digest) {
    char encoded[kDigestBytes];
    EncodeDigest(digest, encoded);
    bytes_.append(encoded, kDigestBytes);
  }

  void PutLabel(std::string_view label) {
    GEMEL_CHECK_LE(label.size(), kMerkleLabelBytesMax);
    PutU32(static_cast<uint32_t>(label.size()));
    bytes_.append(label);
  }

  Digest128 Hash() const { return Xxh3_128(std::as_bytes(std::span(bytes_))); }

 private:
  void PutLittleEndian(uint64_t value, size_t size) {
    for (size_t i = 0; i < size; ++i) bytes_.push_back(static_cast<char>(value >> (8 * i)));
  }

  std::string bytes_;
};

Digest128 InnerNode(const Digest128& left, const Digest128& right) {
  Record record(kInnerTag);
  record.PutDigest(left);
  record.PutDigest(right);
  return record.Hash();
}

Digest128 PromotedNode(const Digest128& node) {
  Record record(kPromotedTag);
  record.PutDigest(node);
  return record.Hash();
}

// Folds a level in place until one node is left. Zero for no nodes.
Digest128 FoldLevels(std::vector<Digest128> nodes) {
  if (nodes.empty()) return Digest128{};
  while (nodes.size() > 1) {
    const size_t pairs = nodes.size() / 2;
    const bool odd = nodes.size() % 2 != 0;
    for (size_t i = 0; i < pairs; ++i) nodes[i] = InnerNode(nodes[2 * i], nodes[2 * i + 1]);
    if (odd) nodes[pairs] = PromotedNode(nodes.back());
    nodes.resize(pairs + (odd ? 1 : 0));
  }
  GEMEL_CHECK_EQ(nodes.size(), size_t{1});
  return nodes.front();
}

}  // namespace

uint64_t ChunkCount(uint64_t object_bytes, uint32_t chunk_bytes) {
  GEMEL_CHECK_GT(chunk_bytes, uint32_t{0}) << "object of " << object_bytes << " bytes";
  return object_bytes / chunk_bytes + (object_bytes % chunk_bytes != 0 ? 1 : 0);
}

ChunkLeaf LeafAt(uint64_t index, const Digest128& digest, uint64_t object_bytes,
                 uint32_t chunk_bytes) {
  GEMEL_CHECK_LT(index, ChunkCount(object_bytes, chunk_bytes)) << "of " << object_bytes << " bytes";
  const uint64_t offset = index * chunk_bytes;
  const uint64_t left = object_bytes - offset;
  GEMEL_CHECK_GT(left, uint64_t{0});
  const uint32_t length = left < chunk_bytes ? static_cast<uint32_t>(left) : chunk_bytes;
  return ChunkLeaf{.digest = digest, .offset = offset, .length = length};
}

Digest128 MerkleLeaf(std::string_view owner, std::string_view name, const ChunkLeaf& leaf) {
  GEMEL_CHECK_GT(leaf.length, uint32_t{0}) << "chunk at " << leaf.offset;
  Record record(kLeafTag);
  record.PutDigest(leaf.digest);
  record.PutLabel(owner);
  record.PutLabel(name);
  record.PutU64(leaf.offset);
  record.PutU32(leaf.length);
  return record.Hash();
}

Digest128 MerkleRoot(std::string_view owner, std::string_view name,
                     std::span<const Digest128> chunk_digests, uint64_t object_bytes,
                     uint32_t chunk_bytes) {
  GEMEL_CHECK_EQ(chunk_digests.size(), ChunkCount(object_bytes, chunk_bytes))
      << "chunks of an object of " << object_bytes << " bytes";
  std::vector<Digest128> leaves;
  leaves.reserve(chunk_digests.size());
  for (size_t i = 0; i < chunk_digests.size(); ++i) {
    const ChunkLeaf leaf = LeafAt(i, chunk_digests[i], object_bytes, chunk_bytes);
    leaves.push_back(MerkleLeaf(owner, name, leaf));
  }
  const Digest128 top = FoldLevels(std::move(leaves));

  Record root(kRootTag);
  root.PutU64(chunk_digests.size());
  root.PutU64(object_bytes);
  root.PutU32(chunk_bytes);
  root.PutLabel(owner);
  root.PutLabel(name);
  root.PutDigest(top);
  return root.Hash();
}

}  // namespace gemel

// SPDX-License-Identifier: Apache-2.0
//
// SlabDirectory: what lies in which slab, in a memory of its own that no client receives
// (docs/formats/slabs.md): for each slab a header with its extent and the seal record of its
// object. A keeper process that holds this memory and the slabs can hand both to a restarted
// server, which re-hashes every sealed object against its root before it believes any of it.
//
// Layout: one header of kSlabDirectoryHeaderBytes, then one entry of kSlabEntryBytes for each slab.
// Each ends its used bytes in a CRC32C, so an entry that a crash tore is seen and counts as empty.
//
// Thread safety: one loop.
// Ownership: owns memory and mapping.
// Errors of ReadSlabDirectory(): InvalidArgument for anything that is no directory; a torn entry is
// not an error of the whole: it comes back with `torn`.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

#include "common/bytes.h"
#include "common/digest.h"
#include "common/ids.h"
#include "transport/host.h"

namespace gemel {

inline constexpr uint32_t kSlabDirectoryMagic = 0x44534d47;  // "GMSD" in memory
inline constexpr uint32_t kSlabEntryMagic = 0x4c534d47;      // "GMSL"
inline constexpr uint8_t kSlabDirectoryVersion = 2;
inline constexpr size_t kSlabDirectoryHeaderBytes = 128;
inline constexpr size_t kSlabEntryBytes = 512;

enum class SlabState : uint8_t { kFree = 0, kIdle = 1, kInUse = 2 };
inline constexpr size_t kSlabStates = 3;
enum class SlabClass : uint8_t { kNone = 0, kSnapshot = 1, kRestore = 2 };

inline bool IsValid(SlabState value) { return value <= SlabState::kInUse; }

inline bool IsValid(SlabClass value) { return value <= SlabClass::kRestore; }

struct SlabDirectoryHeader {
  ServerId server;
  Incarnation incarnation;
  uint64_t life = 1;  // of the server with this memory: one more each time it is taken over
  uint64_t slab_bytes = 0;
  uint32_t slabs = 0;  // entries that follow

  friend bool operator==(const SlabDirectoryHeader&, const SlabDirectoryHeader&) = default;
};

// One slab and the one extent in it: a slab belongs to one object at a time.
struct SlabEntry {
  uint32_t slab = 0;
  SlabState state = SlabState::kFree;
  SlabClass slab_class = SlabClass::kNone;
  bool sealed = false;
  uint64_t generation = 0;  // lives of this slab so far
  uint64_t holder = 0;      // key of the client that may map it writable; 0: the server
  ShardId shard;            // of the object, when kInUse
  EpochToken token;
  uint64_t offset = 0;  // of this extent in the object
  uint64_t length = 0;  // bytes of the object in this slab
  uint64_t object_bytes = 0;
  uint64_t layout_bytes = 0;
  Digest128 root;  // when sealed

  friend bool operator==(const SlabEntry&, const SlabEntry&) = default;
};

struct SlabDirectoryContent {
  SlabDirectoryHeader header;
  std::vector<SlabEntry> entries;  // sound ones, in order of slab
  std::vector<uint32_t> torn;      // slabs whose entry fails its checksum
};

// The bytes of one entry or header, as they lie in memory. CHECKs that they fit.
std::string EncodeSlabEntry(const SlabEntry& entry);
std::string EncodeSlabDirectoryHeader(const SlabDirectoryHeader& header);

// InvalidArgument naming the field.
absl::StatusOr<SlabEntry> DecodeSlabEntry(std::string_view raw);
absl::StatusOr<SlabDirectoryHeader> DecodeSlabDirectoryHeader(std::string_view raw);

// Total: any bytes give a content or an error.
absl::StatusOr<SlabDirectoryContent> ReadSlabDirectory(ByteSpan memory);

class SlabDirectory {
 public:
  // ResourceExhausted as Host::CreateMemory. REQUIRES: header.slabs > 0.
  static absl::StatusOr<std::unique_ptr<SlabDirectory>> Create(Host* host,
                                                               const SlabDirectoryHeader& header);

  // REQUIRES: entry.slab < slabs of the header.
  void Write(const SlabEntry& entry);

  ByteSpan bytes() const { return mapping_->bytes(); }

  const std::shared_ptr<SharedHandle>& memory() const { return memory_; }

 private:
  SlabDirectory(std::shared_ptr<SharedHandle> memory, std::unique_ptr<Mapping> mapping,
                uint32_t slabs)
      : memory_(std::move(memory)), mapping_(std::move(mapping)), slabs_(slabs) {}

  const std::shared_ptr<SharedHandle> memory_;
  const std::unique_ptr<Mapping> mapping_;
  const uint32_t slabs_;
};

}  // namespace gemel

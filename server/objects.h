// SPDX-License-Identifier: Apache-2.0
//
// Object and ObjectTable: the shards this server has, by identity.
//
//   staging   being written by a client of this host or by a peer with a grant; nobody reads it.
//             What a client stages (stages.h) has no name yet and is not in the table
//   partial   some verified chunks, brought here for a restore; read by restores of this host only,
//             not in the table
//   sealed    whole, equal to its root; read by peers, counted by receipts
//
// Thread safety: one loop.
// Ownership: objects are shared: a read, a reply under way or a restore keeps the memory of an
// object that was dropped from the table meanwhile. Slabs go back when the last user lets go.
// Invariants:
//   (1) one object a shard; a sealed object is never changed, only dropped;
//   (2) digests has ChunkCount(bytes) entries; digests of present chunks are those of the content
//       as it was when they became present;
//   (3) bytes leave this process only after CheckChunk() said that they still match: memory that a
//       client could once write is never believed.
// Errors: DataLoss names shard, chunk and both digests.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

#include "common/bytes.h"
#include "common/digest.h"
#include "common/ids.h"
#include "server/slabs.h"
#include "transport/local/messages.h"

namespace gemel {

enum class ObjectState : uint8_t { kStaging, kPartial, kSealed };

class Object {
 public:
  struct Shape {
    ShardId shard;
    EpochToken token;
    uint64_t bytes = 0;  // REQUIRES: > 0
    uint64_t layout_bytes = 0;
  };

  Object(std::shared_ptr<SlabPool> pool, Shape shape, SlabClass slab_class);
  ~Object();
  Object(const Object&) = delete;
  Object& operator=(const Object&) = delete;

  const ShardId& shard() const { return shape_.shard; }

  const EpochToken& token() const { return shape_.token; }

  uint64_t bytes() const { return shape_.bytes; }

  uint64_t layout_bytes() const { return shape_.layout_bytes; }

  uint32_t chunks() const { return static_cast<uint32_t>(digests_.size()); }

  ObjectState state() const { return state_; }

  const Digest128& root() const { return root_; }

  const std::vector<Digest128>& digests() const { return digests_; }

  bool present(uint32_t chunk) const { return present_[chunk]; }

  uint32_t present_chunks() const { return present_chunks_; }

  bool complete() const { return present_chunks_ == chunks(); }

  // Takes all slabs now, writable by `holder`. ResourceExhausted: nothing was taken.
  absl::Status TakeAll(HolderKey holder);
  // Takes the slab of one chunk, the server's own. REQUIRES: partial.
  absl::Status TakeFor(uint32_t chunk);

  // REQUIRES: the chunk's slab was taken.
  MutableByteSpan Chunk(uint32_t chunk) const;
  uint32_t SlabOf(uint32_t chunk) const;
  // The chunk, or the whole object, as a client maps it; has_handle is the sender's to set.
  SlabPiece PieceOf(uint32_t chunk) const;
  std::vector<SlabPiece> Pieces() const;
  std::vector<MutableByteSpan> Extents() const;

  // The content of a chunk has this digest. REQUIRES: not sealed.
  void SetPresent(uint32_t chunk, const Digest128& digest);
  // Known from elsewhere and checked against a root; the bytes are not here yet. REQUIRES: partial.
  void ExpectDigests(std::vector<Digest128> digests);
  // Back to nothing present: a new grant writes it anew. REQUIRES: staging.
  void ForgetContent();

  // DataLoss when memory differs from the digest. REQUIRES: present(chunk).
  absl::Status CheckChunk(uint32_t chunk) const;
  // What the digests of all chunks give. REQUIRES: complete().
  Digest128 ComputeRoot() const;

 private:
  friend class ObjectTable;
  void WriteDirectory() const;
  uint64_t ChunkLength(uint32_t chunk) const;

  const std::shared_ptr<SlabPool> pool_;
  Shape shape_;  // changed once at most: by ObjectTable::Name()
  const SlabClass slab_class_;
  ObjectState state_ = ObjectState::kStaging;
  Digest128 root_;
  std::vector<uint32_t> slabs_;  // kNoSlab: not taken
  std::vector<Digest128> digests_;
  std::vector<bool> present_;
  uint32_t present_chunks_ = 0;
};

// What a root binds, from a shard's identity.
Digest128 RootOf(const ShardId& shard, const std::vector<Digest128>& digests, uint64_t bytes);

// Re-hashes every chunk against its digest, yielding between chunks. DataLoss at the first that
// differs. `object` is shared with the caller.
Task<absl::Status> CheckAllChunks(Loop* loop, std::shared_ptr<Object> object);

// Chunks [first_chunk, + digests) of `object`, called `what`, were filled by a client: they are
// present, and in `filled` when they were not before. InvalidArgument for chunks outside;
// AlreadyExists for another digest; FailedPrecondition for a new one when it is `sealed`.
absl::Status TakeFilled(Object* object, std::string_view what, const ChunksFilled& report,
                        bool sealed, std::vector<uint32_t>* filled);

class ObjectTable {
 public:
  ObjectTable(const ServerSeams& seams, std::shared_ptr<SlabPool> pool);

  // A staging object with all its slabs. AlreadyExists when the shard is here in any state.
  absl::StatusOr<std::shared_ptr<Object>> Stage(Object::Shape shape, HolderKey holder);
  // A staging object with all its slabs and without a name: Name() takes it in.
  absl::StatusOr<std::shared_ptr<Object>> StageNameless(uint64_t bytes, uint64_t layout_bytes,
                                                        HolderKey holder) const;
  // Gives such an object its identity and takes it in; its slabs keep their holder. AlreadyExists
  // when the shard is here in any state. REQUIRES: complete.
  absl::Status Name(const std::shared_ptr<Object>& object, const ShardId& shard,
                    const EpochToken& token);
  // A partial object without slabs, under a root it must have. It is not in the table.
  std::shared_ptr<Object> NewPartial(Object::Shape shape, const Digest128& root) const;
  // A partial object under the root it must have, in slabs that a former life sealed it in, in
  // order; nothing of it is present before it is hashed. REQUIRES: as many slabs as it needs.
  std::shared_ptr<Object> NewFormer(Object::Shape shape, SlabClass slab_class,
                                    const Digest128& root, std::vector<uint32_t> slabs) const;
  // Seals a partial object and takes it in. AlreadyExists when the shard is here in any state;
  // DataLoss when its digests do not give its root. REQUIRES: complete.
  absl::Status Adopt(const std::shared_ptr<Object>& object);

  // Null when it is not here.
  std::shared_ptr<Object> Find(const ShardId& shard) const;
  // NotFound, naming shard and what is here instead.
  absl::StatusOr<std::shared_ptr<Object>> FindSealed(const ShardId& shard,
                                                     const Digest128& root) const;

  // DataLoss when the digests do not give `root`. REQUIRES: complete, in this table, not sealed.
  absl::Status Seal(const std::shared_ptr<Object>& object, const Digest128& root);

  // Not in the table any more. OK when it was not.
  void Drop(const ShardId& shard);
  // Drops `object` only if it is what the table has under its name.
  void DropObject(const std::shared_ptr<Object>& object);

  std::vector<std::shared_ptr<Object>> OfSnapshot(const SnapshotId& snapshot) const;
  // Staging of epochs of the job that are lower.
  std::vector<std::shared_ptr<Object>> StagingBelow(const std::string& job,
                                                    const EpochId& epoch) const;
  std::vector<std::shared_ptr<Object>> Sealed() const;
  // The first sealed one behind that shard, or of all; null: there is none.
  std::shared_ptr<Object> NextSealed(const std::optional<ShardId>& after) const;

  size_t size() const { return objects_.size(); }

 private:
  void SetGauges();

  const ServerSeams seams_;
  const std::shared_ptr<SlabPool> pool_;
  std::map<ShardId, std::shared_ptr<Object>> objects_;
};

}  // namespace gemel

// SPDX-License-Identifier: Apache-2.0
#include "server/objects.h"

#include <algorithm>
#include <utility>

#include "common/check.h"
#include "common/errors.h"
#include "common/merkle.h"
#include "common/status_macros.h"
#include "common/xxh3.h"

namespace gemel {
namespace {

std::string_view StateName(ObjectState state) {
  switch (state) {
    case ObjectState::kStaging:
      return "staging";
    case ObjectState::kPartial:
      return "partial";
    case ObjectState::kSealed:
      return "sealed";
  }
  GEMEL_CHECK(false) << static_cast<int>(state);
  return "";
}

}  // namespace

Object::Object(std::shared_ptr<SlabPool> pool, Shape shape, SlabClass slab_class)
    : pool_(std::move(pool)),
      shape_(std::move(shape)),
      slab_class_(slab_class),
      slabs_(DivideUp(shape_.bytes, pool_->slab_bytes()), kNoSlab),
      digests_(ChunkCount(shape_.bytes)),
      present_(digests_.size(), false) {
  GEMEL_CHECK_GT(shape_.bytes, 0U);
}

Object::~Object() {
  for (const uint32_t slab : slabs_) {
    if (slab != kNoSlab) {
      pool_->Release(slab);
    }
  }
}

absl::Status Object::TakeAll(HolderKey holder) {
  GEMEL_CHECK(state_ == ObjectState::kStaging);
  GEMEL_ASSIGN_OR_RETURN(slabs_, pool_->Take(holder, shape_.bytes));
  GEMEL_CHECK_EQ(slabs_.size(), DivideUp(shape_.bytes, pool_->slab_bytes()));
  WriteDirectory();
  return absl::OkStatus();
}

absl::Status Object::TakeFor(uint32_t chunk) {
  GEMEL_CHECK(state_ == ObjectState::kPartial);
  GEMEL_CHECK_LT(chunk, chunks());
  const size_t index = chunk * kChunkBytes / pool_->slab_bytes();
  if (slabs_[index] != kNoSlab) {
    return absl::OkStatus();
  }
  GEMEL_ASSIGN_OR_RETURN(std::vector<uint32_t> taken,
                         pool_->Take(kServerHolder, pool_->slab_bytes()));
  GEMEL_CHECK_EQ(taken.size(), 1U);
  slabs_[index] = taken.front();
  WriteDirectory();
  return absl::OkStatus();
}

uint64_t Object::ChunkLength(uint32_t chunk) const {
  GEMEL_CHECK_LT(chunk, chunks());
  return std::min(kChunkBytes, shape_.bytes - chunk * kChunkBytes);
}

uint32_t Object::SlabOf(uint32_t chunk) const {
  GEMEL_CHECK_LT(chunk, chunks());
  const uint32_t slab = slabs_[chunk * kChunkBytes / pool_->slab_bytes()];
  GEMEL_CHECK_NE(slab, kNoSlab) << "chunk " << chunk << " of " << shape_.shard.ToString();
  return slab;
}

MutableByteSpan Object::Chunk(uint32_t chunk) const {
  const uint64_t offset = chunk * kChunkBytes % pool_->slab_bytes();
  return pool_->bytes(SlabOf(chunk)).subspan(offset, ChunkLength(chunk));
}

SlabPiece Object::PieceOf(uint32_t chunk) const {
  SlabPiece piece;
  piece.slab = SlabOf(chunk);
  piece.offset = chunk * kChunkBytes % pool_->slab_bytes();
  piece.bytes = ChunkLength(chunk);
  return piece;
}

std::vector<SlabPiece> Object::Pieces() const {
  std::vector<SlabPiece> pieces;
  uint64_t left = shape_.bytes;
  for (const uint32_t slab : slabs_) {
    GEMEL_CHECK_NE(slab, kNoSlab);
    SlabPiece piece;
    piece.slab = slab;
    piece.bytes = std::min(left, pool_->slab_bytes());
    left -= piece.bytes;
    pieces.push_back(piece);
  }
  GEMEL_CHECK_EQ(left, 0U);
  return pieces;
}

std::vector<MutableByteSpan> Object::Extents() const {
  std::vector<MutableByteSpan> extents;
  for (const SlabPiece& piece : Pieces()) {
    extents.push_back(pool_->bytes(piece.slab).subspan(piece.offset, piece.bytes));
  }
  return extents;
}

void Object::SetPresent(uint32_t chunk, const Digest128& digest) {
  GEMEL_CHECK(state_ != ObjectState::kSealed);
  GEMEL_CHECK_LT(chunk, chunks());
  if (!present_[chunk]) {
    present_[chunk] = true;
    present_chunks_ += 1;
    GEMEL_CHECK_LE(present_chunks_, chunks());
  }
  digests_[chunk] = digest;
}

void Object::ExpectDigests(std::vector<Digest128> digests) {
  GEMEL_CHECK(state_ == ObjectState::kPartial && present_chunks_ == 0);
  GEMEL_CHECK_EQ(digests.size(), digests_.size());
  digests_ = std::move(digests);
}

void Object::ForgetContent() {
  GEMEL_CHECK(state_ == ObjectState::kStaging);
  present_.assign(present_.size(), false);
  present_chunks_ = 0;
}

absl::Status Object::CheckChunk(uint32_t chunk) const {
  GEMEL_CHECK_LT(chunk, chunks());
  GEMEL_CHECK(present_[chunk]) << "chunk " << chunk;
  const Digest128 found = Xxh3_128(Chunk(chunk));
  if (found == digests_[chunk]) {
    return absl::OkStatus();
  }
  return error::DataLoss("chunk {} of {} in this server's memory has digest {} where {} belongs",
                         chunk, shape_.shard.ToString(), ToHex(found), ToHex(digests_[chunk]));
}

Digest128 Object::ComputeRoot() const {
  GEMEL_CHECK(complete());
  return RootOf(shape_.shard, digests_, shape_.bytes);
}

void Object::WriteDirectory() const {
  for (size_t i = 0; i < slabs_.size(); ++i) {
    if (slabs_[i] == kNoSlab) {
      continue;
    }
    SlabEntry entry;
    entry.slab_class = slab_class_;
    entry.sealed = state_ == ObjectState::kSealed;
    entry.shard = shape_.shard;
    entry.token = shape_.token;
    entry.offset = i * pool_->slab_bytes();
    GEMEL_CHECK_LT(entry.offset, shape_.bytes);
    entry.length = std::min(pool_->slab_bytes(), shape_.bytes - entry.offset);
    entry.object_bytes = shape_.bytes;
    entry.layout_bytes = shape_.layout_bytes;
    entry.root = root_;
    pool_->Describe(slabs_[i], entry);
  }
}

Digest128 RootOf(const ShardId& shard, const std::vector<Digest128>& digests, uint64_t bytes) {
  return MerkleRoot(shard.RootOwner(), shard.RootName(), digests, bytes,
                    static_cast<uint32_t>(kChunkBytes));
}

Task<absl::Status> CheckAllChunks(Loop* loop, std::shared_ptr<Object> object) {
  for (uint32_t chunk = 0; chunk < object->chunks(); ++chunk) {
    GEMEL_CO_RETURN_IF_ERROR(object->CheckChunk(chunk));
    co_await loop->Yield();
  }
  co_return absl::OkStatus();
}

absl::Status TakeFilled(Object* object, std::string_view what, const ChunksFilled& report,
                        bool sealed, std::vector<uint32_t>* filled) {
  const size_t count = report.digests.size();
  if (report.first_chunk > object->chunks() || count > object->chunks() - report.first_chunk) {
    return error::InvalidArgument("chunks [{}, +{}) lie outside {} of {} chunks",
                                  report.first_chunk, count, what, object->chunks());
  }
  for (size_t i = 0; i < count; ++i) {
    const uint32_t chunk = report.first_chunk + static_cast<uint32_t>(i);
    if (object->present(chunk)) {
      if (object->digests()[chunk] != report.digests[i]) {
        return error::AlreadyExists("chunk {} of {} was reported with another digest", chunk, what);
      }
      continue;
    }
    if (sealed) {
      return error::FailedPrecondition("{} is sealed: chunk {} comes too late", what, chunk);
    }
    object->SetPresent(chunk, report.digests[i]);
    filled->push_back(chunk);
  }
  return absl::OkStatus();
}

ObjectTable::ObjectTable(const ServerSeams& seams, std::shared_ptr<SlabPool> pool)
    : seams_(seams), pool_(std::move(pool)) {
  GEMEL_CHECK(pool_ != nullptr);
  SetGauges();
}

absl::StatusOr<std::shared_ptr<Object>> ObjectTable::Stage(Object::Shape shape, HolderKey holder) {
  if (const std::shared_ptr<Object> there = Find(shape.shard)) {
    return error::AlreadyExists("{} is here already ({}, {} bytes)", shape.shard.ToString(),
                                StateName(there->state()), there->bytes());
  }
  if (shape.bytes > pool_->capacity_bytes()) {
    // Before the object's tables are made, which grow with its bytes.
    return error::ResourceExhausted(
        "{} has {} bytes and this server keeps {} in all: raise --memory", shape.shard.ToString(),
        shape.bytes, pool_->capacity_bytes());
  }
  auto object = std::make_shared<Object>(pool_, std::move(shape), SlabClass::kSnapshot);
  GEMEL_RETURN_IF_ERROR(object->TakeAll(holder));
  objects_.emplace(object->shard(), object);
  SetGauges();
  return object;
}

absl::StatusOr<std::shared_ptr<Object>> ObjectTable::StageNameless(uint64_t bytes,
                                                                   uint64_t layout_bytes,
                                                                   HolderKey holder) const {
  GEMEL_CHECK_LE(bytes, pool_->capacity_bytes());
  Object::Shape shape;
  shape.bytes = bytes;
  shape.layout_bytes = layout_bytes;
  auto object = std::make_shared<Object>(pool_, std::move(shape), SlabClass::kSnapshot);
  GEMEL_RETURN_IF_ERROR(object->TakeAll(holder));
  return object;
}

absl::Status ObjectTable::Name(const std::shared_ptr<Object>& object, const ShardId& shard,
                               const EpochToken& token) {
  GEMEL_CHECK(object->state_ == ObjectState::kStaging && object->complete());
  GEMEL_CHECK(object->shape_.shard.snapshot.job.empty()) << object->shard().ToString();
  GEMEL_CHECK(!shard.snapshot.job.empty());
  if (const std::shared_ptr<Object> there = Find(shard)) {
    return error::AlreadyExists("{} is here already ({}, {} bytes)", shard.ToString(),
                                StateName(there->state()), there->bytes());
  }
  object->shape_.shard = shard;
  object->shape_.token = token;
  object->WriteDirectory();
  objects_.emplace(shard, object);
  SetGauges();
  return absl::OkStatus();
}

std::shared_ptr<Object> ObjectTable::NewPartial(Object::Shape shape, const Digest128& root) const {
  auto object = std::make_shared<Object>(pool_, std::move(shape), SlabClass::kRestore);
  object->state_ = ObjectState::kPartial;
  object->root_ = root;
  return object;
}

std::shared_ptr<Object> ObjectTable::NewFormer(Object::Shape shape, SlabClass slab_class,
                                               const Digest128& root,
                                               std::vector<uint32_t> slabs) const {
  auto object = std::make_shared<Object>(pool_, std::move(shape), slab_class);
  GEMEL_CHECK_EQ(slabs.size(), object->slabs_.size()) << object->shard().ToString();
  object->slabs_ = std::move(slabs);
  object->state_ = ObjectState::kPartial;
  object->root_ = root;
  return object;
}

absl::Status ObjectTable::Adopt(const std::shared_ptr<Object>& object) {
  GEMEL_CHECK(object->state_ == ObjectState::kPartial);
  if (const std::shared_ptr<Object> there = Find(object->shard())) {
    return error::AlreadyExists("{} is here already ({}, {} bytes)", object->shard().ToString(),
                                StateName(there->state()), there->bytes());
  }
  const Digest128 found = object->ComputeRoot();
  if (found != object->root_) {
    return error::DataLoss("{} has root {} here where {} belongs", object->shard().ToString(),
                           ToHex(found), ToHex(object->root_));
  }
  object->state_ = ObjectState::kSealed;
  object->WriteDirectory();
  const bool inserted = objects_.emplace(object->shard(), object).second;
  GEMEL_CHECK(inserted) << object->shard().ToString();
  seams_.metrics->Counter("gemel_objects_sealed_total", "Objects sealed on this server.").Add(1);
  SetGauges();
  return absl::OkStatus();
}

std::shared_ptr<Object> ObjectTable::Find(const ShardId& shard) const {
  const auto found = objects_.find(shard);
  return found == objects_.end() ? nullptr : found->second;
}

absl::StatusOr<std::shared_ptr<Object>> ObjectTable::FindSealed(const ShardId& shard,
                                                                const Digest128& root) const {
  std::shared_ptr<Object> object = Find(shard);
  if (object == nullptr) {
    return error::NotFound("{} is not on this server", shard.ToString());
  }
  if (object->state() != ObjectState::kSealed) {
    return error::NotFound("{} is {} on this server, not sealed", shard.ToString(),
                           StateName(object->state()));
  }
  if (object->root() != root) {
    return error::NotFound("{} is on this server under root {}, not {}", shard.ToString(),
                           ToHex(object->root()), ToHex(root));
  }
  return object;
}

absl::Status ObjectTable::Seal(const std::shared_ptr<Object>& object, const Digest128& root) {
  GEMEL_CHECK(object->state_ != ObjectState::kSealed);
  GEMEL_CHECK(Find(object->shard()) == object) << object->shard().ToString();
  const Digest128 found = object->ComputeRoot();
  if (found != root) {
    return error::DataLoss("{} has root {} here where {} was announced", object->shard().ToString(),
                           ToHex(found), ToHex(root));
  }
  object->state_ = ObjectState::kSealed;
  object->root_ = root;
  object->WriteDirectory();
  seams_.metrics->Counter("gemel_objects_sealed_total", "Objects sealed on this server.").Add(1);
  return absl::OkStatus();
}

void ObjectTable::Drop(const ShardId& shard) {
  objects_.erase(shard);
  SetGauges();
}

void ObjectTable::DropObject(const std::shared_ptr<Object>& object) {
  GEMEL_CHECK(object != nullptr);
  if (Find(object->shard()) == object) {
    Drop(object->shard());
  }
}

std::vector<std::shared_ptr<Object>> ObjectTable::OfSnapshot(const SnapshotId& snapshot) const {
  std::vector<std::shared_ptr<Object>> found;
  ShardId first;
  first.snapshot = snapshot;
  for (auto at = objects_.lower_bound(first);
       at != objects_.end() && at->first.snapshot == snapshot; ++at) {
    found.push_back(at->second);
  }
  return found;
}

std::vector<std::shared_ptr<Object>> ObjectTable::StagingBelow(const std::string& job,
                                                               const EpochId& epoch) const {
  std::vector<std::shared_ptr<Object>> found;
  for (const auto& [shard, object] : objects_) {
    if (shard.snapshot.job == job && shard.snapshot.epoch < epoch &&
        object->state() == ObjectState::kStaging) {
      found.push_back(object);
    }
  }
  return found;
}

std::vector<std::shared_ptr<Object>> ObjectTable::Sealed() const {
  std::vector<std::shared_ptr<Object>> found;
  for (const auto& [shard, object] : objects_) {
    if (object->state() == ObjectState::kSealed) {
      found.push_back(object);
    }
  }
  return found;
}

std::shared_ptr<Object> ObjectTable::NextSealed(const std::optional<ShardId>& after) const {
  auto at = after.has_value() ? objects_.upper_bound(*after) : objects_.begin();
  while (at != objects_.end() && at->second->state() != ObjectState::kSealed) {
    ++at;
  }
  return at == objects_.end() ? nullptr : at->second;
}

void ObjectTable::SetGauges() {
  seams_.metrics->Gauge("gemel_objects", "Objects on this server, in any state.")
      .Set(static_cast<int64_t>(objects_.size()));
}

}  // namespace gemel

// SPDX-License-Identifier: Apache-2.0
//
// Recovery: what this server's keeper holds of a former life, what of it is believed, and what the
// keeper is given of this one.
//
//   Take → (SlabPool::Inherit) → Keep → Verify → join
//
// Verify runs before the join: a join reports the whole inventory, and what is missing from it is
// lost (amendment 2). It costs what hashing costs, some 7 GB/s with the page faults.
//
// Thread safety: one loop.
// Ownership: borrows the keeper; owns the former life's handles until Forget().
// Invariants:
//   (1) an object comes back only when its extents are whole and sealed, every byte was hashed
//       again, and the root is that of the directory and of the committed manifest, if this disk
//       has one;
//   (2) the former directory is forgotten only when the keeper has the new one;
//   (3) a client is given to the keeper before it is given memory.
// Errors of Take(): as Keeper::Take(); FailedPrecondition for slabs of another size or server.
#pragma once

#include <map>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"

#include "common/sync.h"
#include "server/identity.h"
#include "server/keeper/keeper.h"
#include "server/objects.h"
#include "server/seams.h"
#include "server/slabs.h"

namespace gemel {

class Recovery {
 public:
  explicit Recovery(const ServerSeams& seams);

  // Without a keeper: nothing was left.
  Task<absl::Status> Take(Keeper::Taker taker, uint64_t slab_bytes);

  const FormerMemory& former() const { return former_; }

  // Above every former one, also one of which nothing can be read.
  uint64_t life() const { return last_life_ + 1; }

  // Gives the keeper the pool's directory and slabs, and from now on each new one.
  Task<void> Keep(std::shared_ptr<SlabPool> pool);
  // Hashes what was sealed and takes it into `objects`; the rest is dropped and told.
  Task<void> Verify(ObjectTable* objects, Identity* identity);

  // Before the client is given memory. Waits no longer than the keeper is given to answer.
  Task<void> GiveClient(HolderKey holder, std::shared_ptr<SharedHandle> process);

 private:
  struct FormerObject {
    Object::Shape shape;
    SlabClass slab_class = SlabClass::kNone;
    Digest128 root;
    std::vector<uint32_t> slabs;
  };

  absl::Status ReadDirectory(const std::vector<KeptItem>& items, const ServerId& server,
                             uint64_t slab_bytes);
  absl::StatusOr<SlabDirectoryContent> ReadOne(const KeptItem& item) const;
  void TakeSlabs(const SlabDirectoryContent& content, const std::vector<KeptItem>& items);
  std::vector<FormerObject> Assemble();
  bool Claim(const std::vector<uint32_t>& extents, FormerObject* object) const;
  Task<absl::Status> CheckCommitted(const FormerObject& former, Identity* identity);
  Task<void> Hash(std::shared_ptr<Object> object);
  static Task<void> GiveLater(Keeper* keeper, KeptItem item);

  const ServerSeams seams_;
  FormerMemory former_;
  uint64_t last_life_ = 0;
  std::vector<KeptName> stale_;  // kept, and of no use to this life
  std::shared_ptr<SlabPool> pool_;
  uint32_t dropped_ = 0;
};

}  // namespace gemel

// SPDX-License-Identifier: Apache-2.0
//
// Stages: shards that clients of this host write before they have a name.
//
//   Open → Filled … Filled → Seal → TakeOver (by an open of a snapshot) or Drop
//
// The transport lets in processes of one user only (transport/local/unix_socket.h), so whoever
// knows the id, 128 random bits, may open what is sealed.
//
// Thread safety: one loop.
// Ownership: a Stage is shared by the table, the session that opened it and the calls on it; its
// object goes to the upload that takes it over.
// Invariants:
//   (1) a seal ends the writing and looks at no byte: what is in memory is hashed once after it, at
//       the seal of the shard that it becomes, before a receipt (DESIGN 3.5: fence, digest,
//       receipt);
//   (2) a stage ends once: taken over, or dropped by its client or with it;
//   (3) its slabs keep the process that wrote them as their holder, also under a snapshot's name:
//       they go to no other process before that one is proven dead (slabs.h, invariant 2).
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "absl/status/statusor.h"

#include "server/objects.h"
#include "server/seams.h"
#include "transport/local/messages.h"

namespace gemel {

struct Stage {
  Stage(const StageId& id, uint64_t client, std::shared_ptr<Object> object)
      : id(id), client(client), object(std::move(object)) {}

  const StageId id;
  const uint64_t client;           // session that opened it
  std::shared_ptr<Object> object;  // null when ended
  bool sealed = false;             // complete, and nobody writes it any more
  bool ended = false;
  absl::Status why;  // when ended
};

class Stages {
 public:
  Stages(const ServerSeams& seams, SlabPool* pool, ObjectTable* objects);

  // Memory for `request`, writable by `holder`. The same again is the same stage. Null when there
  // is none now, `reason` says why. ResourceExhausted at a bound or for more than this server has;
  // InvalidArgument for sizes that cannot be; AlreadyExists when the id is another's.
  absl::StatusOr<std::shared_ptr<Stage>> Open(uint64_t client, HolderKey holder,
                                              const StageShard& request, std::string* reason);
  // As Uploads::Filled().
  absl::Status Filled(Stage* stage, const ChunksFilled& report);
  // FailedPrecondition when chunks are missing. The same again is OK.
  absl::Status Seal(Stage* stage);

  // A stage that may be opened with these sizes. NotFound, FailedPrecondition when it is not
  // sealed, InvalidArgument for other sizes; each names the stage.
  absl::StatusOr<std::shared_ptr<Stage>> FindSealed(const StageId& id,
                                                    const Object::Shape& shape) const;
  // Its object, now the shard of `shape` in the table of objects. Errors as FindSealed(), and
  // AlreadyExists when that shard is here: the stage stays then.
  absl::StatusOr<std::shared_ptr<Object>> TakeOver(const StageId& id, const Object::Shape& shape);

  // Frees it, unless a snapshot took it over. FailedPrecondition when another client opened it.
  absl::Status Drop(uint64_t client, const StageId& id);
  void DropClient(uint64_t client);

  size_t size() const { return stages_.size(); }

  // Of the slabs that stages hold.
  uint64_t bytes() const;

 private:
  absl::Status CheckRoom(uint64_t client, const StageShard& request) const;
  void End(const std::shared_ptr<Stage>& stage, absl::Status why);
  void SetGauge();

  const ServerSeams seams_;
  SlabPool* const pool_;
  ObjectTable* const objects_;
  std::map<StageId, std::shared_ptr<Stage>> stages_;
};

}  // namespace gemel

// SPDX-License-Identifier: Apache-2.0
//
// Uploads: the shards that clients of this host are saving, from their open until placement says
// that the snapshot is committed at full redundancy, or aborted.
//
//   Start → Filled … Filled → Seal → (copies verified, receipts) → committed
//
// Thread safety: one loop.
// Ownership: an Upload is shared by its copies, its follower and its client's session; the table
// lets go of it when it ends.
// Invariants:
//   (1) an upload ends once, with a reason; whoever waits on `changed` then sees `ended`;
//   (2) sealed only when each chunk here was found right after the fence, the end of the writing,
//       and all together gave the client's root: by hashing it, or by a holder that hashed what was
//       sent from here after the fence (docs/decisions/0019);
//   (3) one Copy for each holder's incarnation that is wanted and is not this server.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

#include "common/sync.h"
#include "server/control.h"
#include "server/objects.h"
#include "server/peers.h"
#include "server/receipts.h"

namespace gemel {

// One copy of an upload at one holder.
struct UploadCopy {
  PeerMember holder;
  bool wanted = true;
  bool verified = false;
};

// What holders' answers say of one chunk here.
enum class Vouched : uint8_t {
  kNo,
  kBeforeFence,  // it was right when it was sent, and the client could still write it
  kYes,          // it was right when it was sent after the fence
};

struct Upload {
  Upload(Loop* loop, std::shared_ptr<Object> object_written, uint64_t client)
      : object(std::move(object_written)),
        client(client),
        vouched(object->chunks(), Vouched::kNo),
        changed(loop) {}

  const std::shared_ptr<Object> object;
  const uint64_t client;         // session that opened it
  StageId stage;                 // not zero: what it was staged as
  std::vector<uint32_t> filled;  // chunks in the order in which they were filled
  bool fenced = false;           // nobody writes the object any more
  std::vector<Vouched> vouched;  // by chunk
  uint32_t vouched_chunks = 0;   // kYes
  bool sealing = false;
  bool sealed = false;
  Digest128 root;  // when sealed
  bool ended = false;
  absl::Status why;  // when ended: OK when committed
  std::map<ServerId, std::shared_ptr<UploadCopy>> copies;
  WaitQueue changed;

  const ShardId& shard() const { return object->shard(); }

  // A holder found the chunk right that was sent to it, after the fence or before.
  void Vouch(uint32_t chunk, bool sent_fenced);
};

class Uploads {
 public:
  Uploads(const ServerSeams& seams, Control* control, ObjectTable* objects, Peers* peers,
          Receipts* receipts);

  // `gate` is entered by every task of an upload.
  void SetGate(Gate* gate) { gate_ = gate; }

  // REQUIRES: no upload of that shard; the object is staging. Chunks that are present are filled.
  std::shared_ptr<Upload> Start(std::shared_ptr<Object> object, uint64_t client,
                                const std::vector<PeerMember>& holders);
  // Null when there is none.
  std::shared_ptr<Upload> Find(const ShardId& shard) const;

  // InvalidArgument for chunks outside; FailedPrecondition after the seal or the end;
  // AlreadyExists when a chunk was reported with another digest.
  absl::Status Filled(Upload* upload, const ChunksFilled& report);
  // Looks at each byte (2), compares, seals, sends the receipt. DataLoss when memory is not what
  // the client hashed: the upload has ended then. The same seal again is OK.
  Task<absl::Status> Seal(std::shared_ptr<Upload> upload, Digest128 root);

  // Told of a sealed object whose memory is not what it was.
  using Corrupt = std::function<void(const std::shared_ptr<Object>&, const absl::Status&)>;

  void OnCorrupt(Corrupt corrupt) { corrupt_ = std::move(corrupt); }

  // Placement's word on who shall hold the shard now. Unknown shards are ignored.
  void SetHolders(const ShardId& shard, const std::vector<PeerMember>& holders);

  void End(const std::shared_ptr<Upload>& upload, absl::Status why);
  void EndSnapshot(const SnapshotId& snapshot, const absl::Status& why);
  void EndBelow(const std::string& job, const EpochId& epoch, const absl::Status& why);
  void EndAll(const absl::Status& why);

  // Tells placement that the attempt is given up, until it has heard.
  Task<void> AbortAtPlacement(SnapshotId snapshot, EpochToken token, std::string why);

  std::vector<std::shared_ptr<Upload>> OfClient(uint64_t client) const;

  size_t size() const { return uploads_.size(); }

  const ServerSeams& seams() const { return seams_; }

  Peers* peers() const { return peers_; }

 private:
  Task<void> Follow(std::shared_ptr<Upload> upload);
  absl::Status ApplyCommitState(const std::shared_ptr<Upload>& upload,
                                const pb::AwaitCommitReply& reply);
  Task<void> RunCopy(std::shared_ptr<Upload> upload, std::shared_ptr<UploadCopy> copy);
  Task<bool> IsSourceSound(std::shared_ptr<Upload> upload);
  Task<absl::Status> CheckFenced(std::shared_ptr<Upload> upload);
  absl::Status HashChunk(Upload* upload, uint32_t chunk);

  const ServerSeams seams_;
  Control* const control_;
  ObjectTable* const objects_;
  Peers* const peers_;
  Receipts* const receipts_;
  Gate* gate_ = nullptr;
  Corrupt corrupt_;
  std::map<ShardId, std::shared_ptr<Upload>> uploads_;
};

}  // namespace gemel

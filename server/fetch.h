// SPDX-License-Identifier: Apache-2.0
//
// ShardFetch and Fetches: bring chunks of a committed shard to this host's memory, from all of its
// holders at once, or from this server's own disk (DESIGN section 4).
//
// A shard that is sealed here is used as it is. Otherwise a partial object is made, its digests are
// asked of a holder and checked against the shard's root, and reading lanes (kReadWindow a source)
// pull the chunks that are wanted from one queue; each is checked on arrival. No more is read at
// once than may be on its way to this server, copies of others included (transport/admission.h).
// What one source cannot give another one is asked for. What somebody waits for and is late is read
// again from another source (transport/hedge.h); a source that is slow for a while reads one chunk
// at a time (transport/source_pace.h). A partial object that is whole becomes a sealed copy and
// gets a receipt.
//
// Thread safety: one loop.
// Ownership: a fetch is shared by all restores of this host that want its shard, and by its lanes.
// Invariants:
//   (1) a chunk is present only after its bytes in this memory gave its digest, and the digests
//       together the root;
//   (2) one lane has a chunk. At most two reads of it are under way: the lane's, into its place,
//       and once that is late one from another source, into scratch. A lane takes the next chunk
//       when both have ended: a source that does not answer is asked for no more than its lanes;
//   (3) what is read for a repair, or from this server's disk, is not read again meanwhile.
// Errors: DataLoss or Unavailable naming chunk, sources and reasons; ResourceExhausted.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

#include "common/sync.h"
#include "server/objects.h"
#include "server/peers.h"
#include "server/receipts.h"
#include "server/repair_budget.h"
#include "server/tier.h"
#include "transport/admission.h"
#include "transport/hedge.h"
#include "transport/source_pace.h"

namespace gemel {

class Fetches;

// Who waits for the chunks.
enum class Pace : uint8_t {
  kNow,     // a restore, or a shard that has one copy left: as fast as it goes
  kBudget,  // a repair that can wait: within the repair budget
};

// A shard as a commit names it.
struct WantedShard {
  ShardId shard;
  EpochToken token;  // zero when it is not known
  Digest128 root;
  uint64_t bytes = 0;
  uint64_t layout_bytes = 0;
};

class ShardFetch : public std::enable_shared_from_this<ShardFetch> {
 public:
  ShardFetch(Fetches* fetches, WantedShard wanted);
  ~ShardFetch();

  // Members that may have it. This server is one for its disk's sake, if the shard is there: when
  // it is named, when nobody is, and when the others cannot give a chunk.
  void SetSources(const std::vector<PeerMember>& sources);

  // Chunks [first, first + count) are in this host's memory, verified when they arrived.
  // REQUIRES: the range lies within the shard.
  // What others ensure at kNow is fetched as fast for everybody.
  Task<absl::Status> Ensure(uint32_t first, uint32_t count, Pace pace = Pace::kNow);

  // The object that has the ensured chunks. Null before the first Ensure().
  const std::shared_ptr<Object>& object() const { return object_; }

  const WantedShard& wanted() const { return wanted_; }

  // False while all that was ever given lay in this host's memory already.
  bool fetched_anything() const { return fetched_anything_; }

  // The object's memory failed its digest: forget it, fetch anew.
  void Forget(const std::shared_ptr<Object>& corrupt);

  // How many objects were forgotten.
  uint32_t forgotten() const { return forgotten_; }

 private:
  struct Source {
    PeerMember member;  // this server: its disk
    size_t lanes = 0;
    uint32_t failures = 0;  // in a row
    absl::Status error;     // of the last
  };

  // One read of one chunk.
  struct Reading {
    PeerMember member;
    std::shared_ptr<Object> object;
    uint32_t chunk = 0;
    TimePoint began{};
  };

  struct ChunkWork {
    std::set<ServerId> failed;  // will not give it
    std::string reasons;
    bool loss = false;     // a source has it, damaged
    bool reading = false;  // a lane is at it
    absl::Status error;    // when no source is left
  };

  Task<absl::Status> EnsureAll(uint32_t first, uint32_t count);
  Task<void> AwaitBudget(std::shared_ptr<Object> object);
  Task<absl::Status> Prepare();
  Task<absl::Status> MakeObject();
  absl::Status Want(uint32_t first, uint32_t count);
  Task<absl::Status> AskDigests(std::shared_ptr<Object> object);
  bool IsThisServer(const PeerMember& member) const;
  void AddSource(const PeerMember& member);
  bool AddOwnDisk();
  Task<absl::Status> DescribeAt(PeerMember member, std::shared_ptr<Object> object);
  Task<absl::Status> DescribeOnDisk(std::shared_ptr<Object> object);
  absl::Status CheckDescription(DescribeReply described, Object* object) const;
  uint32_t OpenFor(const Source& source) const;
  uint64_t WindowOf(const Source& source) const;
  void StartLanes();
  static Task<void> RunLane(std::shared_ptr<ShardFetch> self, ServerId server);
  bool TakeWork(const Source& source, uint32_t* chunk);
  Task<absl::Status> ReadInTurn(Source* source, std::shared_ptr<Object> object, uint32_t chunk);
  Task<absl::Status> ReadChunk(Source* source, std::shared_ptr<Object> object, uint32_t chunk);
  std::shared_ptr<HedgedRead> NewRead(const Reading& first, std::shared_ptr<ServerId> second);
  HedgedRead::Source SourceOf(const Reading& reading);
  HedgedRead::Source SecondFor(const Reading& first, ServerId* second);
  Task<absl::StatusOr<Digest128>> ReadFrom(Reading from, HedgedRead::Into into);
  Task<absl::StatusOr<Digest128>> ReadOn(std::shared_ptr<Lane> lane, uint32_t chunk,
                                         HedgedRead::Into into, TimePoint deadline);
  void EndPace(const ServerId& server, const SourcePace::Ticket& ticket, const absl::Status& read,
               bool stopped);
  Duration FastestBut(const ServerId& server) const;
  bool OnProbation(const Source& source) const;
  void Arrived(const ServerId& from, uint32_t chunk);
  void Failed(Source* source, uint32_t chunk, const absl::Status& why);
  void NoteFailure(Source* source, uint32_t chunk, const absl::Status& why);
  void NoteSecond(const ServerId& second, uint32_t chunk, const HedgedRead::Outcome& outcome);
  bool IsReadable(const ChunkWork& work) const;
  void GiveUpUnreadable();
  bool MayRead(const Source& source, const ChunkWork& work) const;
  absl::Status NoSource(uint32_t chunk, const ChunkWork& work) const;
  absl::StatusOr<bool> AllHere(uint32_t first, uint32_t count) const;
  void SealWhenWhole();

  Fetches* const fetches_;
  const WantedShard wanted_;
  std::shared_ptr<Object> object_;
  std::map<ServerId, Source> sources_;
  bool preparing_ = false;
  bool fetched_anything_ = false;
  uint32_t forgotten_ = 0;
  uint32_t waiting_now_ = 0;            // Ensure() calls at Pace::kNow
  std::map<uint32_t, ChunkWork> work_;  // wanted, not present; the queue is its order
  WaitQueue changed_;
};

class Fetches {
 public:
  struct Parts {
    Control* control = nullptr;
    ObjectTable* objects = nullptr;
    Peers* peers = nullptr;
    Receipts* receipts = nullptr;
    Tier* tier = nullptr;
    Admission* admission = nullptr;
  };

  // `repair_bytes_per_second` 0: no bound.
  Fetches(const ServerSeams& seams, const Parts& parts,
          uint64_t repair_bytes_per_second = kRepairRateDefault);

  void SetGate(Gate* gate) { gate_ = gate; }

  // The fetch of that shard under that root, shared with whoever else wants it.
  std::shared_ptr<ShardFetch> Get(const WantedShard& wanted);

 private:
  friend class ShardFetch;

  Task<uint64_t> AwaitTurn(TransferClass of, uint32_t left);
  void EndTurn(uint64_t turn, bool arrived);
  SourcePace* PaceOf(const ServerId& server);
  void Count(const HedgedRead::Outcome& outcome);

  const ServerSeams seams_;
  const Parts parts_;
  RepairBudget budget_;
  HedgePolicy restore_reads_;  // the class "restore", of all fetches
  std::map<ServerId, SourcePace> paces_;
  Gate* gate_ = nullptr;
  std::map<std::pair<ShardId, Digest128>, std::weak_ptr<ShardFetch>> fetches_;
};

}  // namespace gemel

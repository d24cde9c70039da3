// SPDX-License-Identifier: Apache-2.0
//
// Messages to a server made of choices: most fields such that a save or a restore goes through, the
// others wild. What replies name (uploads, regions, snapshots) is used again.
//
// Thread safety: one thread.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "common/fields.h"
#include "common/xxh3.h"
#include "server/objects.h"
#include "tests/fuzz/inputs.h"
#include "transport/frame.h"
#include "transport/local/messages.h"
#include "transport/peer/messages.h"

namespace gemel {

class ServerMessages {
 public:
  // Who the sender says it is.
  ClusterId cluster;
  ServerId server;
  Incarnation incarnation;
  uint64_t pid = 0;

  // A body of the message of `type`, and its payload when it has one.
  std::string Make(FrameType type, Choices* choices) {
    std::string body;
    Visit(type, [&]<typename Message, typename Reply>(Message message, const Reply&) {
      if (choices->Byte() >= kWildFrom) {
        body = choices->Text(choices->Byte());
        return;
      }
      Message::Fields(message, Filler{this, choices});
      Fit(&message, choices);
      body = EncodeMessage(message);
    });
    return body;
  }

  // Remembers what an answer names.
  void Learn(FrameType type, std::string_view body) {
    Visit(type, [&]<typename Message, typename Reply>(const Message&, const Reply&) {
      absl::StatusOr<Reply> reply = DecodeMessage<Reply>(body);
      GEMEL_CHECK(reply.ok()) << "a reply that its reader refuses: " << reply.status().ToString();
      Reply::Fields(*reply, Learner{this});
    });
  }

  uint64_t NumberLike(std::string_view name, Choices* choices) {
    const uint8_t choice = choices->Byte();
    if (choice >= kWildFrom) {
      return choices->Below(2) == 0 ? UINT64_MAX - choices->Below(4) : choices->Bits64();
    }
    if (name == "version" || name == "world_size" || name == "copies") {
      return 1;
    }
    if (name == "pid") {
      return pid;
    }
    if (name == "shard_bytes" || name == "bytes") {
      return object_bytes();
    }
    if (name == "layout_bytes") {
      return 10;
    }
    if (name == "wait_ms") {
      return choice % 2 == 0 ? 0 : 50;
    }
    if (name == "upload" || name == "restore" || name == "region" || name == "generation") {
      const std::vector<uint64_t>& known = name == "region"       ? regions_
                                           : name == "generation" ? generations_
                                                                  : numbers_;
      return known.empty() ? choice % 3 : known[known.size() - 1 - choice % known.size()];
    }
    return choice < 200 ? 0 : choice % 5;
  }

  uint64_t object_bytes() const { return kSizes[size_]; }

  void set_size(size_t index) { size_ = index % std::size(kSizes); }

  // Of a chunk of zeros, which memory that nobody wrote holds.
  static Digest128 ZeroDigest(uint64_t bytes) { return Xxh3_128(Zeros().first(bytes)); }

  static ByteSpan Zeros() {
    static const std::vector<std::byte> kZeros(kChunkBytes);
    return kZeros;
  }

  std::vector<Digest128> ZeroDigests() const {
    std::vector<Digest128> digests;
    for (uint64_t at = 0; at < object_bytes(); at += kChunkBytes) {
      digests.push_back(ZeroDigest(std::min(kChunkBytes, object_bytes() - at)));
    }
    return digests;
  }

  static const std::vector<FrameType>& Types() {
    static const std::vector<FrameType> kTypes = {
        FrameType::kClientHello,    FrameType::kAcquireEpoch,  FrameType::kOpenShard,
        FrameType::kPrepareSlabs,   FrameType::kChunksFilled,  FrameType::kSealShard,
        FrameType::kAwaitCommit,    FrameType::kAbortShard,    FrameType::kBeginRestore,
        FrameType::kFetchChunks,    FrameType::kReportRestore, FrameType::kAwaitRestore,
        FrameType::kReleaseRestore, FrameType::kStageShard,    FrameType::kSealStage,
        FrameType::kDropStage,      FrameType::kBeginRead,     FrameType::kListSnapshots,
        FrameType::kRemoveSnapshot, FrameType::kPeerHello,     FrameType::kOffer,
        FrameType::kWrite,          FrameType::kPeerSeal,      FrameType::kRevoke,
        FrameType::kDescribe,       FrameType::kRead,          FrameType::kProbe,
        FrameType::kAskCredit};
    return kTypes;
  }

 private:
  static constexpr uint8_t kWildFrom = 244;
  static constexpr uint8_t kStagedBelow = 64;
  static constexpr uint64_t kSizes[] = {100, kChunkBytes, kChunkBytes + 1, 2 * kChunkBytes + 5};
  static constexpr size_t kKept = 8;

  // A reply without fields has an empty body.
  struct Nothing {
    static constexpr std::string_view kName = "nothing";

    static void Fields(auto&, auto&&) {}
  };

  static void Visit(FrameType type, auto&& visit) {
    switch (type) {
      case FrameType::kClientHello:
        return visit(ClientHello(), ClientHelloReply());
      case FrameType::kAcquireEpoch:
        return visit(AcquireEpoch(), AcquireEpochDone());
      case FrameType::kOpenShard:
        return visit(OpenShard(), OpenShardReply());
      case FrameType::kPrepareSlabs:
        return visit(PrepareSlabs(), PrepareSlabsReply());
      case FrameType::kChunksFilled:
        return visit(ChunksFilled(), Nothing());
      case FrameType::kSealShard:
        return visit(SealShard(), Nothing());
      case FrameType::kAwaitCommit:
        return visit(AwaitCommit(), AwaitCommitDone());
      case FrameType::kAbortShard:
        return visit(AbortShard(), Nothing());
      case FrameType::kBeginRestore:
        return visit(BeginRestore(), BeginRestoreDone());
      case FrameType::kFetchChunks:
        return visit(FetchChunks(), FetchChunksReply());
      case FrameType::kReportRestore:
        return visit(ReportRestore(), Nothing());
      case FrameType::kAwaitRestore:
        return visit(AwaitRestore(), AwaitRestoreDone());
      case FrameType::kReleaseRestore:
        return visit(ReleaseRestore(), Nothing());
      case FrameType::kBeginRead:
        return visit(BeginRead(), BeginRestoreDone());
      case FrameType::kListSnapshots:
        return visit(ListSnapshots(), ListSnapshotsReply());
      case FrameType::kRemoveSnapshot:
        return visit(RemoveSnapshot(), Nothing());
      default:
        return VisitStage(type, visit);
    }
  }

  static void VisitStage(FrameType type, auto&& visit) {
    switch (type) {
      case FrameType::kStageShard:
        return visit(StageShard(), StageShardReply());
      case FrameType::kSealStage:
        return visit(SealStage(), Nothing());
      case FrameType::kDropStage:
        return visit(DropStage(), Nothing());
      default:
        return VisitPeer(type, visit);
    }
  }

  static void VisitPeer(FrameType type, auto&& visit) {
    switch (type) {
      case FrameType::kPeerHello:
        return visit(PeerHello(), PeerHello());
      case FrameType::kOffer:
        return visit(Offer(), OfferReply());
      case FrameType::kWrite:
        return visit(Write(), Nothing());
      case FrameType::kAskCredit:
        return visit(AskCredit(), Credit());
      case FrameType::kPeerSeal:
        return visit(PeerSeal(), Nothing());
      case FrameType::kRevoke:
        return visit(Revoke(), Nothing());
      case FrameType::kDescribe:
        return visit(Describe(), DescribeReply());
      case FrameType::kRead:
        return visit(Read(), Nothing());
      default:
        return visit(Nothing(), Nothing());
    }
  }

  // What makes a message go through most of the time: the root that the content has, a stage only
  // now and then.
  void Fit(auto*, Choices*) {}

  void Fit(OpenShard* open, Choices* choices) {
    open->stage = choices->Byte() < kStagedBelow ? open->stage : StageId();
  }

  void Fit(SealShard* seal, Choices*) {
    seal->root = RootOf({snapshot_, 0}, ZeroDigests(), object_bytes());
  }

  void Fit(PeerSeal* seal, Choices*) { seal->root = RootFor(seal->shard); }

  void Fit(Describe* describe, Choices*) { describe->root = RootFor(describe->shard); }

  void Fit(Read* read, Choices*) { read->root = RootFor(read->shard); }

  Digest128 RootFor(const ShardId& shard) const {
    constexpr size_t kLabelBytes = 1000;
    const bool fits = shard.snapshot.job.size() + shard.snapshot.name.size() < kLabelBytes;
    return fits ? RootOf(shard, ZeroDigests(), object_bytes()) : Digest128();
  }

  struct Filler {
    ServerMessages* self;
    Choices* choices;

    void operator()(std::string_view name, std::string& value) const {
      const uint8_t choice = choices->Byte();
      if (choice >= kWildFrom) {
        value = choice == 255 ? std::string(5000, 'x') : choices->Text(choices->Below(20));
      } else if (name == "job" || name == "snapshot" || name == "shard") {
        value = "gpt";
      } else {
        value = "s" + std::to_string(choice % 3);
      }
    }

    void operator()(std::string_view name, bool& value) const {
      value = name == "verified" && choices->Below(2) == 1;
    }

    template <typename T>
      requires std::is_integral_v<T>
    void operator()(std::string_view name, T& value) const {
      value = static_cast<T>(self->NumberLike(name, choices));
    }

    template <typename T>
      requires std::is_enum_v<T>
    void operator()(std::string_view, T& value) const {
      value = static_cast<T>(choices->Below(2));
    }

    void Last(std::string_view name, auto& value) const { (*this)(name, value); }

    void operator()(std::string_view, ClusterId& id) const { id = self->cluster; }

    void operator()(std::string_view, ServerId& id) const { id = self->server; }

    void operator()(std::string_view, Incarnation& id) const { id = self->incarnation; }

    void operator()(std::string_view, EpochToken& id) const {
      id.bytes[0] = choices->Byte() >= kWildFrom ? 2 : 1;
    }

    void operator()(std::string_view, StageId& id) const {
      id.bytes[0] = static_cast<uint8_t>(1 + choices->Byte() % 2);
    }

    void operator()(std::string_view, Digest128& digest) const {
      digest = ZeroDigest(std::min(self->object_bytes(), kChunkBytes));
    }

    void operator()(std::string_view name, EpochId& epoch) const {
      epoch = self->epoch_;
      if (choices->Byte() >= kWildFrom) {
        (*this)(name, epoch.counter);
      }
    }

    void operator()(std::string_view name, SnapshotId& id) const {
      id = self->snapshot_;
      if (choices->Byte() < 200 && !id.job.empty()) {
        return;
      }
      (*this)("job", id.job);
      (*this)(name, id.epoch);
      (*this)("sequence", id.sequence);
      (*this)("name", id.name);
      (*this)("attempt", id.attempt);
    }

    void operator()(std::string_view name, ShardId& id) const {
      (*this)(name, id.snapshot);
      (*this)("rank", id.rank);
    }

    void operator()(std::string_view, std::vector<Digest128>& digests) const {
      digests = self->ZeroDigests();
      if (choices->Byte() >= kWildFrom) {
        digests.resize(choices->Below(8));
      }
    }

    template <typename T>
    void operator()(std::string_view name, std::vector<T>& values) const {
      values.resize(choices->Below(3));
      for (T& value : values) {
        (*this)(name, value);
      }
    }

    // Nested messages are in replies only.
    void operator()(std::string_view, SlabPiece&) const {}

    void operator()(std::string_view, RestoreShard&) const {}
  };

  struct Learner {
    ServerMessages* self;

    void operator()(std::string_view name, uint64_t& value) const {
      std::vector<uint64_t>& known = name == "region"       ? self->regions_
                                     : name == "generation" ? self->generations_
                                                            : self->numbers_;
      const bool kept = name == "upload" || name == "restore" || &known != &self->numbers_;
      if (kept && value != 0) {
        known.push_back(value);
      }
      if (known.size() > kKept) {
        known.erase(known.begin());
      }
    }

    void operator()(std::string_view, EpochId& epoch) const {
      self->epoch_ = epoch.IsNone() ? self->epoch_ : epoch;
    }

    void operator()(std::string_view, SnapshotId& id) const {
      if (!id.job.empty()) {
        self->snapshot_ = id;
      }
    }

    void operator()(std::string_view, auto&) const {}

    void Last(std::string_view, auto&) const {}
  };

  size_t size_ = 0;
  EpochId epoch_{1, 1};
  SnapshotId snapshot_;
  std::vector<uint64_t> numbers_;
  std::vector<uint64_t> regions_;
  std::vector<uint64_t> generations_;
};

}  // namespace gemel

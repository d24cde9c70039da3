// SPDX-License-Identifier: Apache-2.0
//
// Shards that go over two lanes of the verbs fabric under grants, in many schedules of the fake
// device: frames that are sent, and sent again on the other lane, faults, lanes that end, a device
// that dies, a grant that is closed at any moment. Streams, connections and the table of regions
// are the product's. In each schedule
//   * a shard that is complete when its grant is closed is what was sent: no torn commit;
//   * its memory does not change from then on: no use of a revoked grant;
//   * nothing is read of a source after its Send() has ended, and every Send() ends.
#include <array>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "common/digest.h"
#include "common/xxh3.h"
#include "tests/lab/verbs_ends.h"
#include "tests/unit/transport_sockets.h"
#include "transport/region.h"
#include "transport/verbs/verbs_references.h"
#include "transport/verbs/verbs_stream.h"

namespace gemel {
namespace {

constexpr uint64_t kSchedules = 2'000;  // 10^6 of them: --gtest_repeat=500
constexpr int kActions = 40;
constexpr size_t kLanes = 2;
constexpr size_t kShards = 3;
constexpr size_t kSendsMax = 12;
constexpr size_t kShardBytes = kVerbsReferredBytesMin + 1000;
constexpr size_t kVariants = 4096;

ByteSpan Content() {
  static const std::vector<std::byte> kContent = Pattern(kShardBytes + kVariants);
  return kContent;
}

// The holder's end of a lane.
class HolderLane final : public ConnectionEvents {
 public:
  explicit HolderLane(RegionTable* table) : table_(table) {}

  Placement PlacePayload(const FrameHeader& header, std::string_view /*body*/) override {
    const bool again = header.op % 2 == 1;
    absl::StatusOr<Placement> placement =
        table_->BeginPlacing(header, {.lane = this, .writer = {}, .again = again});
    return placement.ok() ? *std::move(placement) : Placement();
  }

  void OnFrame(IncomingFrame frame) override {
    if (!frame.payload_dropped) {
      const Digest128 digest = DecodeDigest(frame.body.data());
      EXPECT_EQ(table_->FinishPlacing(frame.header, digest, this), absl::OkStatus());
    }
  }

  void OnClosed(absl::Status /*why*/) override { table_->AbandonLane(this); }

 private:
  RegionTable* const table_;
};

class Transfer {
 public:
  Transfer(EpollLoop* loop, uint64_t seed)
      : loop_(loop), random_(Random(seed).Split("transfer")), fake_(seed) {
    GEMEL_CHECK(device_->AddMemory(sources_).ok() && device_->AddMemory(places_).ok());
    for (size_t shard = 0; shard < kShards; ++shard) {
      contents_.push_back(Content().subspan(random_.Below(kVariants), kShardBytes));
      grants_.push_back(table_.Open({PlaceOf(shard)}, kShardBytes, {}));
    }
    for (Lane& lane : lanes_) {
      Open(&lane);
    }
  }

  ~Transfer() {
    for (Lane& lane : lanes_) {
      End(&lane);
    }
    Turn();
  }

  void Run() {
    for (int i = 0; i < kActions; ++i) {
      Act();
    }
    for (int i = 0; i < kActions; ++i) {
      Turn();
    }
    for (size_t shard = 0; shard < kShards; ++shard) {
      Close(shard);
    }
    for (Lane& lane : lanes_) {
      End(&lane);
    }
    Turn();
    for (size_t send = 0; send < sent_.size(); ++send) {
      EXPECT_TRUE(sent_[send]->has_value()) << "a Send() that never ends";
    }
    for (size_t shard = 0; shard < kShards; ++shard) {
      EXPECT_TRUE(SameBytes(PlaceOf(shard), closed_.at(shard))) << "a revoked grant was used";
    }
    EXPECT_EQ(table_.corrupt_slices(), 0U) << "a source was read after its Send() had ended";
  }

  size_t complete() const { return complete_; }

 private:
  struct Lane {
    std::unique_ptr<HolderLane> holder;
    Recorder sender;
    std::unique_ptr<StreamConnection> from;
    std::unique_ptr<StreamConnection> to;
    std::array<uint32_t, 2> pairs{};
  };

  void Open(Lane* lane) {
    const VerbsStream::Options options{.slots = static_cast<uint32_t>(4 + random_.Below(5)),
                                       .slot_bytes = 512,
                                       .shared_slots_max = shared_slots_max_};
    auto from = *VerbsStream::Make(loop_, device_, options);
    auto to = *VerbsStream::Make(loop_, device_, options);
    lane->pairs = {from->hello().address.queue_pair, to->hello().address.queue_pair};
    GEMEL_CHECK(from->Connect(to->hello()).ok() && to->Connect(from->hello()).ok());
    auto [one, other] = SocketPair();
    from->Open(std::move(one));
    to->Open(std::move(other));
    constexpr auto kBytes = StreamConnection::Carries::kBytes;
    lane->holder = std::make_unique<HolderLane>(&table_);
    lane->from = std::make_unique<StreamConnection>(loop_, std::move(from), "holder", kBytes);
    lane->to = std::make_unique<StreamConnection>(loop_, std::move(to), "sender", kBytes);
    lane->from->Start(&lane->sender);
    lane->to->Start(lane->holder.get());
  }

  void End(Lane* lane) {
    lane->from.reset();
    lane->to.reset();
    table_.AbandonLane(lane->holder.get());
  }

  void Act() {
    const uint64_t action = random_.Below(40);
    const size_t shard = random_.Below(kShards);
    Lane& lane = lanes_.at(random_.Below(kLanes));
    const uint32_t pair = lane.pairs.at(random_.Below(2));
    if (action < 14) {
      Send(shard, &lane);
    } else if (action < 34) {
      Turn();
    } else if (action == 34) {
      const auto status = static_cast<ibv_wc_status>(1 + random_.Below(IBV_WC_TM_RNDV_INCOMPLETE));
      fake_.FailNext(pair, status, random_.Below(kShardBytes));
    } else if (action == 35) {
      fake_.RefuseNext(pair, random_.Below(4));
    } else if (action == 36) {
      Close(shard);
    } else if (action == 37 && random_.Chance(1, 3)) {
      lane.from.reset();
    } else if (action == 38 && random_.Chance(1, 3)) {
      lane.to.reset();
      table_.AbandonLane(lane.holder.get());
    } else if (action == 39 && random_.Chance(1, 20)) {
      fake_.Die();
    }
  }

  // From a source of its own, which is overwritten when the Send() ends.
  void Send(size_t shard, Lane* lane) {
    if (sent_.size() == kSendsMax || lane->from == nullptr) {
      return;
    }
    const MutableByteSpan source = SourceOf(sent_.size());
    std::copy(contents_[shard].begin(), contents_[shard].end(), source.begin());
    std::string digest(kDigestBytes, '\0');
    EncodeDigest(Xxh3_128(contents_[shard]), digest.data());
    OutgoingFrame frame = FrameWith(FrameType::kWrite, random_.Below(100), digest, source);
    frame.header.region = grants_[shard].region;
    frame.header.generation = grants_[shard].generation;
    sent_.push_back(Start(loop_, SendOnce(lane, std::move(frame), source)));
  }

  static Task<absl::Status> SendOnce(Lane* lane, OutgoingFrame frame, MutableByteSpan source) {
    if (lane->from == nullptr) {
      co_return error::Cancelled("the lane has ended");
    }
    const absl::Status sent = co_await lane->from->Send(std::move(frame));
    std::fill(source.begin(), source.end(), std::byte{0xEE});
    co_return sent;
  }

  void Close(size_t shard) {
    if (closed_.contains(shard)) {
      return;
    }
    const auto closed = table_.Close(grants_[shard].region, grants_[shard].generation);
    ASSERT_TRUE(closed.ok()) << closed.status();
    if (closed->complete) {
      complete_ += 1;
      EXPECT_TRUE(SameBytes(PlaceOf(shard), contents_[shard])) << "a torn commit";
    }
    closed_[shard].assign(PlaceOf(shard).begin(), PlaceOf(shard).end());
  }

  // All that is ready or posted.
  void Turn() {
    bool turned = false;
    loop_->Post([&turned] { turned = true; });
    ASSERT_TRUE(RunLoop(loop_, [&turned] { return turned; }));
  }

  MutableByteSpan SourceOf(size_t send) {
    return MutableByteSpan(sources_).subspan(send * kShardBytes, kShardBytes);
  }

  MutableByteSpan PlaceOf(size_t shard) {
    return MutableByteSpan(places_).subspan(shard * kShardBytes, kShardBytes);
  }

  EpollLoop* const loop_;
  Random random_;
  const uint32_t shared_slots_max_ = uint32_t{8} << random_.Below(8);
  FakeVerbs fake_;
  std::vector<std::byte> sources_ = std::vector<std::byte>(kSendsMax * kShardBytes);
  std::vector<std::byte> places_ = std::vector<std::byte>(kShards * kShardBytes);
  std::shared_ptr<VerbsDevice> device_ = *VerbsDevice::Open(&fake_.calls(), "");
  RegionTable table_;
  std::vector<ByteSpan> contents_;  // by shard, as what follows
  std::vector<Grant> grants_;
  std::map<size_t, std::vector<std::byte>> closed_;  // what lay there when its grant was closed
  std::array<Lane, kLanes> lanes_;
  std::vector<std::shared_ptr<std::optional<absl::Status>>> sent_;
  size_t complete_ = 0;
};

TEST(VerbsTransfers, NoTornCommitAndNoUseOfARevokedGrant) {
  static uint64_t repeated = 0;  // by --gtest_repeat
  const std::unique_ptr<EpollLoop> loop = *EpollLoop::Create();
  uint64_t complete = 0;
  const uint64_t first = kSchedules * repeated++;
  for (uint64_t seed = first; seed < first + kSchedules && !HasFailure(); ++seed) {
    SCOPED_TRACE(seed);
    Transfer transfer(loop.get(), seed);
    transfer.Run();
    complete += transfer.complete();
  }
  EXPECT_GT(complete, kSchedules / 2);
  EXPECT_LT(complete, kShards * kSchedules);
  loop->Shutdown();
}

}  // namespace
}  // namespace gemel

// SPDX-License-Identifier: Apache-2.0
//
// VerbsQueuePair: one reliable connection (RC) and its completions; the lane of the verbs fabric
// (DESIGN section 7).
//
// Work requests are gathered into a chain and handed to the device by one doorbell (Ring(), or by
// itself at chain_max). One in signal_every asks for a completion, and the last of a chain; what
// was not signalled is told with the next that is. Sources up to the device's inline size are
// copied at the doorbell (Kalia et al., ATC'16, section 3).
//
// Thread safety: one loop.
// Ownership: lives no longer than its device and the regions that its requests name, and longer
// than the windows that it bound. Sources and destinations stay the caller's until their request is
// told.
// Invariants:
//   (1) every request that was taken is told by Poll() exactly once, in the order it was taken;
//   (2) a write that is told OK is PLACED; one that is told with an error may have landed;
//   (3) after the first error every request is told with an error, and no other is taken: the
//       connection is broken for good, and a new one takes its place;
//   (4) at most `depth` requests are under way;
//   (5) of a shared receive queue: every receive that the device told of is told by Poll(), the
//       last ones by the Poll() after Fence(). The device may have taken one more (a message that
//       was arriving), which is told by nobody: see verbs_receives.h.
// Errors of a request that is not taken: ResourceExhausted (depth reached: Poll() first),
// Unavailable (broken, or not connected), InvalidArgument (outside of its region).
#pragma once

#include <infiniband/verbs.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"

#include "common/bytes.h"
#include "transport/verbs/verbs_device.h"

namespace gemel {

// In the wr_id of every receive: an error has no opcode to tell it by.
inline constexpr uint64_t kVerbsReceive = uint64_t{1} << 63;

// What the other side must know to connect.
struct VerbsAddress {
  ibv_gid gid{};
  uint16_t lid = 0;
  ibv_mtu mtu = IBV_MTU_1024;
  uint32_t queue_pair = 0;
  uint32_t first_packet = 0;  // 24 bits
};

// Memory of the peer: an address of its process and the key of a window.
struct VerbsPlace {
  uint64_t address = 0;
  uint32_t key = 0;
};

enum class WorkKind : uint8_t { kWrite, kRead, kSend, kBind, kInvalidate, kReceived, kTold };

// The end of a request of ours, or something that arrived: kReceived for a Send() of the peer,
// kTold for a Write() with a number.
struct WorkDone {
  uint64_t id = 0;
  WorkKind kind = WorkKind::kWrite;
  ibv_wc_status status = IBV_WC_SUCCESS;
  uint32_t bytes = 0;   // kReceived: how many came
  uint32_t number = 0;  // kTold: the peer's
};

// Of one queue pair, since it was made.
struct VerbsCounts {
  uint64_t requests = 0;
  uint64_t doorbells = 0;
  uint64_t signalled = 0;
  uint64_t inlined = 0;
};

inline constexpr uint8_t kVerbsRetryForEver = 7;  // as ibv_modify_qp(3) says

class VerbsQueuePair {
 public:
  struct Options {
    uint32_t depth = 128;
    uint32_t chain_max = 32;
    uint32_t signal_every = 16;
    uint32_t inline_bytes = 256;
    // 4.096 us x 2^14 = 67 ms without an answer, then once more, so often. A receiver without a
    // buffer is tried again 0.64 ms later. Both are bounded: what cannot be sent ends as an error.
    // kVerbsRetryForEver: a receiver that is there is waited for.
    uint8_t timeout_exponent = 14;
    uint8_t retries = 7;
    uint8_t receiver_retries = 6;
    uint8_t reads_at_once = 4;
    bool with_events = false;  // event_descriptor() tells when to Poll()
    // A random one is best: packets that the network kept of an earlier connection are then
    // foreign.
    uint32_t first_packet = 0;
    // Whose receives it takes, with the slot and kVerbsReceive as their wr_id; null: it has some of
    // its own, by PostReceive(). Outlives it.
    ibv_srq* receives = nullptr;
  };

  static absl::StatusOr<std::unique_ptr<VerbsQueuePair>> Make(VerbsDevice* device,
                                                              const Options& options);
  VerbsQueuePair(const VerbsQueuePair&) = delete;
  VerbsQueuePair& operator=(const VerbsQueuePair&) = delete;
  ~VerbsQueuePair();

  const VerbsAddress& address() const { return address_; }

  // Once, before the first request; receives may be posted before. No byte is exchanged: a peer
  // that is not there is found by the first request.
  absl::Status Connect(const VerbsAddress& peer);

  // `source` and `into` lie in `region`. With `number` the peer is told when all that was written
  // before, and this, has landed; it must have posted a receive.
  absl::Status Write(uint64_t id, ByteSpan source, const VerbsRegion& region, VerbsPlace to,
                     std::optional<uint32_t> number = std::nullopt);
  absl::Status Read(uint64_t id, MutableByteSpan into, const VerbsRegion& region, VerbsPlace from);
  absl::Status Send(uint64_t id, ByteSpan source, const VerbsRegion& region);
  // Lets this connection's peer write into `bytes` of `region`, or read them, under window->key(),
  // from when it is told.
  absl::Status Bind(uint64_t id, VerbsWindow* window, const VerbsRegion& region,
                    MutableByteSpan bytes, bool may_write);
  // The fence: when it is told OK, the key of the window is good for nothing.
  absl::Status Invalidate(uint64_t id, const VerbsWindow& window);
  // A buffer for one Send(), or for the word of one Write() with a number (then it may be empty).
  // REQUIRES: no shared receives.
  absl::Status PostReceive(uint64_t id, MutableByteSpan into, const VerbsRegion& region);

  // Hands the device what was gathered.
  void Ring();
  // Rings, then appends what has ended or arrived since. Never waits.
  void Poll(std::vector<WorkDone>* done);
  // Asks to be told of what ends or arrives from now on; what did before is for the Poll() after
  // it. REQUIRES: with_events.
  void Arm();
  // Breaks the connection: what is under way is told with an error, unless it had ended.
  void Break();
  // Breaks it, and when it returns the device reads and writes no memory of a request any more;
  // what is under way is told by the next Poll(). REQUIRES: windows bound to it are free.
  void Fence();

  // Can be read when something has ended or arrived since Arm(); -1 without with_events.
  int event_descriptor() const { return events_ == nullptr ? -1 : events_->fd; }

  bool broken() const { return broken_; }

  size_t under_way() const { return static_cast<size_t>(next_ - oldest_); }

  const VerbsCounts& counts() const { return counts_; }

 private:
  struct Slot {
    uint64_t id = 0;
    WorkKind kind = WorkKind::kWrite;
    VerbsWindow* window = nullptr;  // kBind
  };

  VerbsQueuePair(VerbsDevice* device, const Options& options);

  absl::Status MakeQueues();
  absl::Status Initialise();
  absl::Status MayTake() const;
  // The next request of the chain, filled in but for what its kind needs.
  ibv_send_wr* Take(uint64_t id, WorkKind kind, ibv_wr_opcode opcode);
  void SetPiece(ibv_send_wr* request, ByteSpan bytes, const VerbsRegion& region);
  void RingIfFull();
  void Tell(const Slot& slot, ibv_wc_status status, std::vector<WorkDone>* done);
  void TellThrough(uint64_t sequence, ibv_wc_status last, std::vector<WorkDone>* done);
  void OnCompletion(const ibv_wc& completion, std::vector<WorkDone>* done);
  void GiveUp(std::vector<WorkDone>* done);
  void Drain();
  void DestroyQueuePair();

  VerbsDevice* const device_;
  Options options_;
  ibv_comp_channel* events_ = nullptr;
  ibv_cq* completions_ = nullptr;
  ibv_qp* queue_pair_ = nullptr;
  VerbsAddress address_;
  bool connected_ = false;
  bool broken_ = false;
  // Requests by sequence: oldest_ … posted_ are with the device, posted_ … next_ in the chain.
  uint64_t oldest_ = 0;
  uint64_t posted_ = 0;
  uint64_t next_ = 0;
  ibv_wc_status failed_ = IBV_WC_SUCCESS;  // the first error
  std::vector<Slot> slots_;                // by sequence modulo depth
  std::vector<ibv_send_wr> chain_;
  std::vector<ibv_sge> pieces_;
  std::vector<WorkDone> drained_;  // for the next Poll()
  VerbsCounts counts_;
};

}  // namespace gemel

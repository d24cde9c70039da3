// SPDX-License-Identifier: Apache-2.0
//
// SimEndpoint: one end of a simulated connection, with the kernel's part of it: what is queued to
// send, what is on its way here, what has arrived and is not yet handed out.
//
// Life of a frame: Enqueue → captured (payload copied at a random instant after the post) → LOCAL
// told → arrives over the link → PlacePayload → first part lands → second part lands → OnFrame.
//
// Thread safety: one thread. Steps of the sender run on the sender's loop, steps of the receiver on
// the receiver's, so a paused process stands still and a killed one is never called. Ownership:
// shared by the SimConnection (its shell), events under way and the process's list of parts.
// Invariants:
//   (1) frames arrive whole and in the order of Enqueue, whatever the link does, or the end closes;
//   (2) no byte is read from a sender's payload after LOCAL, an error, or the sender's death, and
//   none
//       is written to a place that its owner has revoked, nor after the end is closed;
//   (3) at most kWindowBytes are on the way to an end; then its sender waits, as with a full
//   socket.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>

#include "common/sync.h"
#include "transport/net.h"
#include "transport/sim/sim_node_process.h"
#include "transport/sim/sim_world.h"

namespace gemel {

class SimEndpoint final : public SimPart, public std::enable_shared_from_this<SimEndpoint> {
 public:
  static constexpr uint64_t kWindowBytes = 8 * kMiB;
  static_assert(kWindowBytes >= 2 * uint64_t{kFramePayloadBytesMax}, "or one frame fills it");
  // Set in the op of a frame that lands late or twice: no call waits for such an op.
  static constexpr uint64_t kStaleOpBit = uint64_t{1} << 63;

  struct Outgoing {
    Outgoing(OutgoingFrame frame, Loop* loop) : frame(std::move(frame)), done(loop) {}

    OutgoingFrame frame;
    OneShot<absl::Status> done;
    bool captured = false;
  };

  struct Pair {
    std::shared_ptr<SimEndpoint> client;
    std::shared_ptr<SimEndpoint> server;
  };

  // Both ends, open. REQUIRES: both processes are alive.
  static Pair Make(const std::shared_ptr<SimNodeProcess>& client,
                   const std::shared_ptr<SimNodeProcess>& server, const SimAddress& address);

  SimEndpoint(std::shared_ptr<SimNodeProcess> process, Route route, std::string peer, bool local);

  void Start(ConnectionEvents* events);
  // shared: the sending coroutine and the queue hold it, either may go first.
  std::shared_ptr<Outgoing> Enqueue(OutgoingFrame frame);
  // The sending coroutine was destroyed: its payload is not read any more.
  void Abandon(const Outgoing& outgoing);
  // The user closes: sends in progress fail, OnClosed(why) follows from the queue.
  void Close(absl::Status why);
  // The user's shell is gone: closes without an event.
  void Release();

  void OnOwnerKilled() override;
  void OnLinkBroken(const std::string& a, const std::string& b) override;
  void OnCutFrom(uint64_t pid) override;

  bool open() const { return open_; }

  // REQUIRES: the process is alive.
  Loop* loop() const { return process_->loop(); }

  const std::string& peer() const { return peer_; }

 private:
  struct WireFrame {
    std::array<uint8_t, kFrameHeaderBytes> header{};
    std::string body;
    std::string payload;
    Handles handles;
    bool cut = false;       // the connection breaks while this one lands
    bool is_close = false;  // not a frame: the other end closed
    absl::Status why;

    uint64_t bytes() const { return header.size() + body.size() + payload.size(); }
  };

  enum class TellPeer { kYes, kNo };

  // What is being handed out: the front frame between its steps.
  struct Landing {
    WireFrame frame;
    FrameHeader header;
    Placement placement;
    uint64_t landed_bytes = 0;
  };

  SimLink& link() const { return process_->world()->Link(route_); }

  void Shut(absl::Status why, TellPeer tell);

  // sim_endpoint_send.cc
  void Pump();
  void Capture();
  void TellLocal();
  WireFrame Encode(const OutgoingFrame& outgoing) const;
  void PutOnWire(WireFrame frame, const FrameHeader& header);
  void PushTo(const std::shared_ptr<SimEndpoint>& other, WireFrame frame,
              SimWorld::InBlackhole fate);
  void FlipBit(WireFrame* frame);
  void ScheduleLateWrite(const std::shared_ptr<SimEndpoint>& other, WireFrame frame);
  void SendClose();

  // sim_endpoint_receive.cc
  void Arrive(uint64_t wire_epoch);
  void ArriveLate(WireFrame frame);
  std::shared_ptr<SimEndpoint> FindOpenSibling();
  void Bounce();
  void WakeReader();
  void DeliverNext();
  void BeginLanding();
  void FinishLanding();
  void LandUpTo(uint64_t end);
  void HandOut();
  void GiveBack(uint64_t bytes);

  const std::shared_ptr<SimNodeProcess> process_;
  const Route route_;  // of what this end sends
  const std::string peer_;
  const bool local_;
  std::weak_ptr<SimEndpoint> other_;
  uint64_t peer_pid_ = 0;
  ConnectionEvents* events_ = nullptr;
  bool open_ = true;
  absl::Status closed_why_;

  std::deque<std::shared_ptr<Outgoing>> outgoing_;
  bool sending_ = false;

  std::deque<WireFrame> wire_;  // on the way here
  uint64_t wire_epoch_ = 0;     // an arrival of an older epoch carries nothing: the wire was cut
  uint64_t unread_bytes_ = 0;   // of wire_, inbox_ and landing_
  std::deque<WireFrame> inbox_;
  std::unique_ptr<Landing> landing_;
  uint64_t frames_handed_out_ = 0;
};

}  // namespace gemel

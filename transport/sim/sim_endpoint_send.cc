// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstring>
#include <utility>

#include "common/check.h"
#include "common/crc32c.h"
#include "common/errors.h"
#include "transport/sim/sim_endpoint.h"

namespace gemel {
namespace {

constexpr Duration kCaptureDelayMax = 20us;
constexpr Duration kLocalDelayMax = 20us;
constexpr uint64_t kBitsPerByte = 8;

bool IsWrite(const FrameHeader& header) {
  return header.type == FrameType::kWrite && !header.is_reply();
}

}  // namespace

std::shared_ptr<SimEndpoint::Outgoing> SimEndpoint::Enqueue(OutgoingFrame frame) {
  auto outgoing = std::make_shared<Outgoing>(std::move(frame), process_->loop());
  if (!open_) {
    outgoing->done.Set(closed_why_);
    return outgoing;
  }
  if (!local_ && !outgoing->frame.handles.empty()) {
    absl::Status why = error::InvalidArgument(
        "{} handles cannot travel to {}: they need a unix socket of the same node",
        outgoing->frame.handles.size(), peer_);
    outgoing->done.Set(why);
    Close(std::move(why));
    return outgoing;
  }
  outgoing_.push_back(outgoing);
  Pump();
  return outgoing;
}

void SimEndpoint::Abandon(const Outgoing& outgoing) {
  const bool read_later = !outgoing.captured && !outgoing.frame.payload.empty();
  if (open_ && read_later && outgoing.frame.keep == nullptr) {
    Close(error::Cancelled("a frame for {} was given up before its payload was sent", peer_));
  }
}

void SimEndpoint::Pump() {
  if (!open_ || sending_ || outgoing_.empty()) {
    return;
  }
  std::shared_ptr<SimEndpoint> other = other_.lock();
  if (other != nullptr && other->unread_bytes_ >= kWindowBytes) {
    return;  // GiveBack() of the other end pumps again (3)
  }
  sending_ = true;
  const Duration wait = link().Between(Duration::zero(), kCaptureDelayMax);
  SimLoop* loop = process_->loop();
  loop->RunAt(Add(loop->Now(), wait), [self = shared_from_this()] { self->Capture(); });
}

void SimEndpoint::Capture() {
  if (!open_) {
    return;
  }
  GEMEL_CHECK(sending_ && !outgoing_.empty());
  const std::shared_ptr<Outgoing> outgoing = outgoing_.front();
  if (outgoing->frame.IsUnwanted()) {
    outgoing_.pop_front();
    sending_ = false;
    outgoing->done.Set(error::Cancelled("a frame to {} was unwanted before it left", peer_));
    Pump();
    return;
  }
  WireFrame frame = Encode(outgoing->frame);
  outgoing->captured = true;
  const auto payload_bytes = static_cast<int64_t>(frame.payload.size());
  const Duration wire_time = link().faults.transmit_per_mib * payload_bytes / kMiB;
  PutOnWire(std::move(frame), outgoing->frame.header);
  const Duration wait = link().Between(Duration::zero(), kLocalDelayMax);
  SimLoop* loop = process_->loop();
  loop->RunAt(Add(loop->Now(), wait + wire_time),
              [self = shared_from_this()] { self->TellLocal(); });
}

void SimEndpoint::TellLocal() {
  if (!open_) {
    return;
  }
  GEMEL_CHECK(sending_ && !outgoing_.empty() && outgoing_.front()->captured);
  const std::shared_ptr<Outgoing> outgoing = std::move(outgoing_.front());
  outgoing_.pop_front();
  sending_ = false;
  outgoing->done.Set(absl::OkStatus());
  Pump();
}

SimEndpoint::WireFrame SimEndpoint::Encode(const OutgoingFrame& outgoing) const {
  GEMEL_CHECK_LE(outgoing.body.size(), kFrameBodyBytesMax);
  GEMEL_CHECK_LE(outgoing.payload.size(), kFramePayloadBytesMax);
  GEMEL_CHECK_LE(outgoing.handles.size(), kFrameHandlesMax);
  FrameHeader header = outgoing.header;
  header.body_bytes = static_cast<uint32_t>(outgoing.body.size());
  header.payload_bytes = static_cast<uint32_t>(outgoing.payload.size());
  header.body_crc32c = Crc32c(AsBytes(outgoing.body));
  header.handle_count = static_cast<uint32_t>(outgoing.handles.size());
  WireFrame frame;
  frame.header = EncodeFrameHeader(header);
  frame.body = outgoing.body;
  frame.payload = std::string(AsText(outgoing.payload));
  frame.handles = outgoing.handles;
  return frame;
}

void SimEndpoint::PutOnWire(WireFrame frame, const FrameHeader& header) {
  std::shared_ptr<SimEndpoint> other = other_.lock();
  if (other == nullptr) {
    return;  // the peer's end is gone; its close is on the way or was lost
  }
  SimLink& link = this->link();
  const LinkFaults& faults = link.faults;
  link.stats.frames += 1;
  link.stats.frame_bytes += frame.bytes();
  frame.cut = link.Happens(faults.reset_ppm);
  link.stats.resets += frame.cut ? 1 : 0;
  if (IsWrite(header) && link.Happens(faults.late_write_ppm)) {
    ScheduleLateWrite(other, frame);
  }
  const bool repeatable = IsWrite(header) || header.is_reply();
  const bool twice = repeatable && !frame.cut && link.Happens(faults.duplicate_ppm);
  WireFrame second = twice ? frame : WireFrame();
  if (link.Happens(faults.corrupt_ppm)) {
    FlipBit(&frame);
  }
  PushTo(other, std::move(frame), SimWorld::InBlackhole::kHeld);
  if (twice) {
    link.stats.duplicates += 1;
    FrameHeader stale = *DecodeFrameHeader(std::as_bytes(std::span(second.header)));
    stale.op |= stale.is_reply() ? 0 : kStaleOpBit;
    second.header = EncodeFrameHeader(stale);
    PushTo(other, std::move(second), SimWorld::InBlackhole::kHeld);
  }
}

void SimEndpoint::PushTo(const std::shared_ptr<SimEndpoint>& other, WireFrame frame,
                         SimWorld::InBlackhole fate) {
  other->unread_bytes_ += frame.bytes();
  other->wire_.push_back(std::move(frame));
  process_->world()->Transmit(route_, fate,
                              [other, epoch = other->wire_epoch_] { other->Arrive(epoch); });
}

void SimEndpoint::FlipBit(WireFrame* frame) {
  SimLink& link = this->link();
  link.stats.corruptions += 1;
  const uint64_t bit = link.Below(frame->bytes() * kBitsPerByte);
  const auto mask = static_cast<uint8_t>(1U << (bit % kBitsPerByte));
  uint64_t index = bit / kBitsPerByte;
  if (index < frame->header.size()) {
    frame->header[index] ^= mask;
    return;
  }
  index -= frame->header.size();
  std::string* part = index < frame->body.size() ? &frame->body : &frame->payload;
  index -= index < frame->body.size() ? 0 : frame->body.size();
  (*part)[index] = static_cast<char>(static_cast<uint8_t>((*part)[index]) ^ mask);
}

void SimEndpoint::ScheduleLateWrite(const std::shared_ptr<SimEndpoint>& other, WireFrame frame) {
  SimLink& link = this->link();
  link.stats.late_writes += 1;
  GEMEL_CHECK(other != nullptr && !frame.is_close);
  frame.cut = false;
  FrameHeader stale = *DecodeFrameHeader(std::as_bytes(std::span(frame.header)));
  stale.op |= kStaleOpBit;
  frame.header = EncodeFrameHeader(stale);
  const Duration late = link.Between(Duration::zero(), link.faults.late_max);
  SimWorld* world = process_->world();
  auto set_off = [world, route = route_, other, frame = std::move(frame)]() mutable {
    world->Transmit(
        route, SimWorld::InBlackhole::kHeld,
        [other, frame = std::move(frame)]() mutable { other->ArriveLate(std::move(frame)); });
  };
  world->scheduler()->At(Add(world->now(), late), std::move(set_off));
}

void SimEndpoint::SendClose() {
  std::shared_ptr<SimEndpoint> other = other_.lock();
  if (other == nullptr || !other->open_ || !process_->in_world()) {
    return;
  }
  // A reset overtakes what is on the way; an orderly end follows it.
  if (link().Below(2) == 0) {
    for (const WireFrame& frame : other->wire_) {
      other->unread_bytes_ -= frame.bytes();
    }
    other->wire_.clear();
    other->wire_epoch_ += 1;
  }
  WireFrame close;
  close.is_close = true;
  close.why = error::Unavailable("the connection to {} was closed by the other side", other->peer_);
  PushTo(other, std::move(close), SimWorld::InBlackhole::kLost);
}

}  // namespace gemel

// SPDX-License-Identifier: Apache-2.0
#include <cstring>
#include <utility>

#include "common/check.h"
#include "common/errors.h"
#include "common/points.h"
#include "transport/sim/sim_endpoint.h"

namespace gemel {
namespace {

constexpr Duration kQuickLanding = 1ms;

}  // namespace

SimEndpoint::SimEndpoint(std::shared_ptr<SimNodeProcess> process, Route route, std::string peer,
                         bool local)
    : process_(std::move(process)),
      route_(std::move(route)),
      peer_(std::move(peer)),
      local_(local) {}

SimEndpoint::Pair SimEndpoint::Make(const std::shared_ptr<SimNodeProcess>& client,
                                    const std::shared_ptr<SimNodeProcess>& server,
                                    const SimAddress& address) {
  GEMEL_CHECK(client->alive() && server->alive());
  const Route route{client->node(), server->node()};
  auto caller = std::make_shared<SimEndpoint>(client, route, address.ToString(), address.local);
  auto answerer =
      std::make_shared<SimEndpoint>(server, route.Reverse(), client->ToString(), address.local);
  caller->other_ = answerer;
  answerer->other_ = caller;
  caller->peer_pid_ = server->pid();
  answerer->peer_pid_ = client->pid();
  client->Attach(caller);
  server->Attach(answerer);
  return {std::move(caller), std::move(answerer)};
}

void SimEndpoint::Start(ConnectionEvents* events) {
  GEMEL_CHECK(events != nullptr && events_ == nullptr) << "Start() of " << peer_ << " twice";
  events_ = events;
  WakeReader();
}

void SimEndpoint::Close(absl::Status why) {
  GEMEL_CHECK(!why.ok()) << "a connection is closed with a reason";
  Shut(std::move(why), TellPeer::kYes);
}

void SimEndpoint::Release() {
  events_ = nullptr;
  Shut(error::Cancelled("the connection to {} was destroyed", peer_), TellPeer::kYes);
}

void SimEndpoint::Shut(absl::Status why, TellPeer tell) {
  if (!open_) {
    return;
  }
  open_ = false;
  closed_why_ = std::move(why);
  landing_.reset();
  inbox_.clear();
  auto outgoing = std::exchange(outgoing_, {});
  if (tell == TellPeer::kYes) {
    SendClose();
  }
  if (!process_->alive()) {
    return;
  }
  for (const std::shared_ptr<Outgoing>& send : outgoing) {
    send->done.Set(closed_why_);
  }
  WakeReader();
}

void SimEndpoint::OnOwnerKilled() {
  events_ = nullptr;
  Shut(error::Unavailable("{} was killed", process_->ToString()), TellPeer::kYes);
}

void SimEndpoint::OnLinkBroken(const std::string& a, const std::string& b) {
  if (route_ == Route{a, b} || route_ == Route{b, a}) {
    Shut(error::Unavailable("the connection to {} was reset", peer_), TellPeer::kNo);
  }
}

void SimEndpoint::OnCutFrom(uint64_t pid) {
  if (peer_pid_ == pid) {
    Shut(error::Unavailable("the connection to {} was reset", peer_), TellPeer::kNo);
  }
}

void SimEndpoint::Arrive(uint64_t wire_epoch) {
  if (wire_epoch != wire_epoch_) {
    return;
  }
  GEMEL_CHECK(!wire_.empty());
  WireFrame frame = std::move(wire_.front());
  wire_.pop_front();
  SimWorld* world = process_->world();
  world->Record(frame.is_close ? "close" : "frame header", peer_pid_, process_->pid(),
                AsText(std::as_bytes(std::span(frame.header))));
  world->Record("frame payload", peer_pid_, process_->pid(), frame.payload);
  if (!open_) {
    if (!frame.is_close) {
      Bounce();
    }
    return;
  }
  inbox_.push_back(std::move(frame));
  WakeReader();
}

void SimEndpoint::Bounce() {
  auto reset = [weak = other_] {
    if (std::shared_ptr<SimEndpoint> other = weak.lock()) {
      other->Shut(
          error::Unavailable("the connection to {} was reset: that side is closed", other->peer_),
          TellPeer::kNo);
    }
  };
  process_->world()->Transmit(route_, SimWorld::InBlackhole::kLost, std::move(reset));
}

std::shared_ptr<SimEndpoint> SimEndpoint::FindOpenSibling() {
  for (const std::shared_ptr<SimPart>& part : process_->Parts()) {
    auto sibling = std::dynamic_pointer_cast<SimEndpoint>(part);
    const bool same_pair = sibling != nullptr && sibling->peer_pid_ == peer_pid_;
    // One that has spoken: a late write never comes before the hello of its connection.
    if (same_pair && sibling->open_ && sibling->frames_handed_out_ > 0) {
      return sibling;
    }
  }
  return nullptr;
}

void SimEndpoint::ArriveLate(WireFrame frame) {
  std::shared_ptr<SimEndpoint> end = open_ ? shared_from_this() : FindOpenSibling();
  if (end == nullptr) {
    return;
  }
  process_->world()->Record("late write", peer_pid_, process_->pid(), frame.payload);
  end->unread_bytes_ += frame.bytes();
  end->inbox_.push_back(std::move(frame));
  end->WakeReader();
}

void SimEndpoint::WakeReader() {
  process_->Post([self = shared_from_this()] { self->DeliverNext(); });
}

void SimEndpoint::DeliverNext() {
  if (events_ == nullptr) {
    return;
  }
  if (!open_) {
    ConnectionEvents* events = std::exchange(events_, nullptr);
    events->OnClosed(closed_why_);
    return;
  }
  if (landing_ != nullptr || inbox_.empty()) {
    return;
  }
  landing_ = std::make_unique<Landing>();
  landing_->frame = std::move(inbox_.front());
  inbox_.pop_front();
  if (landing_->frame.is_close) {
    Shut(landing_->frame.why, TellPeer::kNo);
    return;
  }
  BeginLanding();
}

void SimEndpoint::BeginLanding() {
  WireFrame& frame = landing_->frame;
  absl::StatusOr<FrameHeader> header = DecodeFrameHeader(std::as_bytes(std::span(frame.header)));
  absl::Status good = header.ok() ? CheckFrameBody(*header, frame.body) : header.status();
  if (!good.ok()) {
    Shut(Annotate(good, peer_), TellPeer::kYes);
    return;
  }
  landing_->header = *header;
  SimLink& link = this->link();
  uint64_t first_part = 0;
  if (!frame.payload.empty()) {
    Placement placement = events_->PlacePayload(*header, frame.body);
    if (!open_ || landing_ == nullptr) {
      return;  // closed by the user within PlacePayload
    }
    GEMEL_CHECK(placement.place.empty() || placement.place.size() >= frame.payload.size())
        << "a payload of " << frame.payload.size() << " bytes placed into "
        << placement.place.size();
    landing_->placement = std::move(placement);
    first_part = link.Below(frame.payload.size() + 1);
  }
  LandUpTo(first_part);
  const bool stalls = !frame.payload.empty() && link.Happens(link.faults.stall_ppm);
  const bool at_once = !stalls && !frame.cut && (frame.payload.empty() || link.Below(2) == 0);
  const Duration gap_max = stalls ? link.faults.stall_max : link.faults.landing_max;
  const Duration gap = at_once ? Duration::zero() : link.Between(Duration::zero(), gap_max);
  link.stats.slow_landings += gap > kQuickLanding ? 1 : 0;
  SimLoop* loop = process_->loop();
  if (at_once) {
    FinishLanding();
  } else {
    loop->RunAt(Add(loop->Now(), gap), [self = shared_from_this()] { self->FinishLanding(); });
  }
}

void SimEndpoint::LandUpTo(uint64_t end) {
  const Placement& placement = landing_->placement;
  const uint64_t start = landing_->landed_bytes;
  GEMEL_CHECK_LE(start, end);
  GEMEL_CHECK_LE(end, landing_->frame.payload.size());
  landing_->landed_bytes = end;
  if (placement.place.empty() || placement.revoked() || start == end) {
    return;
  }
  std::memcpy(placement.place.data() + start, landing_->frame.payload.data() + start, end - start);
  process_->world()->Landed(process_->node(), placement.place.subspan(start, end - start));
}

void SimEndpoint::FinishLanding() {
  if (!open_ || landing_ == nullptr) {
    return;
  }
  if (landing_->frame.cut) {
    Shut(error::Unavailable("the connection to {} was reset in the middle of a frame", peer_),
         TellPeer::kYes);
    return;
  }
  // A place that is taken back in the middle costs the lane where the device writes by itself
  // (docs/decisions/0016).
  if (landing_->placement.revoked() && landing_->landed_bytes < landing_->frame.payload.size() &&
      Buggify(BuggifySite::kLaneFenced)) {
    Shut(error::Unavailable("what {} sent was landing, and is wanted no more", peer_),
         TellPeer::kYes);
    return;
  }
  LandUpTo(landing_->frame.payload.size());
  HandOut();
}

void SimEndpoint::HandOut() {
  const std::unique_ptr<Landing> landed = std::exchange(landing_, nullptr);
  GEMEL_CHECK(landed != nullptr && landed->landed_bytes == landed->frame.payload.size());
  const Placement& placement = landed->placement;
  IncomingFrame frame;
  frame.header = landed->header;
  const uint64_t payload_bytes = landed->frame.payload.size();
  frame.payload_dropped = payload_bytes > 0 && (placement.place.empty() || placement.revoked());
  if (payload_bytes > 0 && !frame.payload_dropped) {
    frame.payload = placement.place.first(payload_bytes);
  }
  GiveBack(landed->frame.bytes());
  frame.body = std::move(landed->frame.body);
  frame.handles = std::move(landed->frame.handles);
  frames_handed_out_ += 1;
  WakeReader();
  events_->OnFrame(std::move(frame));  // last: it may destroy the connection
}

void SimEndpoint::GiveBack(uint64_t bytes) {
  GEMEL_CHECK_GE(unread_bytes_, bytes);
  const bool was_full = unread_bytes_ >= kWindowBytes;
  unread_bytes_ -= bytes;
  std::shared_ptr<SimEndpoint> other = other_.lock();
  if (was_full && unread_bytes_ < kWindowBytes && other != nullptr) {
    other->process_->Post([other] { other->Pump(); });
  }
}

}  // namespace gemel

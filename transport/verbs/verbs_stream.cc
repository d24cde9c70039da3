// SPDX-License-Identifier: Apache-2.0
#include "transport/verbs/verbs_stream.h"

#include <sys/epoll.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <utility>
#include <vector>

#include "common/check.h"
#include "common/copies.h"
#include "common/errors.h"
#include "common/status_macros.h"
#include "transport/outcome.h"
#include "transport/stream_socket.h"
#include "transport/verbs/verbs_outcome.h"
#include "transport/verbs/verbs_receives.h"
#include "transport/verbs/verbs_references.h"

namespace gemel {
namespace {

// Messages that only give receives back: for them there is always room at both ends.
constexpr uint32_t kReserved = 2;
constexpr size_t kPageBytes = 4096;

int ErrnoOf(ibv_wc_status status) {
  switch (status) {
    case IBV_WC_RETRY_EXC_ERR:
    case IBV_WC_RNR_RETRY_EXC_ERR:
    case IBV_WC_RESP_TIMEOUT_ERR:
      return ETIMEDOUT;
    default:
      return ECONNRESET;
  }
}

bool IsArrival(const WorkDone& done) {
  return done.kind == WorkKind::kReceived || done.kind == WorkKind::kTold;
}

struct Free {
  void operator()(std::byte* memory) const { std::free(memory); }
};

}  // namespace

class VerbsStream::Core : public std::enable_shared_from_this<Core> {
 public:
  Core(EpollLoop* loop, std::shared_ptr<VerbsDevice> device, Options options)
      : loop_(loop), device_(std::move(device)), options_(std::move(options)) {}

  Core(const Core&) = delete;
  Core& operator=(const Core&) = delete;

  ~Core() {
    if (pair_ != nullptr) {  // of a loop that ended
      EndQueuePair();
    }
  }

  absl::Status Make();
  absl::Status Connect(const VerbsHello& peer);
  void Open(Descriptor socket);
  VerbsHello hello() const;
  IoResult Receive(MutableByteSpan into);
  void StopLanding();
  IoResult Send(std::span<const ByteSpan> pieces);
  size_t Held() const;
  void Watch(uint32_t events, ReadyCallback ready);
  void Close();

 private:
  struct Arrived {
    std::optional<uint64_t> slot = std::nullopt;  // that holds the bytes; else `copied` does
    std::vector<std::byte> copied = {};
    ByteSpan left = {};                                      // of the bytes
    std::optional<VerbsReference> reference = std::nullopt;  // behind them: what is left of it
  };

  // A read of some bytes of the first reference.
  struct Landing {
    MutableByteSpan into;  // the caller's, or a part of the last slot
    bool is_callers = false;
    bool ended = false;
  };

  // What Send() has not taken yet.
  struct Pieces {
    std::span<const ByteSpan> left;
    size_t offset = 0;  // in the first

    ByteSpan first() const { return left.front().subspan(offset); }

    void Skip(size_t bytes);
  };

  MutableByteSpan Slot(uint64_t index) const {
    return {memory_.get() + index * options_.slot_bytes, options_.slot_bytes};
  }

  MutableByteSpan SlotToSend(uint64_t index) const { return Slot(own_receives_ + index); }

  MutableByteSpan SlotToLand() const { return Slot(uint64_t{own_receives_} + options_.slots); }

  ByteSpan SlotReceived(uint64_t slot) const {
    return receives_ != nullptr ? receives_->Slot(slot) : Slot(slot);
  }

  // Of the user's.
  bool UsesMemory() const { return landing_.has_value() || references_->oldest().has_value(); }

  bool may_send() const { return room_ > kReserved && free_ > kReserved; }

  uint32_t Holding() const;
  void ShareReceives();
  absl::Status AddReceives();
  void PutBack(uint64_t slot);
  void GiveBack(std::optional<uint64_t> slot);
  void DropArrived();
  size_t CopySome(Pieces* pieces, MutableByteSpan into, bool first_too);
  void SendMessage(VerbsPrelude prelude);
  size_t ReceiveCopied(Arrived* first, MutableByteSpan into);
  IoResult ReceiveReferred(MutableByteSpan into);
  void Land(MutableByteSpan into);
  void ReturnReceives();
  void Break(int error, std::string_view why);
  void OnDone(const WorkDone& done);
  void OnArrival(const WorkDone& done);
  bool OnPrelude(const absl::StatusOr<VerbsPrelude>& prelude);
  void OnMessage(uint64_t slot, ByteSpan message);
  void Keep(uint64_t slot, ByteSpan bytes, const VerbsPrelude& prelude);
  void Gather();
  void OnSocket();
  void Dispatch();
  void DispatchSoon();
  void Linger();
  void Release();
  void EndQueuePair();

  EpollLoop* const loop_;
  const std::shared_ptr<VerbsDevice> device_;
  const Options options_;
  std::shared_ptr<VerbsReceives> receives_;  // null: this stream has receives of its own
  uint32_t own_receives_ = 0;                // so many
  bool attached_ = false;                    // to receives_
  bool connected_ = false;
  std::unique_ptr<std::byte, Free> memory_;  // own slots to receive, slots to send, one to land
  std::unique_ptr<VerbsRegion> region_;
  std::unique_ptr<VerbsQueuePair> pair_;  // null once it is released
  std::unique_ptr<VerbsReferences> references_;
  uint64_t taken_ = 0;     // bytes of the stream that Send() took
  bool released_ = false;  // since `ready_` was called last, some are held no more
  std::optional<Landing> landing_;
  uint16_t read_ = 0;  // references that were read, and the peer does not know
  Descriptor socket_;
  size_t message_bytes_ = 0;  // of the stream, at most
  uint32_t peer_slots_ = 0;
  uint32_t room_ = 0;  // receives of the peer that are ours to use
  uint32_t free_ = 0;  // slots to send that the device does not read
  uint32_t next_ = 0;  // of them
  uint32_t used_ = 0;  // receives that messages took, and the peer was not told of since
  uint32_t owed_ = 0;  // of them: posted again
  std::deque<Arrived> arrived_;
  int error_ = 0;
  bool ended_ = false;  // by the peer
  std::vector<WorkDone> done_;
  uint32_t interest_ = 0;
  ReadyCallback ready_;
  bool dispatching_soon_ = false;
  Loop::TimerId linger_ = Loop::kNoTimer;
};

absl::Status VerbsStream::Core::Make() {
  GEMEL_CHECK(options_.slots >= kVerbsSlotsMin && options_.slots <= kVerbsSlotsMax);
  GEMEL_CHECK(options_.slot_bytes % kPageBytes == 0 || options_.slot_bytes < kPageBytes);
  ShareReceives();
  own_receives_ = receives_ == nullptr ? options_.slots : 0;
  const size_t slots = size_t{own_receives_} + options_.slots + 1;
  const size_t bytes = DivideUp(slots * options_.slot_bytes, kPageBytes) * kPageBytes;
  memory_.reset(static_cast<std::byte*>(std::aligned_alloc(kPageBytes, bytes)));
  GEMEL_CHECK(memory_ != nullptr) << bytes;
  std::memset(memory_.get(), 0, bytes);
  GEMEL_ASSIGN_OR_RETURN(region_, device_->Register({memory_.get(), bytes}));
  VerbsQueuePair::Options pair;
  // Messages, a window's binding and its invalidation, and a read.
  pair.depth = options_.slots + 2 * kVerbsReferencesMax + 1;
  pair.first_packet = options_.first_packet;
  pair.with_events = true;
  // The peer may share its receives: there may be none for a while.
  pair.receiver_retries = kVerbsRetryForEver;
  pair.receives = receives_ == nullptr ? nullptr : receives_->queue();
  GEMEL_ASSIGN_OR_RETURN(pair_, VerbsQueuePair::Make(device_.get(), pair));
  references_ = std::make_unique<VerbsReferences>(device_.get(), pair_.get());
  free_ = options_.slots;
  return AddReceives();
}

void VerbsStream::Core::ShareReceives() {
  if (!device_->shares_receives()) {
    return;
  }
  const VerbsReceives::Options wanted = {.slot_bytes = options_.slot_bytes,
                                         .slots_max = options_.shared_slots_max};
  absl::StatusOr<std::shared_ptr<VerbsReceives>> shared = VerbsReceives::Of(device_.get(), wanted);
  if (shared.ok()) {
    receives_ = *std::move(shared);
    return;
  }
  device_->StopSharing();
  if (options_.events != nullptr) {
    options_.events->Emit(
        Severity::kWarning, "verbs_own_receives",
        fmt::format("{}; every connection pins {} bytes to receive", ToText(shared.status()),
                    size_t{options_.slots} * options_.slot_bytes));
  }
}

// As many as the hello says.
absl::Status VerbsStream::Core::AddReceives() {
  if (receives_ != nullptr) {
    GEMEL_RETURN_IF_ERROR(receives_->Attach(options_.slots));
    attached_ = true;
  }
  for (uint64_t slot = 0; slot < own_receives_; ++slot) {
    GEMEL_RETURN_IF_ERROR(pair_->PostReceive(slot, Slot(slot), *region_));
  }
  return absl::OkStatus();
}

VerbsHello VerbsStream::Core::hello() const {
  return {.address = pair_->address(), .slots = options_.slots, .slot_bytes = options_.slot_bytes};
}

absl::Status VerbsStream::Core::Connect(const VerbsHello& peer) {
  connected_ = true;
  peer_slots_ = room_ = peer.slots;
  message_bytes_ =
      std::min(peer.slot_bytes, options_.slot_bytes) - kVerbsPreludeBytes - kVerbsReferenceBytes;
  return pair_->Connect(peer.address);
}

void VerbsStream::Core::Open(Descriptor socket) {
  GEMEL_CHECK(!socket_.valid() && socket.valid() && message_bytes_ > 0);
  socket_ = std::move(socket);
  loop_->Watch(pair_->event_descriptor(), EPOLLIN,
               [self = shared_from_this()](uint32_t /*events*/) { self->Dispatch(); });
  loop_->Watch(socket_.get(), EPOLLIN,
               [self = shared_from_this()](uint32_t /*events*/) { self->OnSocket(); });
}

// Posted again, and not told to the peer.
void VerbsStream::Core::PutBack(uint64_t slot) {
  absl::Status posted;
  if (receives_ != nullptr) {
    posted = receives_->Return(slot);
  } else if (error_ == 0 && !pair_->broken()) {
    posted = pair_->PostReceive(slot, Slot(slot), *region_);
  }
  if (!posted.ok()) {
    Break(ECONNRESET, ToText(posted));
  }
}

// Of a message that was received in whole: without a slot when that went back before.
void VerbsStream::Core::GiveBack(std::optional<uint64_t> slot) {
  if (slot.has_value()) {
    PutBack(*slot);
  }
  owed_ += 1;
  GEMEL_CHECK_LE(owed_, used_);
}

// Nobody receives it any more. Nothing is given back: the peer is to send no more.
void VerbsStream::Core::DropArrived() {
  for (const Arrived& arrived : arrived_) {
    if (arrived.slot.has_value()) {
      PutBack(*arrived.slot);
    }
  }
  arrived_.clear();
}

// One message out of the next slot to send; bytes of the stream are in it.
void VerbsStream::Core::SendMessage(VerbsPrelude prelude) {
  GEMEL_CHECK(room_ > 0 && free_ > 0);
  const uint32_t index = std::exchange(next_, (next_ + 1) % options_.slots);
  GEMEL_CHECK_LE(owed_, used_);
  used_ -= owed_;
  prelude.returned = static_cast<uint16_t>(std::exchange(owed_, 0));
  prelude.read = std::exchange(read_, uint16_t{0});
  const size_t bytes = EncodeVerbsPrelude(prelude, SlotToSend(index));
  const absl::Status taken = pair_->Send(index, SlotToSend(index).first(bytes), *region_);
  if (!taken.ok()) {
    Break(ECONNRESET, ToText(taken));
    return;
  }
  room_ -= 1;
  free_ -= 1;
}

// When we say nothing for long, the peer waits for room, and holds what we have read.
void VerbsStream::Core::ReturnReceives() {
  const bool waits = owed_ >= options_.slots / 2 && room_ > 0 && free_ > 0;
  const bool holds = read_ > 0 && may_send();  // what is reserved is for receives
  if (error_ == 0 && !ended_ && (waits || holds)) {
    SendMessage({});
  }
}

void VerbsStream::Core::Pieces::Skip(size_t bytes) {
  offset += bytes;
  while (!left.empty() && offset >= left.front().size()) {
    offset -= left.front().size();
    left = left.subspan(1);
  }
}

// What fits into `into`, up to what may go by reference; of the first piece in any case some when
// it is `first_too`.
size_t VerbsStream::Core::CopySome(Pieces* pieces, MutableByteSpan into, bool first_too) {
  size_t copied = 0;
  while (!pieces->left.empty() && copied < into.size()) {
    const ByteSpan first = pieces->first();
    if (!std::exchange(first_too, false) && references_->MayRefer(first)) {
      break;
    }
    const ByteSpan some = first.first(std::min(into.size() - copied, first.size()));
    CopyState(into.data() + copied, some.data(), some.size());
    copied += some.size();
    pieces->Skip(some.size());
  }
  return copied;
}

IoResult VerbsStream::Core::Send(std::span<const ByteSpan> pieces) {
  GEMEL_CHECK(socket_.valid() && message_bytes_ > 0);
  if (error_ != 0 || ended_) {
    return {.error = error_ != 0 ? error_ : EPIPE};
  }
  Pieces next{.left = pieces};
  next.Skip(0);
  IoResult sent;
  while (!next.left.empty() && may_send() && error_ == 0) {
    VerbsPrelude prelude;
    const MutableByteSpan into = SlotToSend(next_).subspan(kVerbsPreludeBytes, message_bytes_);
    size_t bytes = CopySome(&next, into, false);
    if (!next.left.empty()) {
      prelude.reference = references_->Refer(next.first(), taken_ + bytes);
    }
    if (bytes == 0 && !prelude.reference.has_value()) {
      bytes = CopySome(&next, into, true);
    }
    prelude.bytes = static_cast<uint32_t>(bytes);
    if (prelude.reference.has_value()) {
      next.Skip(prelude.reference->bytes);
      bytes += prelude.reference->bytes;
    }
    SendMessage(prelude);
    sent.bytes += bytes;
    taken_ += bytes;
  }
  pair_->Ring();
  if (pair_->broken()) {
    DispatchSoon();  // what broke it is told there
  }
  if (sent.bytes == 0) {
    sent.error = error_ != 0 ? error_ : EAGAIN;
  }
  return sent;
}

size_t VerbsStream::Core::Held() const {
  const std::optional<uint64_t> oldest = references_->oldest();
  return oldest.has_value() ? taken_ - *oldest : 0;
}

IoResult VerbsStream::Core::Receive(MutableByteSpan into) {
  IoResult got;
  while (got.bytes < into.size() && !arrived_.empty()) {
    Arrived& first = arrived_.front();
    if (!first.left.empty()) {
      got.bytes += ReceiveCopied(&first, into.subspan(got.bytes));
    } else if (got.bytes > 0) {
      break;
    } else {
      got = ReceiveReferred(into);
      if (got.bytes == 0) {
        return got;
      }
    }
    if (first.left.empty() && !first.reference.has_value()) {
      arrived_.pop_front();
    }
  }
  if (got.bytes > 0) {
    ReturnReceives();
    pair_->Ring();
    return got;
  }
  got.error = ended_ ? 0 : error_ != 0 ? error_ : EAGAIN;
  return got;
}

size_t VerbsStream::Core::ReceiveCopied(Arrived* first, MutableByteSpan into) {
  const size_t bytes = std::min(into.size(), first->left.size());
  CopyState(into.data(), first->left.data(), bytes);
  first->left = first->left.subspan(bytes);
  if (first->left.empty()) {
    GiveBack(std::exchange(first->slot, std::nullopt));
  }
  return bytes;
}

// Of the first reference, which is next.
IoResult VerbsStream::Core::ReceiveReferred(MutableByteSpan into) {
  if (error_ != 0 || ended_) {  // the peer's memory is out of reach
    return {.error = error_ != 0 ? error_ : ECONNRESET};
  }
  if (!landing_.has_value()) {
    Land(into);
  }
  GEMEL_CHECK(!landing_->is_callers || landing_->into.data() == into.data());
  if (!landing_->ended) {
    return {.error = error_ != 0 ? error_ : EAGAIN, .lands = landing_->is_callers};
  }
  IoResult got{.bytes = std::min(into.size(), landing_->into.size())};
  if (!landing_->is_callers) {
    CopyState(into.data(), landing_->into.data(), got.bytes);
    landing_->into = landing_->into.subspan(got.bytes);
  }
  if (landing_->is_callers || landing_->into.empty()) {
    landing_.reset();
  }
  std::optional<VerbsReference>& reference = arrived_.front().reference;
  reference->place.address += got.bytes;
  reference->bytes -= static_cast<uint32_t>(got.bytes);
  if (reference->bytes == 0) {
    reference.reset();
    read_ += 1;
  }
  return got;
}

// Reads what comes next to where it belongs, or on the way there into a slot, which is registered.
void VerbsStream::Core::Land(MutableByteSpan into) {
  const VerbsReference& reference = *arrived_.front().reference;
  const VerbsRegion* region = device_->RegionOf(into);
  const bool is_callers = region != nullptr;
  const MutableByteSpan place = is_callers ? into : SlotToLand();
  landing_ = Landing{.into = place.first(std::min<size_t>(place.size(), reference.bytes)),
                     .is_callers = is_callers};
  const absl::Status taken =
      pair_->Read(0, landing_->into, is_callers ? *region : *region_, reference.place);
  if (!taken.ok()) {
    Break(ECONNRESET, ToText(taken));
  }
  pair_->Ring();
}

void VerbsStream::Core::StopLanding() {
  if (pair_ == nullptr || !landing_.has_value() || !landing_->is_callers) {
    return;
  }
  if (!landing_->ended) {
    Break(ECONNABORTED, "what it was landing is wanted no more");
    references_->Free();
    pair_->Fence();
    DispatchSoon();
  }
  landing_.reset();
}

void VerbsStream::Core::Break(int error, std::string_view why) {
  GEMEL_CHECK_NE(error, 0) << why;
  if (error_ != 0) {
    return;
  }
  error_ = error;
  if (options_.events != nullptr && !ended_ && ready_ != nullptr) {
    options_.events->Emit(Severity::kWarning, "verbs_broken",
                          fmt::format("the queue pair to {}: {}", options_.peer, why));
  }
}

// False: it broke the stream.
bool VerbsStream::Core::OnPrelude(const absl::StatusOr<VerbsPrelude>& prelude) {
  GEMEL_CHECK_LE(room_, peer_slots_);
  if (!prelude.ok() || prelude->returned > peer_slots_ - room_) {
    Break(EPROTO,
          prelude.ok() ? "more receives come back than there are" : ToText(prelude.status()));
    return false;
  }
  room_ += prelude->returned;
  released_ = released_ || prelude->read > 0;
  if (prelude->read > 0 && !references_->OnRead(prelude->read)) {
    Break(EPROTO, "more was read than it was let read");
    return false;
  }
  return true;
}

void VerbsStream::Core::OnMessage(uint64_t slot, ByteSpan message) {
  used_ += 1;
  const absl::StatusOr<VerbsPrelude> prelude = DecodeVerbsPrelude(message);
  if (used_ > options_.slots) {
    Break(EPROTO, "it sends more messages than there are receives for it");
    pair_->Break();  // it takes those of others no more
  }
  if (error_ != 0 || !OnPrelude(prelude)) {
    PutBack(slot);
  } else if (prelude->bytes > 0) {
    Keep(slot, message.subspan(kVerbsPreludeBytes, prelude->bytes), *prelude);
  } else {
    GiveBack(slot);
    if (prelude->reference.has_value()) {
      arrived_.push_back({.reference = prelude->reference});
    }
  }
}

// Until it is received: in its slot, or when too many are kept so in memory of its own.
void VerbsStream::Core::Keep(uint64_t slot, ByteSpan bytes, const VerbsPrelude& prelude) {
  Arrived& arrived = arrived_.emplace_back();
  arrived.reference = prelude.reference;
  if (receives_ == nullptr || receives_->MayKeep()) {
    arrived.slot = slot;
    arrived.left = bytes;
    return;
  }
  arrived.copied.resize(bytes.size());
  CopyState(arrived.copied.data(), bytes.data(), bytes.size());
  arrived.left = arrived.copied;
  PutBack(slot);
}

void VerbsStream::Core::OnArrival(const WorkDone& done) {
  if (receives_ != nullptr) {
    receives_->Take(done.id);
  }
  GEMEL_CHECK(receives_ != nullptr || done.id < own_receives_) << done.id;
  if (done.status != IBV_WC_SUCCESS) {
    Break(ErrnoOf(done.status), CompletionName(done.status));
  } else if (done.kind == WorkKind::kTold) {
    Break(EPROTO, "a write was told, and none was asked for");
  }
  if (error_ != 0) {
    PutBack(done.id);
    return;
  }
  OnMessage(done.id, SlotReceived(done.id).first(std::min(done.bytes, options_.slot_bytes)));
}

void VerbsStream::Core::OnDone(const WorkDone& done) {
  if (IsArrival(done)) {
    OnArrival(done);
  } else if (done.status != IBV_WC_SUCCESS) {
    Break(ErrnoOf(done.status), CompletionName(done.status));
  } else if (done.kind == WorkKind::kSend) {
    free_ += 1;
    GEMEL_CHECK_LE(free_, options_.slots);
  } else if (done.kind == WorkKind::kRead && landing_.has_value()) {
    landing_->ended = true;
  } else if (done.kind == WorkKind::kInvalidate) {
    references_->OnInvalidated(done.id);
  }
}

// All that has ended or arrived.
void VerbsStream::Core::Gather() {
  GEMEL_CHECK(pair_ != nullptr);
  pair_->Arm();
  done_.clear();
  pair_->Poll(&done_);
  for (const WorkDone& done : done_) {
    OnDone(done);
  }
  ReturnReceives();
  pair_->Ring();
}

void VerbsStream::Core::OnSocket() {
  std::byte byte{};
  const IoResult got = ReceiveSome(socket_.get(), {&byte, 1}, nullptr);
  if (got.blocked()) {
    return;
  }
  loop_->Unwatch(socket_.get());
  if (got.bytes > 0) {
    Break(EPROTO, "it says more over TCP than its hello");
  } else {
    ended_ = true;
  }
  Dispatch();  // what it sent before comes first
}

void VerbsStream::Core::Watch(uint32_t events, ReadyCallback ready) {
  GEMEL_CHECK(socket_.valid() && ready != nullptr);
  interest_ = events;
  ready_ = std::move(ready);
  DispatchSoon();
}

void VerbsStream::Core::DispatchSoon() {
  if (!std::exchange(dispatching_soon_, true)) {
    loop_->Post([self = shared_from_this()] {
      self->dispatching_soon_ = false;
      if (self->pair_ != nullptr) {
        self->Dispatch();
      }
    });
  }
}

uint32_t VerbsStream::Core::Holding() const {
  const bool over = error_ != 0 || ended_;
  const bool lands = landing_.has_value() && !landing_->ended;
  uint32_t holding = over || (!arrived_.empty() && !lands) ? uint32_t{EPOLLIN} : 0;
  holding |= over || may_send() ? uint32_t{EPOLLOUT} : 0;
  return holding & interest_;
}

void VerbsStream::Core::Dispatch() {
  const std::shared_ptr<Core> self = shared_from_this();
  Gather();
  const bool released = std::exchange(released_, false);
  if (const uint32_t holding = Holding(); (holding != 0 || released) && ready_ != nullptr) {
    const ReadyCallback ready = ready_;  // which may replace itself, or end the stream
    ready(holding);
  }
  if (pair_ != nullptr && ready_ != nullptr && Holding() != 0) {
    DispatchSoon();  // a watch tells again and again what holds
  }
}

void VerbsStream::Core::Close() {
  ready_ = nullptr;
  if (!socket_.valid() || error_ != 0 || ended_ || UsesMemory() || pair_->under_way() == 0) {
    Release();
    return;
  }
  loop_->Watch(pair_->event_descriptor(), EPOLLIN,
               [self = shared_from_this()](uint32_t /*events*/) { self->Linger(); });
  linger_ = loop_->RunAt(Add(loop_->Now(), kVerbsLingerMax),
                         [self = shared_from_this()] { self->Release(); });
  Linger();
}

void VerbsStream::Core::Linger() {
  Gather();
  DropArrived();
  if (error_ != 0 || ended_ || pair_->under_way() == 0) {
    Release();
  }
}

void VerbsStream::Core::Release() {
  if (pair_ == nullptr) {
    return;
  }
  const std::shared_ptr<Core> self = shared_from_this();  // the watches may be all that holds it
  loop_->Unwatch(pair_->event_descriptor());
  if (socket_.valid()) {
    loop_->Unwatch(socket_.get());
  }
  loop_->CancelTimer(std::exchange(linger_, Loop::kNoTimer));
  if (options_.events != nullptr && socket_.valid()) {
    const VerbsCounts& counts = pair_->counts();
    options_.events->Emit(
        Severity::kInfo, "verbs_closed",
        fmt::format("the queue pair to {}: {} requests, {} doorbells, {} signalled, {} inline, {} "
                    "referred to",
                    options_.peer, counts.requests, counts.doorbells, counts.signalled,
                    counts.inlined, references_->made()));
  }
  // First the queue pair: no byte of this process is read by the device when the peer hears of the
  // end.
  EndQueuePair();
  socket_.Reset();
}

// Slots of what arrived before it ended, and of what is not received, go back.
void VerbsStream::Core::EndQueuePair() {
  error_ = error_ != 0 ? error_ : ECONNRESET;
  if (references_ != nullptr) {
    references_->Free();
  }
  pair_->Fence();
  std::vector<WorkDone> last;
  pair_->Poll(&last);
  for (const WorkDone& done : last) {
    if (IsArrival(done)) {
      OnArrival(done);
    }
  }
  DropArrived();
  pair_.reset();
  if (std::exchange(attached_, false)) {
    receives_->Detach(options_.slots, connected_);
  }
  receives_.reset();
  region_.reset();
}

VerbsStream::VerbsStream(std::shared_ptr<Core> core) : core_(std::move(core)) {}

VerbsStream::~VerbsStream() { core_->Close(); }

absl::StatusOr<std::unique_ptr<VerbsStream>> VerbsStream::Make(EpollLoop* loop,
                                                               std::shared_ptr<VerbsDevice> device,
                                                               const Options& options) {
  GEMEL_CHECK(loop != nullptr && device != nullptr);
  auto core = std::make_shared<Core>(loop, std::move(device), options);
  std::unique_ptr<VerbsStream> made(new VerbsStream(core));
  GEMEL_RETURN_IF_ERROR(core->Make());
  return made;
}

VerbsHello VerbsStream::hello() const { return core_->hello(); }

absl::Status VerbsStream::Connect(const VerbsHello& peer) { return core_->Connect(peer); }

void VerbsStream::Open(Descriptor socket) { core_->Open(std::move(socket)); }

IoResult VerbsStream::Receive(MutableByteSpan into, Handles* /*handles*/) {
  GEMEL_CHECK(!into.empty());
  return core_->Receive(into);
}

void VerbsStream::StopLanding() { core_->StopLanding(); }

size_t VerbsStream::Held() const { return core_->Held(); }

IoResult VerbsStream::Send(std::span<const ByteSpan> pieces, const Handles& handles) {
  GEMEL_CHECK(handles.empty());
  return core_->Send(pieces);
}

void VerbsStream::Watch(uint32_t events, ReadyCallback ready) {
  core_->Watch(events, std::move(ready));
}

}  // namespace gemel

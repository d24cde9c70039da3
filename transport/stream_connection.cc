// SPDX-License-Identifier: Apache-2.0
#include "transport/stream_connection.h"

#include <sys/epoll.h>

#include <algorithm>
#include <array>
#include <utility>

#include "common/check.h"
#include "common/copies.h"
#include "common/crc32c.h"
#include "common/errors.h"
#include "common/sync.h"
#include "transport/outcome.h"

namespace gemel {
namespace {

// Of one connection per wake-up, so that one busy peer does not starve the others: the watch is
// level triggered and calls again.
constexpr int kReadsPerWakeup = 64;
constexpr size_t kFramePieces = 3;  // header, body, payload

FrameHeader HeaderOf(const OutgoingFrame& frame) {
  FrameHeader header = frame.header;
  header.body_bytes = static_cast<uint32_t>(frame.body.size());
  header.payload_bytes = static_cast<uint32_t>(frame.payload.size());
  header.body_crc32c = Crc32c(AsBytes(frame.body));
  header.handle_count = static_cast<uint32_t>(frame.handles.size());
  return header;
}

void Append(ByteSpan bytes, std::vector<std::byte>* to) {
  to->insert(to->end(), bytes.begin(), bytes.end());
}

}  // namespace

// One Send() in progress.
struct StreamConnection::Sending {
  Sending(StreamConnection* connection, OutgoingFrame outgoing)
      : frame(std::move(outgoing)),
        header(EncodeFrameHeader(HeaderOf(frame))),
        done(connection->loop_),
        owner(connection) {
    position = owner->sendings_.insert(owner->sendings_.end(), this);
  }

  Sending(const Sending&) = delete;
  Sending& operator=(const Sending&) = delete;

  ~Sending() {
    if (owner == nullptr) {
      return;
    }
    StreamConnection* connection = Unlink();
    if (written > 0) {
      connection->Close(error::Cancelled("a frame to {} was given up after {} bytes",
                                         connection->peer_, written));
    }
  }

  size_t total() const { return header.size() + frame.body.size() + frame.payload.size(); }

  bool begins_with_handles() const { return written == 0 && !frame.handles.empty(); }

  // Its long pieces are there, unchanged, until the peer has answered: a chunk that is written
  // belongs to an upload, which outlives the call, and a digest goes with it.
  bool stays() const {
    const bool is_write = frame.header.type == FrameType::kWrite && !frame.header.is_reply();
    return total() < kReferencedBytesMin || (is_write && frame.body.size() < kReferencedBytesMin);
  }

  // What is left of it.
  std::array<ByteSpan, kFramePieces> Unwritten() const {
    std::array<ByteSpan, kFramePieces> pieces = {std::as_bytes(std::span(header)),
                                                 AsBytes(frame.body), frame.payload};
    size_t skip = written;
    for (ByteSpan& piece : pieces) {
      const size_t gone = std::min(skip, piece.size());
      piece = piece.subspan(gone);
      skip -= gone;
    }
    return pieces;
  }

  // No longer read: `status` is what Send() returns.
  void Finish(absl::Status status) {
    Unlink();
    done.Set(std::move(status));
  }

  // All of it is written, and `end` is where it ends in what the connection wrote.
  void MoveToHeld(uint64_t its_end) {
    end = its_end;
    owner->held_.splice(owner->held_.end(), owner->sendings_, position);
  }

  StreamConnection* Unlink() {
    (end == 0 ? owner->sendings_ : owner->held_).erase(position);
    return std::exchange(owner, nullptr);
  }

  const OutgoingFrame frame;
  const std::array<uint8_t, kFrameHeaderBytes> header;
  OneShot<absl::Status> done;
  StreamConnection* owner;  // null when finished
  std::list<Sending*>::iterator position;
  size_t written = 0;
  uint64_t end = 0;  // in what the connection wrote; 0: it is not written yet
};

StreamConnection::StreamConnection(Loop* loop, std::unique_ptr<ByteStream> stream, std::string peer,
                                   Carries carries)
    : loop_(loop), stream_(std::move(stream)), peer_(std::move(peer)), carries_(carries) {
  GEMEL_CHECK(stream_ != nullptr);
}

StreamConnection::~StreamConnection() {
  *alive_ = false;
  if (open()) {
    Close(error::Cancelled("the connection to {} was dropped", peer_));
  }
}

void StreamConnection::Start(ConnectionEvents* events) {
  GEMEL_CHECK(events_ == nullptr && events != nullptr);
  events_ = events;
  if (open()) {
    WatchStream();
  } else {
    PostClosed();
  }
}

absl::Status StreamConnection::CheckOutgoing(const OutgoingFrame& frame) const {
  if (!open()) {
    return closed_why_;
  }
  if (frame.body.size() > kFrameBodyBytesMax || frame.payload.size() > kFramePayloadBytesMax ||
      frame.handles.size() > kFrameHandlesMax) {
    return error::InvalidArgument(
        "a frame with a body of {} bytes, a payload of {} and {} handles is over the limits",
        frame.body.size(), frame.payload.size(), frame.handles.size());
  }
  if (carries_ == Carries::kBytes && !frame.handles.empty()) {
    return error::InvalidArgument("{} handles cannot go to {}: only a unix socket carries them",
                                  frame.handles.size(), peer_);
  }
  for (const std::shared_ptr<SharedHandle>& handle : frame.handles) {
    if (handle == nullptr || handle->descriptor() < 0) {
      return error::InvalidArgument("a handle to {} has no descriptor of this host", peer_);
    }
  }
  return absl::OkStatus();
}

Task<absl::Status> StreamConnection::Send(OutgoingFrame frame) {
  GEMEL_CHECK(events_ != nullptr) << "Start() comes first";
  absl::Status allowed = CheckOutgoing(frame);
  if (!allowed.ok()) {
    Close(allowed);
    co_return allowed;
  }
  Sending sending(this, std::move(frame));
  if (!waiting_to_write_) {
    WriteSome();
  }
  // The connection may be gone from here on; the node is ours.
  co_await sending.done.WaitUntil(kTimeNever);
  co_return sending.done.value();
}

bool StreamConnection::TrySend(const OutgoingFrame& frame) {
  GEMEL_CHECK(events_ != nullptr) << "Start() comes first";
  const size_t bytes = kFrameHeaderBytes + frame.body.size() + frame.payload.size();
  if (bytes > kSmallFrameBytes || !frame.handles.empty()) {
    return false;
  }
  if (open() && outbox_.size() + bytes > kOutboxBytes) {
    WriteSome();
  }
  if (!open() || waiting_to_write_) {
    return false;
  }
  GEMEL_CHECK(sendings_.empty()) << "frames wait that the stream has room for";
  GEMEL_CHECK_LE(outbox_.size() + bytes, kOutboxBytes);
  const auto header = EncodeFrameHeader(HeaderOf(frame));
  Append(std::as_bytes(std::span(header)), &outbox_);
  Append(AsBytes(frame.body), &outbox_);
  Append(frame.payload, &outbox_);
  if (!std::exchange(flush_is_due_, true)) {
    loop_->AtTurnEnd([this, alive = alive_] {
      if (*alive) {
        flush_is_due_ = false;
        WriteSome();
      }
    });
  }
  return true;
}

void StreamConnection::Close(absl::Status why) {
  GEMEL_CHECK(!why.ok());
  if (!open()) {
    return;
  }
  closed_why_ = why;
  if (!Unwritten().empty() && !waiting_to_write_) {
    const std::array<ByteSpan, 1> copied = {Unwritten()};
    static_cast<void>(stream_->Send(copied, Handles()));  // as much as there is room for
  }
  stream_.reset();
  while (!held_.empty()) {
    held_.front()->Finish(why);
  }
  while (!sendings_.empty()) {
    sendings_.front()->Finish(why);
  }
  if (events_ != nullptr && *alive_) {
    PostClosed();
  }
}

void StreamConnection::PostClosed() {
  loop_->Post([this, alive = alive_] {
    if (*alive) {
      events_->OnClosed(closed_why_);
    }
  });
}

void StreamConnection::WatchStream() {
  const uint32_t interest = EPOLLIN | (waiting_to_write_ ? EPOLLOUT : 0U);
  stream_->Watch(interest, [this](uint32_t ready) { OnReady(ready); });
}

void StreamConnection::OnReady(uint32_t ready) {
  GEMEL_CHECK(open() && events_ != nullptr);
  FinishReleased();
  if ((ready & EPOLLOUT) != 0) {
    WriteSome();
  }
  if (open() && (ready & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0) {
    ReadSome();
  }
}

void StreamConnection::ReadSome() {
  std::shared_ptr<bool> alive = alive_;
  for (int reads = 0; reads < kReadsPerWakeup; ++reads) {
    const bool more = ReadStep();
    if (!*alive || !more) {
      return;
    }
  }
}

// One reception; false when there is nothing more to read now, or the connection is closed or gone.
bool StreamConnection::ReadStep() {
  Handles handles;
  const bool with_handles = carries_ == Carries::kBytesAndHandles;
  const MutableByteSpan target = reader_.Target();
  const bool ahead = !with_handles && target.size() < kReadAheadBytes;
  const MutableByteSpan into = ahead ? MutableByteSpan(read_ahead_) : target;
  const IoResult got = stream_->Receive(into, with_handles ? &handles : nullptr);
  if (got.bytes == 0) {
    OnNothing(got);
    return false;
  }
  if (!ahead) {
    return TakeHandles(got, std::move(handles)) && OnBytes(got.bytes);
  }
  // Fewer bytes than there was room for were all there are.
  const bool more = got.bytes == into.size();
  return Consume(into.first(got.bytes)) && more;
}

void StreamConnection::OnNothing(const IoResult& got) {
  if (got.blocked()) {
    if (got.lands && !reader_.fenced()) {
      FenceLanding();
    }
  } else if (got.error != 0) {
    Close(StatusOfErrno(got.error, fmt::format("receiving from {}", peer_)));
  } else {
    Close(reader_.inside_frame()
              ? error::Unavailable("{} ended the connection: cut inside a frame", peer_)
              : error::Unavailable("{} ended the connection", peer_));
  }
}

// A revocation may come after this connection.
void StreamConnection::FenceLanding() {
  reader_.SetFence([this, alive = std::weak_ptr<bool>(alive_)] {
    if (const auto there = alive.lock(); there != nullptr && *there && open()) {
      stream_->StopLanding();
    }
  });
}

// False when the connection is closed.
bool StreamConnection::TakeHandles(const IoResult& got, Handles handles) {
  if (got.handles_cut) {
    Close(
        error::InvalidArgument("{} sent more handles than the {} a frame may have, or than this "
                               "process may open (ulimit -n)",
                               peer_, kFrameHandlesMax));
    return false;
  }
  absl::Status fitting = reader_.AddHandles(std::move(handles));
  if (!fitting.ok()) {
    Close(Annotate(fitting, peer_));
  }
  return fitting.ok();
}

// What was read ahead. False when the connection is closed or gone, and `bytes` with it.
bool StreamConnection::Consume(ByteSpan bytes) {
  while (!bytes.empty()) {
    const MutableByteSpan target = reader_.Target();
    const size_t some = std::min(target.size(), bytes.size());
    CopyState(target.data(), bytes.data(), some);
    bytes = bytes.subspan(some);
    if (!OnBytes(some)) {
      return false;
    }
  }
  return true;
}

bool StreamConnection::OnBytes(size_t bytes) {
  const absl::StatusOr<FrameProgress> progress = reader_.Advance(bytes);
  if (!progress.ok()) {
    Close(Annotate(progress.status(), peer_));
    return false;
  }
  return Deliver(*progress);
}

bool StreamConnection::Deliver(FrameProgress progress) {
  const bool* const alive = alive_.get();  // which ReadSome() keeps
  if (progress == FrameProgress::kPlace) {
    Placement placement = events_->PlacePayload(reader_.header(), reader_.body());
    if (!*alive || !open()) {
      return false;
    }
    reader_.Place(std::move(placement));
  } else if (progress == FrameProgress::kFrame) {
    events_->OnFrame(reader_.Take());
  }
  return *alive && open();
}

// What is left of the copied frames.
ByteSpan StreamConnection::Unwritten() const { return ByteSpan(outbox_).subspan(outbox_written_); }

// What nobody wants any more, and of which nothing has left.
void StreamConnection::DropUnwanted() {
  for (auto next = sendings_.begin(); next != sendings_.end();) {
    Sending* const sending = *next++;
    if (sending->written == 0 && sending->frame.IsUnwanted()) {
      sending->Finish(error::Cancelled("a frame to {} was unwanted before it left", peer_));
    }
  }
}

void StreamConnection::WriteSome() {
  bool blocked = false;
  while (open() && !blocked && (!outbox_.empty() || !sendings_.empty())) {
    DropUnwanted();
    if (outbox_.empty() && sendings_.empty()) {
      break;
    }
    const IoResult sent = WriteOnce();
    blocked = sent.error != 0;
    if (blocked && !sent.blocked()) {
      outbox_.clear();
      outbox_written_ = 0;
      Close(StatusOfErrno(sent.error, fmt::format("sending to {}", peer_)));
      return;
    }
    OnWritten(sent.bytes);
  }
  if (open() && blocked != waiting_to_write_) {
    waiting_to_write_ = blocked;
    WatchStream();
  }
}

// As many frames as one write may have, from the first on.
IoResult StreamConnection::WriteOnce() {
  static const Handles kNone;
  const Handles* handles = &kNone;
  std::array<ByteSpan, kStreamPiecesMax> pieces;
  size_t used = 0;
  bool staying = true;
  if (!outbox_.empty()) {
    pieces[used++] = Unwritten();
  }
  for (const Sending* sending : sendings_) {
    if (used + kFramePieces > pieces.size() || (used > 0 && sending->begins_with_handles())) {
      break;
    }
    if (used == 0 && sending->begins_with_handles()) {
      handles = &sending->frame.handles;
    }
    staying = staying && sending->stays();
    for (const ByteSpan piece : sending->Unwritten()) {
      pieces[used++] = piece;
    }
  }
  const auto all = std::span(pieces).first(used);
  return staying && handles->empty() ? stream_->SendStaying(all) : stream_->Send(all, *handles);
}

void StreamConnection::OnWritten(size_t bytes) {
  written_ += bytes;
  const size_t copied = std::min(bytes, Unwritten().size());
  outbox_written_ += copied;
  bytes -= copied;
  if (outbox_written_ == outbox_.size()) {
    outbox_.clear();
    outbox_written_ = 0;
  }
  while (bytes > 0) {
    GEMEL_CHECK(!sendings_.empty()) << bytes << " bytes more than there were";
    Sending* head = sendings_.front();
    const size_t some = std::min(bytes, head->total() - head->written);
    head->written += some;
    bytes -= some;
    if (head->written == head->total()) {
      head->MoveToHeld(written_ - bytes);
    }
  }
  FinishReleased();
}

void StreamConnection::FinishReleased() {
  const uint64_t released = held_.empty() ? 0 : written_ - stream_->Held();
  while (!held_.empty() && held_.front()->end <= released) {
    held_.front()->Finish(absl::OkStatus());
  }
}

}  // namespace gemel

// SPDX-License-Identifier: Apache-2.0
#include "transport/stream_socket.h"

#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "common/check.h"
#include "common/sync.h"
#include "transport/outcome.h"
#include "transport/tcp/referenced_send.h"

namespace gemel {
namespace {

// What is received at a time: what the receiver does with it next finds it in the cache.
constexpr size_t kReceiveBytesMax = 256 * kKiB;
constexpr size_t kControlBytes = CMSG_SPACE(kFrameHandlesMax * sizeof(int));

struct alignas(cmsghdr) ControlBuffer {
  std::array<char, kControlBytes> bytes{};
};

// Every descriptor in `message` becomes ours before anything else can fail.
void TakeHandles(const msghdr& message, Handles* handles) {
  auto* header = const_cast<msghdr*>(&message);  // CMSG_NXTHDR is not const-correct
  for (cmsghdr* part = CMSG_FIRSTHDR(header); part != nullptr; part = CMSG_NXTHDR(header, part)) {
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) {
      continue;
    }
    GEMEL_CHECK_GE(part->cmsg_len, CMSG_LEN(0));
    const size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(part) + i * sizeof(int), sizeof(int));
      handles->push_back(std::make_shared<DescriptorHandle>(Descriptor(fd)));
    }
  }
}

void PutHandles(const Handles& handles, msghdr* message, ControlBuffer* control) {
  GEMEL_CHECK_LE(handles.size(), kFrameHandlesMax);
  message->msg_control = control->bytes.data();
  message->msg_controllen = CMSG_SPACE(handles.size() * sizeof(int));
  cmsghdr* part = CMSG_FIRSTHDR(message);
  part->cmsg_level = SOL_SOCKET;
  part->cmsg_type = SCM_RIGHTS;
  part->cmsg_len = CMSG_LEN(handles.size() * sizeof(int));
  for (size_t i = 0; i < handles.size(); ++i) {
    const int fd = handles[i]->descriptor();
    std::memcpy(CMSG_DATA(part) + i * sizeof(int), &fd, sizeof(int));
  }
}

IoResult ResultOf(ssize_t rc) {
  IoResult result;
  if (rc < 0) {
    result.error = errno;
  } else {
    result.bytes = static_cast<size_t>(rc);
  }
  return result;
}

// Tells when a socket is ready; stops watching when it goes.
class SocketWatch {
 public:
  SocketWatch(EpollLoop* loop, int fd, uint32_t events) : loop_(loop), fd_(fd), ready_(loop) {
    loop_->Watch(fd_, events, [this](uint32_t /*events*/) {
      loop_->Unwatch(fd_);
      ready_.Set(true);
    });
  }

  SocketWatch(const SocketWatch&) = delete;
  SocketWatch& operator=(const SocketWatch&) = delete;

  ~SocketWatch() { loop_->Unwatch(fd_); }

  Task<bool> WaitUntil(TimePoint deadline) { return ready_.WaitUntil(deadline); }

 private:
  EpollLoop* const loop_;
  const int fd_;
  OneShot<bool> ready_;
};

}  // namespace

bool IoResult::blocked() const { return OutcomeOfErrno(error).outcome == Outcome::kRetryLane; }

IoResult ReceiveSome(int fd, MutableByteSpan into, Handles* handles) {
  GEMEL_CHECK(!into.empty());
  iovec piece{into.data(), into.size()};
  msghdr message{};
  message.msg_iov = &piece;
  message.msg_iovlen = 1;
  ControlBuffer control;
  if (handles != nullptr) {
    message.msg_control = control.bytes.data();
    message.msg_controllen = control.bytes.size();
  }
  IoResult result = ResultOf(recvmsg(fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC));
  if (result.error == 0 && handles != nullptr) {
    TakeHandles(message, handles);
    result.handles_cut = (message.msg_flags & MSG_CTRUNC) != 0;
  }
  return result;
}

IoResult SendSome(int fd, std::span<const ByteSpan> pieces, const Handles& handles, bool more) {
  GEMEL_CHECK_LE(pieces.size(), kStreamPiecesMax);
  std::array<iovec, kStreamPiecesMax> vector;  // filled as far as `used`
  size_t used = 0;
  for (const ByteSpan& piece : pieces) {
    if (!piece.empty()) {
      vector[used].iov_base = const_cast<std::byte*>(piece.data());  // the kernel only reads it
      vector[used].iov_len = piece.size();
      used += 1;
    }
  }
  GEMEL_CHECK_GT(used, 0U);
  msghdr message{};
  message.msg_iov = vector.data();
  message.msg_iovlen = used;
  ControlBuffer control;
  if (!handles.empty()) {
    PutHandles(handles, &message, &control);
  }
  return ResultOf(sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL | (more ? MSG_MORE : 0)));
}

SocketStream::SocketStream(EpollLoop* loop, Descriptor socket,
                           std::shared_ptr<ReferencedSend> by_reference)
    : loop_(loop), socket_(std::move(socket)), by_reference_(std::move(by_reference)) {
  GEMEL_CHECK(loop_ != nullptr && socket_.valid());
}

SocketStream::~SocketStream() { loop_->Unwatch(socket_.get()); }

IoResult SocketStream::Receive(MutableByteSpan into, Handles* handles) {
  return ReceiveSome(socket_.get(), into.first(std::min(into.size(), kReceiveBytesMax)), handles);
}

IoResult SocketStream::Send(std::span<const ByteSpan> pieces, const Handles& handles) {
  return SendSome(socket_.get(), pieces, handles);
}

IoResult SocketStream::SendStaying(std::span<const ByteSpan> pieces) {
  const bool is_long = std::ranges::any_of(
      pieces, [](ByteSpan piece) { return piece.size() >= kReferencedBytesMin; });
  if (is_long && by_reference_ != nullptr && by_reference_->Pays(loop_->Now())) {
    if (const auto sent = by_reference_->Send(socket_.get(), pieces); sent.has_value()) {
      return *sent;
    }
  }
  return Send(pieces, Handles());
}

void SocketStream::Watch(uint32_t events, ReadyCallback ready) {
  loop_->Watch(socket_.get(), events, std::move(ready));
}

Task<bool> AwaitSocket(EpollLoop* loop, int fd, uint32_t events, TimePoint deadline) {
  SocketWatch watch(loop, fd, events);
  co_return co_await watch.WaitUntil(deadline);
}

}  // namespace gemel

// SPDX-License-Identifier: Apache-2.0
#include "transport/tcp/referenced_send.h"

#include <fcntl.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "common/check.h"
#include "transport/stream_socket.h"

namespace gemel {
namespace {

// Pages that go to a socket in one call. The socket takes less when its buffer is full, and what is
// left in the pipe was for nothing: with all of 1 MiB at a time a save was a tenth slower.
constexpr size_t kPipeBytes = 256 * kKiB;
constexpr size_t kPageBytes = 4 * kKiB;

}  // namespace

bool ReferencedSend::Pays(TimePoint now) {
  return when_ == SendByReference::kAlways ||
         (when_ == SendByReference::kWhenContended && pressure_.Contended(now));
}

bool ReferencedSend::OpenPipe() {
  std::array<int, 2> ends{-1, -1};
  if (pipe2(ends.data(), O_NONBLOCK | O_CLOEXEC) != 0) {
    return false;
  }
  pipe_out_ = Descriptor(ends[0]);
  pipe_in_ = Descriptor(ends[1]);
  nothing_ = Descriptor(open("/dev/null", O_WRONLY | O_CLOEXEC));
  const int bytes = fcntl(pipe_in_.get(), F_SETPIPE_SZ, kPipeBytes);
  pipe_bytes_ = bytes > 0 ? static_cast<size_t>(bytes) : 0;
  return nothing_.valid() && pipe_bytes_ >= kReferencedBytesMin;
}

std::optional<IoResult> ReferencedSend::Send(int socket, std::span<const ByteSpan> pieces) {
  if (!pipe_in_.valid() && !OpenPipe()) {
    when_ = SendByReference::kNever;
    return std::nullopt;
  }
  IoResult sent;
  for (size_t i = 0; i < pieces.size(); ++i) {
    const bool more = i + 1 < pieces.size();
    ByteSpan left = pieces[i];
    while (!left.empty()) {
      const IoResult some = left.size() < kReferencedBytesMin
                                ? SendSome(socket, std::span(&left, 1), Handles(), more)
                                : SendPages(socket, left, more);
      sent.bytes += some.bytes;
      if (some.error != 0 && when_ == SendByReference::kNever) {
        return sent.bytes == 0 ? std::nullopt : std::optional(sent);  // the rest by copy
      }
      if (some.error != 0) {
        sent.error = some.error;
        return sent;
      }
      left = left.subspan(some.bytes);
    }
  }
  return sent;
}

// As many as the pipe holds; fewer, or an error, when the socket is full.
IoResult ReferencedSend::SendPages(int socket, ByteSpan bytes, bool more) {
  const size_t in_page = reinterpret_cast<uintptr_t>(bytes.data()) % kPageBytes;
  iovec pages{const_cast<std::byte*>(bytes.data()),  // the kernel only reads it
              std::min(bytes.size(), pipe_bytes_ - in_page)};
  const ssize_t in = vmsplice(pipe_in_.get(), &pages, 1, SPLICE_F_NONBLOCK);
  IoResult result;
  if (in <= 0) {
    when_ = SendByReference::kNever;
    result.error = in < 0 ? errno : EIO;
    return result;
  }
  const auto taken = static_cast<size_t>(in);
  const unsigned flags = SPLICE_F_NONBLOCK | (more || taken < bytes.size() ? SPLICE_F_MORE : 0U);
  while (result.bytes < taken) {
    const ssize_t out =
        splice(pipe_out_.get(), nullptr, socket, nullptr, taken - result.bytes, flags);
    if (out <= 0) {
      result.error = out < 0 ? errno : EIO;
      break;
    }
    result.bytes += static_cast<size_t>(out);
  }
  GEMEL_CHECK_LE(result.bytes, taken);
  sent_bytes_ += result.bytes;
  Drain(taken - result.bytes);
  return result;
}

void ReferencedSend::Drain(size_t bytes) {
  while (bytes > 0) {
    const ssize_t out = splice(pipe_out_.get(), nullptr, nothing_.get(), nullptr, bytes, 0);
    GEMEL_CHECK_GT(out, 0) << "draining a pipe: errno " << errno;
    bytes -= static_cast<size_t>(out);
  }
}

}  // namespace gemel

// SPDX-License-Identifier: Apache-2.0
//
// The yardstick: an echo over bare nonblocking sockets and one epoll. What has arrived is read with
// one call, and all that follows from it leaves with one.
#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "bench/bare_sockets.h"
#include "bench/rpc.h"
#include "common/check.h"
#include "common/crc32c.h"

namespace gemel::bench {
namespace {

constexpr size_t kBufferBytes = 64 * kKiB;
static_assert(kBufferBytes >= kDepthMax * kMessageBytes, "all that is under way fits");

enum class Contents { kAny, kFrames };

class Readable {
 public:
  virtual ~Readable() = default;
  virtual void OnReadable() = 0;
};

class Poller {
 public:
  void Add(int fd, Readable* readable) const {
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.ptr = readable;
    GEMEL_CHECK_EQ(epoll_ctl(epoll_, EPOLL_CTL_ADD, fd, &event), 0);
  }

  void Step() const {
    std::array<epoll_event, 8> events{};
    const int count = epoll_wait(epoll_, events.data(), static_cast<int>(events.size()), -1);
    GEMEL_CHECK(count >= 0 || errno == EINTR);
    for (int i = 0; i < count; ++i) {
      static_cast<Readable*>(events[static_cast<size_t>(i)].data.ptr)->OnReadable();
    }
  }

 private:
  const int epoll_ = epoll_create1(0);
};

void SendAll(int fd, ByteSpan bytes) {
  // Never blocks: what is under way fits into the socket.
  GEMEL_CHECK_EQ(send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT),
                 static_cast<ssize_t>(bytes.size()));
}

// Puts a frame around `body`, as the fabric does.
void PutFrame(uint64_t op, uint16_t flags, ByteSpan body, std::byte* at) {
  FrameHeader header;
  header.op = op;
  header.flags = flags;
  header.body_bytes = static_cast<uint32_t>(body.size());
  header.body_crc32c = Crc32c(body);
  const auto encoded = EncodeFrameHeader(header);
  std::memcpy(at, encoded.data(), encoded.size());
  std::memcpy(at + encoded.size(), body.data(), body.size());
}

FrameHeader CheckFrame(ByteSpan message) {
  const absl::StatusOr<FrameHeader> header = DecodeFrameHeader(message.first(kFrameHeaderBytes));
  GEMEL_CHECK(header.ok()) << header.status();
  GEMEL_CHECK_EQ(header->body_crc32c, Crc32c(message.subspan(kFrameHeaderBytes)));
  return *header;
}

// One end of a connection: reads what is there, hands on whole messages, keeps the rest.
class End : public Readable {
 public:
  explicit End(int fd) : fd_(fd) {}

  void OnReadable() final {
    const ssize_t got = recv(fd_, in_.data() + filled_, in_.size() - filled_, MSG_DONTWAIT);
    if (got < 0) {
      GEMEL_CHECK_EQ(errno, EAGAIN);
      return;
    }
    if (got == 0) {
      _exit(0);  // the caller is gone
    }
    filled_ += static_cast<size_t>(got);
    const size_t whole = filled_ / kMessageBytes * kMessageBytes;
    if (whole > 0) {
      OnMessages(MutableByteSpan(in_).first(whole));
      filled_ -= whole;
      std::memmove(in_.data(), in_.data() + whole, filled_);
    }
  }

 protected:
  virtual void OnMessages(MutableByteSpan messages) = 0;

  const int fd_;

 private:
  size_t filled_ = 0;
  std::array<std::byte, kBufferBytes> in_{};
};

class EchoServer final : public End {
 public:
  EchoServer(int fd, Contents contents) : End(fd), contents_(contents) {}

 private:
  void OnMessages(MutableByteSpan messages) override {
    if (contents_ == Contents::kFrames) {
      for (size_t at = 0; at < messages.size(); at += kMessageBytes) {
        const MutableByteSpan message = messages.subspan(at, kMessageBytes);
        std::array<std::byte, kBodyBytes> body;
        const FrameHeader header = CheckFrame(message);
        std::memcpy(body.data(), message.data() + kFrameHeaderBytes, body.size());
        PutFrame(header.op, kFlagReply, body, message.data());
      }
    }
    SendAll(fd_, messages);
  }

  const Contents contents_;
};

class EchoCaller final : public End, public Caller {
 public:
  EchoCaller(int fd, const Poller* poller, Contents contents)
      : End(fd), poller_(poller), contents_(contents) {
    body_.fill(std::byte{'b'});
  }

  void Ask(size_t count, size_t depth, std::vector<double>* taken) override {
    GEMEL_CHECK_LE(depth, kDepthMax);
    to_ask_ = to_hear_ = count;
    taken_ = depth == 1 ? taken : nullptr;
    AskMore(std::min(depth, count));
    while (to_hear_ > 0) {
      poller_->Step();
    }
  }

 private:
  void OnMessages(MutableByteSpan messages) override {
    const size_t answers = messages.size() / kMessageBytes;
    if (contents_ == Contents::kFrames) {
      for (size_t i = 0; i < answers; ++i) {
        const FrameHeader header = CheckFrame(messages.subspan(i * kMessageBytes, kMessageBytes));
        GEMEL_CHECK(header.is_reply() && header.op == ++heard_op_);
      }
    }
    GEMEL_CHECK_GE(to_hear_, answers);
    to_hear_ -= answers;
    if (taken_ != nullptr) {
      taken_->push_back(SecondsSince(began_));
    }
    AskMore(std::min(answers, to_ask_));
  }

  void AskMore(size_t requests) {
    if (requests == 0) {
      return;
    }
    if (taken_ != nullptr) {
      began_ = std::chrono::steady_clock::now();
    }
    for (size_t i = 0; i < requests; ++i) {
      std::byte* at = out_.data() + i * kMessageBytes;
      if (contents_ == Contents::kFrames) {
        PutFrame(++asked_op_, 0, body_, at);
      } else {
        std::memcpy(at + kFrameHeaderBytes, body_.data(), body_.size());
      }
    }
    to_ask_ -= requests;
    SendAll(fd_, ByteSpan(out_).first(requests * kMessageBytes));
  }

  const Poller* const poller_;
  const Contents contents_;
  size_t to_ask_ = 0;
  size_t to_hear_ = 0;
  uint64_t asked_op_ = 0;
  uint64_t heard_op_ = 0;
  std::vector<double>* taken_ = nullptr;
  std::chrono::steady_clock::time_point began_;
  std::array<std::byte, kBodyBytes> body_{};
  std::array<std::byte, kBufferBytes> out_{};
};

// (listening socket, port)
std::pair<int, int> Listen() {
  const int listening = socket(AF_INET, SOCK_STREAM, 0);
  GEMEL_CHECK_GE(listening, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  GEMEL_CHECK(bind(listening, reinterpret_cast<sockaddr*>(&address), size) == 0 &&
              listen(listening, 1) == 0 &&
              getsockname(listening, reinterpret_cast<sockaddr*>(&address), &size) == 0);
  return {listening, ntohs(address.sin_port)};
}

int Connect(int port) {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  GEMEL_CHECK_GE(fd, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(static_cast<uint16_t>(port));
  GEMEL_CHECK_EQ(connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  TuneBare(fd);
  return fd;
}

int Accept(int listening) {
  const int fd = accept(listening, nullptr, nullptr);
  GEMEL_CHECK_GE(fd, 0);
  TuneBare(fd);
  return fd;
}

void ServeEcho(int ready, Contents contents) {
  const auto [listening, port] = Listen();
  TellPort(ready, port);
  const int fd = Accept(listening);
  EchoServer server(fd, contents);
  const Poller poller;
  poller.Add(fd, &server);
  while (true) {
    poller.Step();
  }
}

// A caller with a poller of its own.
class OwnCaller final : public Caller {
 public:
  OwnCaller(int port, Contents contents) : fd_(Connect(port)), caller_(fd_, &poller_, contents) {
    poller_.Add(fd_, &caller_);
  }

  void Ask(size_t count, size_t depth, std::vector<double>* taken) override {
    caller_.Ask(count, depth, taken);
  }

 private:
  const Poller poller_;
  const int fd_;
  EchoCaller caller_;
};

// Both ends on one poller.
class EchoPair final : public Pair {
 public:
  explicit EchoPair(Contents contents)
      : listening_(Listen()),
        calling_(Connect(listening_.second)),
        serving_(Accept(listening_.first)),
        server_(serving_, contents),
        caller_(calling_, &poller_, contents) {
    poller_.Add(serving_, &server_);
    poller_.Add(calling_, &caller_);
  }

  Caller* caller() override { return &caller_; }

 private:
  const Poller poller_;
  const std::pair<int, int> listening_;
  const int calling_;
  const int serving_;
  EchoServer server_;
  EchoCaller caller_;
};

}  // namespace

void ServeBare(int ready) { ServeEcho(ready, Contents::kAny); }

void ServeFramed(int ready) { ServeEcho(ready, Contents::kFrames); }

std::unique_ptr<Caller> CallBare(int port) {
  return std::make_unique<OwnCaller>(port, Contents::kAny);
}

std::unique_ptr<Caller> CallFramed(int port) {
  return std::make_unique<OwnCaller>(port, Contents::kFrames);
}

std::unique_ptr<Pair> PairBare() { return std::make_unique<EchoPair>(Contents::kAny); }

std::unique_ptr<Pair> PairFramed() { return std::make_unique<EchoPair>(Contents::kFrames); }

}  // namespace gemel::bench

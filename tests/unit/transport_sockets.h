// SPDX-License-Identifier: Apache-2.0
//
// What the tests of the socket fabrics share: a loop, a RealNet, recorded events, raw sockets.
// Thread safety: one thread.
#pragma once

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/crc32c.h"
#include "common/errors.h"
#include "common/random.h"
#include "tests/unit/common_runner.h"
#include "tests/unit/common_temporary_directory.h"
#include "transport/real_net.h"
#include "transport/stream_connection.h"
#include "transport/stream_socket.h"

namespace gemel {

inline size_t OpenDescriptors() {
  size_t count = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    count += 1;
  }
  return count;
}

// Bytes that differ from place to place and from seed to seed.
inline std::vector<std::byte> Pattern(size_t bytes, uint64_t seed = 1) {
  Random stream(seed);
  std::vector<std::byte> pattern(bytes);
  for (std::byte& byte : pattern) {
    byte = static_cast<std::byte>(stream.Next());
  }
  return pattern;
}

inline bool SameBytes(ByteSpan a, ByteSpan b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size()) == 0);
}

class RecordedEvents final : public EventSink {
 public:
  void Emit(Severity /*severity*/, std::string_view name, std::string text) override {
    names.emplace_back(name);
    texts.push_back(std::move(text));
  }

  std::vector<std::string> names;
  std::vector<std::string> texts;
};

// Keeps what a connection hands out. Payloads go where `place` says.
class Recorder final : public ConnectionEvents {
 public:
  Placement PlacePayload(const FrameHeader& header, std::string_view /*body*/) override {
    return place ? place(header) : Placement();
  }

  void OnFrame(IncomingFrame frame) override {
    frames.push_back(std::move(frame));
    if (on_frame) {
      on_frame();
    }
  }

  void OnClosed(absl::Status why) override { closed.push_back(std::move(why)); }

  std::function<Placement(const FrameHeader&)> place;
  std::function<void()> on_frame;
  std::vector<IncomingFrame> frames;
  std::vector<absl::Status> closed;
};

// Two ends, nonblocking.
inline std::pair<Descriptor, Descriptor> SocketPair() {
  int fds[2] = {-1, -1};
  GEMEL_CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), 0);
  return {Descriptor(fds[0]), Descriptor(fds[1])};
}

inline OutgoingFrame FrameWith(FrameType type, uint64_t op, std::string body = "",
                               ByteSpan payload = {}) {
  OutgoingFrame frame;
  frame.header.type = type;
  frame.header.op = op;
  frame.body = std::move(body);
  frame.payload = payload;
  return frame;
}

class SocketTest : public ::testing::Test {
 public:
  ~SocketTest() override { loop_->Shutdown(); }

 protected:
  SocketTest() : loop_(*EpollLoop::Create()), net_(loop_.get(), &events_, RealNet::Options()) {}

  bool RunUntil(const std::function<bool()>& done) { return RunLoop(loop_.get(), done); }

  template <typename T>
  T Run(Task<T> task) {
    return RunTask(loop_.get(), std::move(task));
  }

  // Lets everything that is ready or posted run.
  void Settle() {
    for (int i = 0; i < 4; ++i) {
      bool turned = false;
      loop_->Post([&turned] { turned = true; });
      ASSERT_TRUE(RunUntil([&turned] { return turned; }));
    }
  }

  TimePoint In(Duration delay) const { return Add(loop_->Now(), delay); }

  // One end as a connection that carries handles, the other one raw.
  std::pair<std::unique_ptr<StreamConnection>, Descriptor> Pair() {
    auto [own, raw] = SocketPair();
    auto connection = std::make_unique<StreamConnection>(
        loop_.get(), std::make_unique<SocketStream>(loop_.get(), std::move(own)), "pair",
        StreamConnection::Carries::kBytesAndHandles);
    return {std::move(connection), std::move(raw)};
  }

  std::string UnixPath(const std::string& name) const { return directory_.path() + "/" + name; }

  // "unix" or "tcp".
  std::string FreshAddress(const std::string& fabric) const {
    return fabric == "tcp" ? "tcp://127.0.0.1:0" : "unix://" + UnixPath("socket");
  }

  TemporaryDirectory directory_;
  RecordedEvents events_;
  std::unique_ptr<EpollLoop> loop_;
  RealNet net_;
};

// A blocking socket connected to `address`, without any of our code.
inline Descriptor RawConnect(const std::string& address) {
  if (address.starts_with("unix://")) {
    Descriptor raw(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un to{};
    to.sun_family = AF_UNIX;
    const std::string path = address.substr(7);
    std::memcpy(to.sun_path, path.data(), path.size());
    GEMEL_CHECK_EQ(connect(raw.get(), reinterpret_cast<sockaddr*>(&to), sizeof(to)), 0);
    return raw;
  }
  Descriptor raw(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  to.sin_port = htons(static_cast<uint16_t>(std::stoi(address.substr(address.rfind(':') + 1))));
  GEMEL_CHECK_EQ(connect(raw.get(), reinterpret_cast<sockaddr*>(&to), sizeof(to)), 0);
  return raw;
}

// The bytes of a whole frame, as a fabric sends them.
inline std::string WireOf(OutgoingFrame frame, uint32_t handles = 0) {
  frame.header.body_bytes = static_cast<uint32_t>(frame.body.size());
  frame.header.payload_bytes = static_cast<uint32_t>(frame.payload.size());
  frame.header.body_crc32c = Crc32c(AsBytes(frame.body));
  frame.header.handle_count = handles;
  const auto header = EncodeFrameHeader(frame.header);
  return std::string(header.begin(), header.end()) + frame.body +
         std::string(AsText(frame.payload));
}

inline void RawSend(const Descriptor& raw, std::string_view bytes) {
  GEMEL_CHECK_EQ(send(raw.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL),
                 static_cast<ssize_t>(bytes.size()));
}

// Ends the raw side, whose type keeps it from being closed by accident.
inline void RawClose(Descriptor* raw) { raw->Reset(); }

}  // namespace gemel

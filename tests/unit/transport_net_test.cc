// SPDX-License-Identifier: Apache-2.0
//
// RealNet: addresses, what is refused, what is taken.
#include <gmock/gmock.h>
#include <netinet/tcp.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "tests/unit/transport_sockets.h"
#include "transport/local/unix_socket.h"
#include "transport/tcp/tcp_address.h"

namespace gemel {
namespace {

using ::testing::HasSubstr;

class RealNetTest : public SocketTest {
 protected:
  absl::Status Connecting(const std::string& address) {
    return Run(net_.Connect(address, In(5s))).status();
  }

  absl::Status Listening(const std::string& address) {
    return net_.Listen(address, Ignore).status();
  }

  static void Ignore(std::unique_ptr<Connection> /*connection*/) {}

  // A socket file whose server is gone.
  static void LeaveStaleSocket(const std::string& path) {
    const Descriptor dead(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un to{};
    to.sun_family = AF_UNIX;
    std::memcpy(to.sun_path, path.data(), path.size());
    ASSERT_EQ(bind(dead.get(), reinterpret_cast<sockaddr*>(&to), sizeof(to)), 0);
  }
};

TEST_F(RealNetTest, AddressesBeyondThisMachineAreRefusedBecauseOfTls) {
  for (const char* address : {"tcp://10.0.0.1:7611", "tcp://0.0.0.0:7611", "tcp://example.org:7611",
                              "tcp://[::]:7611", "tcp://[fe80::1]:7611", "tcp://128.0.0.1:1"}) {
    EXPECT_EQ(Listening(address).code(), absl::StatusCode::kPermissionDenied) << address;
    EXPECT_EQ(Connecting(address).code(), absl::StatusCode::kPermissionDenied) << address;
    EXPECT_THAT(std::string(MessageOf(Listening(address))), HasSubstr("TLS"));
  }
}

TEST_F(RealNetTest, TextThatIsNoAddressIsInvalid) {
  for (const char* address : {"", "7611", "http://127.0.0.1:1", "tcp://", "tcp://127.0.0.1",
                              "tcp://127.0.0.1:", "tcp://127.0.0.1:65536", "tcp://127.0.0.1:-1",
                              "tcp://127.0.0.1:1x", "tcp://::1:80", "tcp://:80", "unix://"}) {
    EXPECT_EQ(Listening(address).code(), absl::StatusCode::kInvalidArgument) << address;
    EXPECT_EQ(Connecting(address).code(), absl::StatusCode::kInvalidArgument) << address;
  }
}

TEST_F(RealNetTest, LoopbackIsAcceptedInEverySpelling) {
  for (const char* address : {"tcp://127.0.0.1:0", "tcp://127.8.7.6:0", "tcp://localhost:0"}) {
    auto listener = net_.Listen(address, Ignore);
    ASSERT_TRUE(listener.ok()) << listener.status();
    EXPECT_TRUE(Connecting((*listener)->address()).ok()) << (*listener)->address();
  }
  EXPECT_EQ(ParseLoopbackAddress("[::1]:7611")->ToString(), "tcp://[::1]:7611");
  EXPECT_EQ(ParseLoopbackAddress("localhost:7611")->port(), 7611);
}

TEST_F(RealNetTest, PathLongerThanTheKernelTakesIsInvalid) {
  const std::string fits = "unix://" + std::string(kUnixPathBytesMax, 'p');
  EXPECT_EQ(Connecting(fits).code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(Connecting(fits + "p").code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Listening(fits + "p").code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(RealNetTest, NobodyListeningIsUnavailableAndNamesTheAddress) {
  const std::string path = "unix://" + UnixPath("none");
  EXPECT_EQ(Connecting(path).code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(MessageOf(Connecting(path))), HasSubstr(path));
  LeaveStaleSocket(UnixPath("stale"));
  EXPECT_EQ(Connecting("unix://" + UnixPath("stale")).code(), absl::StatusCode::kUnavailable);
  std::string free;
  {
    auto listener = net_.Listen("tcp://127.0.0.1:0", Ignore);
    ASSERT_TRUE(listener.ok());
    free = (*listener)->address();
  }
  EXPECT_EQ(Connecting(free).code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(MessageOf(Connecting(free))), HasSubstr(free));
}

TEST_F(RealNetTest, TakenPortIsAlreadyExistsAndFreeAgainAfterwards) {
  auto first = net_.Listen("tcp://127.0.0.1:0", Ignore);
  ASSERT_TRUE(first.ok());
  const std::string address = (*first)->address();
  const absl::Status taken = Listening(address);
  EXPECT_EQ(taken.code(), absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(std::string(MessageOf(taken)), HasSubstr(address));
  first->reset();
  EXPECT_TRUE(Listening(address).ok());
}

TEST_F(RealNetTest, LiveUnixSocketIsAlreadyExistsWithItsPid) {
  const std::string address = FreshAddress("unix");
  auto first = net_.Listen(address, Ignore);
  ASSERT_TRUE(first.ok()) << first.status();
  const absl::Status taken = Listening(address);
  EXPECT_EQ(taken.code(), absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(std::string(MessageOf(taken)), HasSubstr(fmt::format("pid {}", getpid())));
  EXPECT_TRUE(Connecting(address).ok()) << "the live server was disturbed";
}

TEST_F(RealNetTest, StaleSocketIsReplacedAndRemovedAtTheEnd) {
  LeaveStaleSocket(UnixPath("socket"));
  auto listener = net_.Listen(FreshAddress("unix"), Ignore);
  ASSERT_TRUE(listener.ok()) << listener.status();
  EXPECT_TRUE(Connecting(FreshAddress("unix")).ok());
  struct stat found{};
  ASSERT_EQ(stat(UnixPath("socket").c_str(), &found), 0);
  EXPECT_EQ(found.st_mode & 0777, 0600U);
  listener->reset();
  EXPECT_TRUE(std::filesystem::is_empty(directory_.path()));
}

TEST_F(RealNetTest, ListenerLeavesTheSocketOfItsSuccessor) {
  auto first = net_.Listen(FreshAddress("unix"), Ignore);
  ASSERT_TRUE(first.ok());
  std::filesystem::remove(UnixPath("socket"));
  auto second = net_.Listen(FreshAddress("unix"), Ignore);
  ASSERT_TRUE(second.ok());
  first->reset();
  EXPECT_TRUE(Connecting(FreshAddress("unix")).ok());
}

TEST_F(RealNetTest, FileThatIsNotASocketIsNeverRemoved) {
  WriteWholeFile(UnixPath("socket"), "precious");
  EXPECT_EQ(Listening(FreshAddress("unix")).code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(ReadWholeFile(UnixPath("socket")), "precious");
}

TEST_F(RealNetTest, MissingDirectoryIsAnErrorThatNamesIt) {
  const absl::Status status = Listening("unix://" + UnixPath("no/such/socket"));
  EXPECT_FALSE(status.ok());
  EXPECT_THAT(std::string(MessageOf(status)), HasSubstr("no/such"));
}

TEST_F(RealNetTest, OnlyTheSameUserOrRootMayConnect) {
  EXPECT_TRUE(CheckPeerUser(1000, 1000, "unix://x").ok());
  EXPECT_TRUE(CheckPeerUser(0, 1000, "unix://x").ok());
  EXPECT_EQ(CheckPeerUser(1000, 0, "unix://x").code(), absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(CheckPeerUser(1000, 1001, "unix://x").code(), absl::StatusCode::kPermissionDenied);
}

TEST_F(RealNetTest, AnotherUserIsClosedUnheardAndTold) {
  if (geteuid() != 0) {
    GTEST_SKIP() << "becoming another user takes root";
  }
  int accepted = 0;
  auto listener =
      net_.Listen(FreshAddress("unix"), [&](std::unique_ptr<Connection>) { ++accepted; });
  ASSERT_TRUE(listener.ok());
  ASSERT_EQ(chmod(directory_.path().c_str(), 0755), 0);
  ASSERT_EQ(chmod(UnixPath("socket").c_str(), 0666), 0);
  const std::string address = FreshAddress("unix");
  const pid_t child = fork();
  if (child == 0) {
    if (setuid(65534) != 0) {
      _exit(3);
    }
    const Descriptor raw = RawConnect(address);
    char byte = 0;
    _exit(recv(raw.get(), &byte, 1, 0) == 0 ? 0 : 1);
  }
  ASSERT_TRUE(RunUntil([this] { return !events_.names.empty(); }));
  EXPECT_EQ(events_.names[0], "connection_refused");
  EXPECT_THAT(events_.texts[0], HasSubstr("user 65534"));
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(accepted, 0);
}

TEST_F(RealNetTest, AcceptCallbackMayStopTheListener) {
  std::unique_ptr<Listener> listener;
  int accepted = 0;
  auto made = net_.Listen("tcp://127.0.0.1:0", [&](std::unique_ptr<Connection>) {
    ++accepted;
    listener.reset();
  });
  listener = *std::move(made);
  const Descriptor one = RawConnect(listener->address());
  const Descriptor two = RawConnect(listener->address());
  ASSERT_TRUE(RunUntil([&] { return accepted > 0; }));
  Settle();
  EXPECT_EQ(accepted, 1);
}

TEST_F(RealNetTest, UnknownCongestionControlFallsBackAndSaysSoOnce) {
  RealNet::Options options;
  options.tcp.congestion_control = "no-such-control";
  RealNet net(loop_.get(), &events_, options);
  auto listener = net.Listen("tcp://127.0.0.1:0", Ignore);
  ASSERT_TRUE(listener.ok()) << listener.status();
  EXPECT_TRUE(Run(net.Connect((*listener)->address(), In(5s))).ok());
  EXPECT_EQ(events_.names, std::vector<std::string>{"tcp_congestion_fallback"});
  EXPECT_THAT(events_.texts[0], HasSubstr("no-such-control"));
}

TEST_F(RealNetTest, ServerThatDoesNotAcceptIsADeadline) {
  const std::string path = UnixPath("full");
  const Descriptor full(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un to{};
  to.sun_family = AF_UNIX;
  std::memcpy(to.sun_path, path.data(), path.size());
  ASSERT_EQ(bind(full.get(), reinterpret_cast<sockaddr*>(&to), sizeof(to)), 0);
  ASSERT_EQ(listen(full.get(), 0), 0);
  const Descriptor first = RawConnect("unix://" + path);
  const auto late = Run(net_.Connect("unix://" + path, In(20ms)));
  EXPECT_EQ(late.status().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(Listening("unix://" + path).code(), absl::StatusCode::kAlreadyExists);
}

}  // namespace
}  // namespace gemel

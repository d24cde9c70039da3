// SPDX-License-Identifier: Apache-2.0
//
// KeeperService by its messages, and SystemdStore with a socket in the service manager's place.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdlib>

#include "server/keeper/systemd_store.h"
#include "tests/unit/common_runner.h"
#include "tests/unit/common_temporary_directory.h"
#include "tests/unit/server_world.h"
#include "transport/local/real_host.h"

namespace gemel::testing {
namespace {

using ::testing::HasSubstr;

struct KeeperWorld {
  KeeperWorld() : world(1), keeper(&world, "host") {}

  // A server's process that has said hello; its incarnation is of `life`.
  std::unique_ptr<Speaker> Server(uint8_t life, uint8_t id = 1, uint8_t cluster = 0) {
    auto speaker = std::make_unique<Speaker>(&world, "host");
    GEMEL_CHECK(speaker->Connect(KeeperNode::AddressAt("host")).ok());
    greeted = Greet(speaker.get(), life, id, cluster);
    return speaker;
  }

  static absl::Status Greet(Speaker* speaker, uint8_t life, uint8_t id = 1, uint8_t cluster = 0) {
    KeeperHello hello;
    hello.server_name = "server-" + std::to_string(id);
    hello.server.bytes[0] = id;
    hello.cluster.bytes[0] = cluster;
    hello.incarnation.bytes[0] = life;
    Handles own = {*speaker->life.host.OwnProcess()};
    return speaker->Ask(FrameType::kKeeperHello, hello, std::move(own)).status();
  }

  static absl::Status Give(Speaker* speaker, std::vector<KeptName> names, size_t handles) {
    KeeperGive give;
    give.items = std::move(names);
    Handles memories;
    for (size_t i = 0; i < handles; ++i) {
      memories.push_back(*speaker->life.host.CreateMemory("memory", 4096));
    }
    return speaker->Ask(FrameType::kKeeperGive, give, std::move(memories)).status();
  }

  static std::vector<KeptName> Take(Speaker* speaker, uint32_t first) {
    KeeperTake take;
    take.first = first;
    const auto reply = speaker->AskFor<KeeperTakeReply>(FrameType::kKeeperTake, take);
    GEMEL_CHECK(reply.ok()) << reply.status().ToString();
    GEMEL_CHECK_EQ(reply->items.size(), speaker->handles.size());
    return reply->items;
  }

  World world;
  KeeperNode keeper;
  absl::Status greeted;
};

std::vector<KeptName> Slabs(uint64_t count) {
  std::vector<KeptName> names;
  for (uint64_t slab = 0; slab < count; ++slab) {
    names.push_back({KeptKind::kSlab, slab});
  }
  return names;
}

TEST(KeeperService, HandsOverAllThatWasGivenAFrameAtATime) {
  KeeperWorld k;
  auto first = k.Server(1);
  ASSERT_TRUE(k.greeted.ok()) << k.greeted;
  const std::vector<KeptName> names = Slabs(100);
  ASSERT_TRUE(KeeperWorld::Give(first.get(), {names.begin(), names.begin() + 64}, 64).ok());
  ASSERT_TRUE(KeeperWorld::Give(first.get(), {names.begin() + 64, names.end()}, 36).ok());
  first = nullptr;
  auto second = k.Server(2);
  ASSERT_TRUE(k.greeted.ok()) << k.greeted;
  std::vector<KeptName> taken = KeeperWorld::Take(second.get(), 0);
  EXPECT_EQ(taken.size(), 64U);
  const std::vector<KeptName> rest = KeeperWorld::Take(second.get(), 64);
  taken.insert(taken.end(), rest.begin(), rest.end());
  EXPECT_EQ(taken, names);
  EXPECT_TRUE(KeeperWorld::Take(second.get(), 100).empty());
  EXPECT_TRUE(KeeperWorld::Take(second.get(), UINT32_MAX).empty());
  EXPECT_EQ(k.keeper.service.items(), 100U) << "handing over gives nothing away";
}

TEST(KeeperService, AnswersNobodyButItsOwner) {
  KeeperWorld k;
  auto owner = k.Server(1);
  Speaker stranger(&k.world, "host");
  ASSERT_TRUE(stranger.Connect(KeeperNode::AddressAt("host")).ok());
  EXPECT_EQ(stranger.Ask(FrameType::kKeeperTake, KeeperTake()).status().code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(KeeperWorld::Give(&stranger, Slabs(1), 1).code(),
            absl::StatusCode::kFailedPrecondition);
}

TEST(KeeperService, RefusesAnotherServerClusterOrRelease) {
  KeeperWorld k;
  auto owner = k.Server(1, 1, 7);
  ASSERT_TRUE(k.greeted.ok());
  owner = nullptr;
  auto other = k.Server(2, 2, 7);
  EXPECT_EQ(k.greeted.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(k.greeted.ToString(), HasSubstr("needs one of its own"));
  auto moved = k.Server(2, 1, 8);
  EXPECT_THAT(k.greeted.ToString(), HasSubstr("is of cluster"));
  Speaker newer(&k.world, "host");
  ASSERT_TRUE(newer.Connect(KeeperNode::AddressAt("host")).ok());
  KeeperHello hello;
  hello.version = 9;
  Handles own = {*newer.life.host.OwnProcess()};
  EXPECT_THAT(newer.Ask(FrameType::kKeeperHello, hello, std::move(own)).status().ToString(),
              HasSubstr("speaks keeper protocol 9"));
  auto right = k.Server(2, 1, 7);
  EXPECT_TRUE(k.greeted.ok()) << k.greeted;
}

TEST(KeeperService, AnOwnerThatLivesIsWaitedForThenTheNextIsRefused) {
  KeeperWorld k;
  auto owner = k.Server(1);
  owner->session->Close(error::Cancelled("its connection breaks, its process lives"));
  const TimePoint began = k.world.scheduler.now();
  auto next = k.Server(2);
  EXPECT_EQ(k.greeted.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(k.greeted.ToString(), HasSubstr("is not dead"));
  EXPECT_GE(k.world.scheduler.now() - began, KeeperService::kDeathPatience);
  // The owner itself comes back.
  ASSERT_TRUE(owner->Connect(KeeperNode::AddressAt("host")).ok());
  EXPECT_TRUE(KeeperWorld::Greet(owner.get(), 1).ok());
}

TEST(KeeperService, RefusesItemsWithoutTheirHandlesAndAHelloWithoutAProcess) {
  KeeperWorld k;
  auto owner = k.Server(1);
  EXPECT_EQ(KeeperWorld::Give(owner.get(), Slabs(2), 1).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(k.keeper.service.items(), 0U);
  Speaker bare(&k.world, "host");
  ASSERT_TRUE(bare.Connect(KeeperNode::AddressAt("host")).ok());
  EXPECT_EQ(bare.Ask(FrameType::kKeeperHello, KeeperHello()).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(KeeperService, ForgetsWhatItIsToldAndNothingElse) {
  KeeperWorld k;
  auto owner = k.Server(1);
  ASSERT_TRUE(KeeperWorld::Give(owner.get(), Slabs(3), 3).ok());
  KeeperForget forget;
  forget.items = {{KeptKind::kSlab, 1}, {KeptKind::kClient, 2}};
  ASSERT_TRUE(owner->Ask(FrameType::kKeeperForget, forget).ok());
  EXPECT_EQ(KeeperWorld::Take(owner.get(), 0),
            (std::vector<KeptName>{{KeptKind::kSlab, 0}, {KeptKind::kSlab, 2}}));
}

TEST(KeeperService, HasRoomForAFewConnections) {
  KeeperWorld k;
  std::vector<std::unique_ptr<Speaker>> many;
  for (size_t i = 0; i < KeeperService::kSessionsMax + 4; ++i) {
    many.push_back(std::make_unique<Speaker>(&k.world, "host"));
    many.back()->Connect(KeeperNode::AddressAt("host")).IgnoreError();
  }
  k.world.RunFor(100ms);
  EXPECT_EQ(k.keeper.events.counts["connection_refused"], 4U);
}

// The service manager's side: takes datagrams, stores descriptors by name.
class FakeManager {
 public:
  FakeManager() : path_(folder_.path() + "/notify"), socket_(socket(AF_UNIX, SOCK_DGRAM, 0)) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    path_.copy(address.sun_path, path_.size());
    GEMEL_CHECK_EQ(bind(socket_.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  }

  const std::string& path() const { return path_; }

  // Takes what has come; the texts, a line each.
  std::vector<std::string> Receive() {
    std::vector<std::string> texts;
    while (ReceiveOne(&texts)) {
    }
    return texts;
  }

  // What a next life is started with: the descriptors from `first` on.
  SystemdStore::Passed Pass(int first) {
    SystemdStore::Passed passed;
    passed.notify_socket = path_;
    passed.first = first;
    for (const auto& [name, fd] : store_) {
      GEMEL_CHECK_GE(dup2(fd.get(), first + static_cast<int>(passed.names.size())), 0);
      passed.names.push_back(name);
    }
    return passed;
  }

  const std::map<std::string, Descriptor>& store() const { return store_; }

 private:
  bool ReceiveOne(std::vector<std::string>* texts) {
    std::array<char, 1024> text{};
    alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
    iovec piece{text.data(), text.size()};
    msghdr message{};
    message.msg_iov = &piece;
    message.msg_iovlen = 1;
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    const ssize_t bytes = recvmsg(socket_.get(), &message, MSG_DONTWAIT);
    if (bytes < 0) {
      return false;
    }
    Descriptor fd;
    if (const cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr) {
      int number = -1;
      std::memcpy(&number, CMSG_DATA(header), sizeof(number));
      fd = Descriptor(number);
    }
    const std::string said(text.data(), static_cast<size_t>(bytes));
    const size_t at = said.find("FDNAME=");
    const std::string name = at == said.npos ? "" : said.substr(at + 7);
    if (said.starts_with("FDSTOREREMOVE=1\n")) {
      store_.erase(name);
    } else if (said.starts_with("FDSTORE=1\n")) {
      GEMEL_CHECK(fd.valid()) << said;
      store_[name] = std::move(fd);
    }
    texts->push_back(said);
    return true;
  }

  TemporaryDirectory folder_;
  const std::string path_;
  const Descriptor socket_;
  std::map<std::string, Descriptor> store_;
};

struct Systemd : ::testing::Test {
  Systemd() : loop(*EpollLoop::Create()), host(loop.get()) {}

  ~Systemd() override { loop->Shutdown(); }

  Keeper::Taker Taker(pid_t pid) {
    Keeper::Taker taker;
    taker.server_name = "server-0";
    taker.process = std::make_shared<DescriptorHandle>(
        Descriptor(static_cast<int>(syscall(SYS_pidfd_open, pid, 0))));
    return taker;
  }

  std::unique_ptr<SystemdStore> Store(const SystemdStore::Passed& passed) {
    auto store = SystemdStore::Create(loop.get(), &host, passed);
    GEMEL_CHECK(store.ok()) << store.status().ToString();
    return *std::move(store);
  }

  static pid_t Sleeper() {
    const pid_t child = fork();
    if (child == 0) {
      while (true) {
        pause();
      }
    }
    return child;
  }

  static uint64_t FileOf(int fd) {
    struct stat found{};
    GEMEL_CHECK_EQ(fstat(fd, &found), 0);
    return found.st_ino;
  }

  std::unique_ptr<EpollLoop> loop;
  RealHost host;
  FakeManager manager;
};

TEST_F(Systemd, KeepsByNameAndGivesBackToTheNextLife) {
  const pid_t life = Sleeper();
  auto first = Store(manager.Pass(200));
  EXPECT_TRUE(RunTask(loop.get(), first->Take(Taker(life)))->empty());
  const auto memory = *host.CreateMemory("gemel-slab", 4096);
  ASSERT_TRUE(RunTask(loop.get(), first->Give({{{KeptKind::kSlab, 3}, memory},
                                               {{KeptKind::kDirectory, 1}, memory},
                                               {{KeptKind::kClient, 9}, Taker(life).process}}))
                  .ok());
  EXPECT_THAT(manager.Receive(), ::testing::Contains("FDSTORE=1\nFDPOLL=0\nFDNAME=gemel-slab-3"));
  EXPECT_EQ(manager.store().size(), 4U) << "and the process of the server itself";
  first->Forget({{KeptKind::kClient, 9}});
  manager.Receive();
  EXPECT_FALSE(manager.store().contains("gemel-client-9"));
  // Not while the former life lives, stopped as it may be.
  kill(life, SIGSTOP);
  auto early = Store(manager.Pass(200));
  const auto refused = RunTask(loop.get(), early->Take(Taker(getpid())));
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(refused.status().ToString(), HasSubstr("is not dead"));
  early = nullptr;
  kill(life, SIGKILL);
  waitpid(life, nullptr, 0);
  auto next = Store(manager.Pass(200));
  const auto taken = RunTask(loop.get(), next->Take(Taker(getpid())));
  ASSERT_TRUE(taken.ok()) << taken.status();
  ASSERT_EQ(taken->size(), 2U);
  EXPECT_EQ((*taken)[0].name, (KeptName{KeptKind::kDirectory, 1}));
  EXPECT_EQ((*taken)[1].name, (KeptName{KeptKind::kSlab, 3}));
  EXPECT_EQ(FileOf((*taken)[1].handle->descriptor()), FileOf(memory->descriptor()));
  manager.Receive();
  EXPECT_TRUE(manager.store().contains("gemel-server"));
  ASSERT_TRUE(next->NotifyReady().ok());
  EXPECT_EQ(manager.Receive(), std::vector<std::string>{"READY=1"});
}

TEST_F(Systemd, LeavesDescriptorsOfOtherNamesAlone) {
  SystemdStore::Passed passed = manager.Pass(200);
  for (const char* name :
       {"http", "gemel-slab-", "gemel-slab-1x", "gemel-slab-99999999999999999999"}) {
    const int fd = 200 + static_cast<int>(passed.names.size());
    ASSERT_GE(dup2(STDIN_FILENO, fd), 0);
    passed.names.emplace_back(name);
  }
  auto store = Store(passed);
  EXPECT_TRUE(RunTask(loop.get(), store->Take(Taker(getpid())))->empty());
}

TEST_F(Systemd, ReadsTheEnvironmentOnceAndOnlyItsOwn) {
  setenv("NOTIFY_SOCKET", manager.path().c_str(), 1);
  setenv("LISTEN_PID", std::to_string(getpid()).c_str(), 1);
  setenv("LISTEN_FDS", "3", 1);
  setenv("LISTEN_FDNAMES", "gemel-slab-0:gemel-server:other", 1);
  auto passed = SystemdStore::FromEnvironment(static_cast<uint64_t>(getpid()));
  ASSERT_TRUE(passed.ok());
  EXPECT_EQ(passed->notify_socket, manager.path());
  EXPECT_THAT(passed->names, ::testing::ElementsAre("gemel-slab-0", "gemel-server", "other"));
  EXPECT_EQ(getenv("LISTEN_FDS"), nullptr);
  EXPECT_EQ(getenv("NOTIFY_SOCKET"), nullptr);
  setenv("LISTEN_PID", "1", 1);
  setenv("LISTEN_FDS", "3", 1);
  passed = SystemdStore::FromEnvironment(static_cast<uint64_t>(getpid()));
  ASSERT_TRUE(passed.ok());
  EXPECT_TRUE(passed->names.empty()) << "descriptors of another process";
}

TEST_F(Systemd, SaysWhatItNeedsWhenNobodyManagesIt) {
  SystemdStore::Passed nothing;
  EXPECT_THAT(SystemdStore::Create(loop.get(), &host, nothing).status().ToString(),
              HasSubstr("FileDescriptorStoreMax="));
  SystemdStore::Passed gone;
  gone.notify_socket = "/nowhere/notify";
  auto store = Store(gone);
  const auto taken = RunTask(loop.get(), store->Take(Taker(getpid())));
  EXPECT_FALSE(taken.ok());
  EXPECT_THAT(taken.status().ToString(), HasSubstr("service manager"));
}

TEST_F(Systemd, AHandleTellsThePidOfAProcessWhileItLives) {
  const pid_t child = Sleeper();
  const auto process = Taker(child).process;
  EXPECT_EQ(*host.LivingPid(process), static_cast<uint64_t>(child));
  kill(child, SIGKILL);
  siginfo_t ended{};
  ASSERT_EQ(waitid(P_PID, static_cast<id_t>(child), &ended, WEXITED | WNOWAIT), 0);
  EXPECT_EQ(*host.LivingPid(process), 0U) << "dead, though nobody has waited for it";
  waitpid(child, nullptr, 0);
  EXPECT_EQ(*host.LivingPid(process), 0U);
  EXPECT_EQ(host.LivingPid(*host.CreateMemory("memory", 4096)).status().code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace gemel::testing

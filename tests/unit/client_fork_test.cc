// SPDX-License-Identifier: Apache-2.0
//
// What a forked child sees of its parent's clients (DESIGN amendment 5).
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include "gemel/client.h"
#include "tests/unit/client_fake_server.h"

namespace gemel {
namespace {

constexpr uint64_t kShardBytes = 3 * kMiB;
constexpr int kForks = 25;

bool MapsSharedMemory() {
  return ReadWholeFile("/proc/self/maps").find("memfd:gemel") != std::string::npos;
}

bool HoldsSharedMemory() {
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    const std::string target = std::filesystem::read_symlink(entry.path(), ignored).string();
    if (target.starts_with("/memfd:gemel")) {
      return true;
    }
  }
  return false;
}

// Runs `child` in a fork; its result.
template <typename Child>
int InChild(Child child) {
  const pid_t pid = fork();
  if (pid == 0) {
    _exit(child());
  }
  int status = 0;
  EXPECT_EQ(waitpid(pid, &status, 0), pid);
  EXPECT_TRUE(WIFEXITED(status)) << "the child ended by signal " << WTERMSIG(status);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

class ClientFork : public ::testing::Test {
 protected:
  void SetUp() override {
    auto client = Client::Connect({.address = server_.address(), .timeout_ms = 5000});
    ASSERT_TRUE(client) << client.status().message();
    client_ = std::move(*client);
    epoch_ = *client_.AcquireEpoch("gpt", DrawToken());
  }

  SnapshotWriter Open() {
    auto opened = client_.OpenSnapshot({.job = "gpt",
                                        .epoch = epoch_,
                                        .name = "1",
                                        .shard_bytes = kShardBytes,
                                        .copies = 1,
                                        .timeout_ms = 5000});
    EXPECT_TRUE(opened && opened->has_value()) << opened.status().message();
    return std::move(**opened);
  }

  bool Save() {
    SnapshotWriter writer = Open();
    return writer.Write(0, content_).ok() && writer.Seal().ok() && writer.Wait(5000);
  }

  FakeServer server_;
  Client client_;
  Epoch epoch_{};
  const std::vector<std::byte> content_ = std::vector<std::byte>(kShardBytes, std::byte{7});
};

TEST_F(ClientFork, RefusesHandlesOfTheParentInTheChildAndFreesThemWithoutHarm) {
  auto writer = std::make_unique<SnapshotWriter>(Open());
  ASSERT_TRUE(writer->Write(0, std::span(content_).first(100)).ok());
  const int failed = InChild([&]() {
    const Status write = writer->Write(100, content_);
    const Status seal = writer->Seal();
    const Status acquire = client_.AcquireEpoch("gpt", DrawToken()).status();
    const bool refused = write.code() == GEMEL_FAILED_PRECONDITION &&
                         seal.code() == GEMEL_FAILED_PRECONDITION &&
                         acquire.code() == GEMEL_FAILED_PRECONDITION &&
                         acquire.message().find("before fork") != std::string::npos;
    writer.reset();
    client_ = Client();
    return refused ? 0 : 1;
  });
  EXPECT_EQ(failed, 0);
  ASSERT_TRUE(writer->Write(100, std::span(content_).subspan(100)).ok());
  ASSERT_TRUE(writer->Seal().ok());
  EXPECT_TRUE(writer->Wait(5000));
  EXPECT_EQ(server_.aborts.load(), 0);
}

TEST_F(ClientFork, InheritsNoSharedMemory) {
  SnapshotWriter writer = Open();
  ASSERT_TRUE(MapsSharedMemory());
  EXPECT_EQ(InChild([]() { return MapsSharedMemory() ? 1 : 0; }), 0);
  EXPECT_EQ(InChild([]() { return HoldsSharedMemory() ? 1 : 0; }), 0);
}

TEST_F(ClientFork, InheritsNoSharedMemoryWhileAnotherThreadSaves) {
  std::atomic<bool> stop{false};
  std::atomic<int> failed{0};
  std::thread saver([&]() {
    while (!stop.load()) {
      failed += Save() ? 0 : 1;
    }
  });
  for (int i = 0; i < kForks; ++i) {
    EXPECT_EQ(InChild([]() { return MapsSharedMemory() || HoldsSharedMemory() ? 1 : 0; }), 0);
  }
  stop = true;
  saver.join();
  EXPECT_EQ(failed.load(), 0);
}

#if !defined(__SANITIZE_THREAD__)  // it ends a forked child that starts a thread
TEST_F(ClientFork, LetsTheChildConnectAnew) {
  const int failed = InChild([&]() {
    auto client = Client::Connect({.address = server_.address(), .timeout_ms = 5000});
    return client && client->AcquireEpoch("gpt", DrawToken()) ? 0 : 1;
  });
  EXPECT_EQ(failed, 0);
  EXPECT_TRUE(Save());
}
#endif

TEST_F(ClientFork, LeavesAStageToItsParent) {
  auto stage = client_.OpenStage({.shard_bytes = kShardBytes, .timeout_ms = 5000});
  ASSERT_TRUE(stage) << stage.status().message();
  const int refused = InChild([this, &stage]() {
    const bool all = stage->Write(0, content_).code() == GEMEL_FAILED_PRECONDITION &&
                     stage->Seal().code() == GEMEL_FAILED_PRECONDITION && !MapsSharedMemory();
    *stage = StageWriter();  // frees nothing of the parent's
    return all ? 0 : 1;
  });
  EXPECT_EQ(refused, 0);
  EXPECT_TRUE(stage->Write(0, content_).ok());
  EXPECT_TRUE(stage->Seal().ok());
  EXPECT_EQ(server_.drops.load(), 0);
}

}  // namespace
}  // namespace gemel

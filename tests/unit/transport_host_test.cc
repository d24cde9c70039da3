// SPDX-License-Identifier: Apache-2.0
//
// RealHost: shared memory and the death of processes.
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <filesystem>
#include <fstream>

#include "tests/unit/transport_sockets.h"
#include "transport/local/real_host.h"

namespace gemel {
namespace {

constexpr uint64_t kBytes = 256 * kKiB;

class RealHostTest : public SocketTest {
 protected:
  std::shared_ptr<SharedHandle> Memory() {
    auto memory = host_.CreateMemory("gemel test", kBytes);
    GEMEL_CHECK(memory.ok()) << memory.status();
    return *memory;
  }

  std::unique_ptr<Mapping> Mapped(const std::shared_ptr<SharedHandle>& memory, Access access,
                                  bool populate = false) {
    auto mapping = host_.Map(memory, kBytes, access, populate);
    GEMEL_CHECK(mapping.ok()) << mapping.status();
    return *std::move(mapping);
  }

  absl::StatusCode MapCode(int fd, uint64_t bytes) {
    auto handle = std::make_shared<DescriptorHandle>(Descriptor(fd));
    return host_.Map(handle, bytes, Access::kReadWrite, false).status().code();
  }

  static std::shared_ptr<SharedHandle> ProcessOf(pid_t pid) {
    return std::make_shared<DescriptorHandle>(
        Descriptor(static_cast<int>(syscall(SYS_pidfd_open, pid, 0))));
  }

  // A child that does nothing until it is killed.
  static pid_t Sleeper() {
    const pid_t child = fork();
    if (child == 0) {
      while (true) {
        pause();
      }
    }
    return child;
  }

  static size_t ResidentPages(const Mapping& mapping) {
    std::vector<unsigned char> pages(mapping.bytes().size() / 4096);
    GEMEL_CHECK_EQ(mincore(mapping.bytes().data(), mapping.bytes().size(), pages.data()), 0);
    return static_cast<size_t>(
        std::count_if(pages.begin(), pages.end(), [](unsigned char page) { return page & 1; }));
  }

  // What the kernel says of the mapping: "VmFlags: rd wr sh … hg …".
  static std::string FlagsOf(const Mapping& mapping) {
    std::ifstream maps("/proc/self/smaps");
    const std::string place =
        fmt::format("{:x}-", reinterpret_cast<uintptr_t>(mapping.bytes().data()));
    bool here = false;
    for (std::string line; std::getline(maps, line);) {
      here = here || line.starts_with(place);
      if (here && line.starts_with("VmFlags:")) {
        return line;
      }
    }
    return "not mapped";
  }

  // How a child that runs `body` after a fork ends: its exit code, or the signal with a minus.
  template <typename Body>
  static int EndOfChild(Body body) {
    const pid_t child = fork();
    if (child == 0) {
      // The default action: a sanitizer's own handler would report and exit.
      signal(SIGSEGV, SIG_DFL);
      signal(SIGBUS, SIG_DFL);
      body();
      _exit(0);
    }
    int status = 0;
    GEMEL_CHECK_EQ(waitpid(child, &status, 0), child);
    return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
  }

  RealHost host_{loop_.get()};
};

TEST_F(RealHostTest, MemoryIsZeroedAndSharedBetweenMappings) {
  auto memory = Memory();
  auto writer = Mapped(memory, Access::kReadWrite);
  auto reader = Mapped(memory, Access::kRead);
  EXPECT_EQ(reader->bytes()[1000], std::byte{0});
  writer->bytes()[1000] = std::byte{42};
  EXPECT_EQ(reader->bytes()[1000], std::byte{42});
  EXPECT_EQ(reader->access(), Access::kRead);
}

TEST_F(RealHostTest, SizeAndSealsCannotBeChanged) {
  auto memory = Memory();
  EXPECT_NE(ftruncate(memory->descriptor(), 4096), 0);
  EXPECT_NE(ftruncate(memory->descriptor(), 2 * kBytes), 0);
  EXPECT_NE(fcntl(memory->descriptor(), F_ADD_SEALS, F_SEAL_FUTURE_WRITE), 0);
  EXPECT_NE(fcntl(memory->descriptor(), F_GETFD) & FD_CLOEXEC, 0);
}

TEST_F(RealHostTest, ForeignHandlesAreRefused) {
  EXPECT_EQ(MapCode(memfd_create("unsealed", MFD_CLOEXEC | MFD_ALLOW_SEALING), kBytes),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(MapCode(open("/dev/null", O_RDWR | O_CLOEXEC), kBytes),
            absl::StatusCode::kInvalidArgument);
  auto memory = Memory();
  EXPECT_EQ(MapCode(dup(memory->descriptor()), kBytes + 1), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(MapCode(dup(memory->descriptor()), 0), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(host_.Map(nullptr, kBytes, Access::kRead, false).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(host_.CreateMemory("none", 0).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(RealHostTest, PopulateTouchesEveryPageWithEveryAccess) {
  for (Access access : {Access::kReadWrite, Access::kRead, Access::kNone}) {
    auto cold = Memory();
    auto untouched = Mapped(cold, access, false);
    EXPECT_EQ(ResidentPages(*untouched), 0U);
    auto warm = Mapped(Memory(), access, true);
    EXPECT_EQ(ResidentPages(*warm), kBytes / 4096);
    EXPECT_EQ(warm->access(), access);
  }
}

TEST_F(RealHostTest, SlabsAskForHugePagesAndSmallMemoryDoesNot) {
  if (!std::filesystem::exists("/sys/kernel/mm/transparent_hugepage")) {
    GTEST_SKIP() << "this kernel has no transparent huge pages";
  }
  auto slab = host_.CreateMemory("gemel test", 4 * kMiB);
  ASSERT_TRUE(slab.ok()) << slab.status();
  auto mapping = host_.Map(*slab, 4 * kMiB, Access::kReadWrite, true);
  ASSERT_TRUE(mapping.ok()) << mapping.status();
  EXPECT_NE(FlagsOf(**mapping).find(" hg"), std::string::npos) << FlagsOf(**mapping);
  auto small = Mapped(Memory(), Access::kReadWrite, true);
  EXPECT_EQ(FlagsOf(*small).find(" hg"), std::string::npos) << FlagsOf(*small);
}

TEST_F(RealHostTest, PopulateKeepsContent) {
  auto memory = Memory();
  Mapped(memory, Access::kReadWrite)->bytes()[5000] = std::byte{9};
  auto again = Mapped(memory, Access::kReadWrite, true);
  EXPECT_EQ(again->bytes()[5000], std::byte{9});
}

TEST_F(RealHostTest, ProtectionIsEnforcedAndChangesBothWays) {
  auto mapping = Mapped(Memory(), Access::kReadWrite);
  volatile auto* byte = reinterpret_cast<volatile uint8_t*>(mapping->bytes().data());
  auto write = [byte] { *byte = 1; };
  auto read = [byte] { static_cast<void>(*byte); };
  ASSERT_EQ(madvise(mapping->bytes().data(), kBytes, MADV_DOFORK), 0);  // so that a child can try
  EXPECT_EQ(EndOfChild(write), 0);
  ASSERT_TRUE(mapping->Protect(Access::kRead).ok());
  EXPECT_EQ(EndOfChild(write), -SIGSEGV);
  EXPECT_EQ(EndOfChild(read), 0);
  ASSERT_TRUE(mapping->Protect(Access::kNone).ok());
  EXPECT_EQ(EndOfChild(read), -SIGSEGV);
  ASSERT_TRUE(mapping->Protect(Access::kReadWrite).ok());
  EXPECT_EQ(EndOfChild(write), 0);
}

TEST_F(RealHostTest, ReadOnlyHandleCannotBecomeWritable) {
  auto memory = Memory();
  const std::string path = fmt::format("/proc/self/fd/{}", memory->descriptor());
  auto read_only =
      std::make_shared<DescriptorHandle>(Descriptor(open(path.c_str(), O_RDONLY | O_CLOEXEC)));
  EXPECT_EQ(host_.Map(read_only, kBytes, Access::kReadWrite, false).status().code(),
            absl::StatusCode::kPermissionDenied);
  auto mapping = host_.Map(read_only, kBytes, Access::kRead, true);
  ASSERT_TRUE(mapping.ok()) << mapping.status();
  EXPECT_FALSE((*mapping)->Protect(Access::kReadWrite).ok());
  EXPECT_EQ((*mapping)->access(), Access::kRead);
}

TEST_F(RealHostTest, MappingIsAbsentInAForkedChild) {
  auto mapping = Mapped(Memory(), Access::kReadWrite, true);
  volatile auto* byte = reinterpret_cast<volatile uint8_t*>(mapping->bytes().data());
  EXPECT_EQ(EndOfChild([byte] { static_cast<void>(*byte); }), -SIGSEGV);
}

TEST_F(RealHostTest, ContentOutlivesTheHandle) {
  auto memory = Memory();
  auto mapping = Mapped(memory, Access::kReadWrite);
  memory = nullptr;
  mapping->bytes()[kBytes - 1] = std::byte{3};
  EXPECT_EQ(mapping->bytes()[kBytes - 1], std::byte{3});
}

TEST_F(RealHostTest, NothingIsLeftOpen) {
  const size_t before = OpenDescriptors();
  {
    auto memory = Memory();
    auto mapping = Mapped(memory, Access::kRead);
    auto watch = host_.WatchExit(*host_.OwnProcess(), [] {});
    ASSERT_TRUE(watch.ok());
  }
  EXPECT_EQ(OpenDescriptors(), before);
}

TEST_F(RealHostTest, DeathIsToldOnceToEveryWatch) {
  const pid_t child = Sleeper();
  auto process = ProcessOf(child);
  int told[2] = {0, 0};
  auto one = host_.WatchExit(process, [&] { told[0] += 1; });
  auto two = host_.WatchExit(process, [&] { told[1] += 1; });
  ASSERT_TRUE(one.ok() && two.ok());
  Settle();
  EXPECT_EQ(told[0], 0);
  ASSERT_EQ(kill(child, SIGKILL), 0);
  ASSERT_TRUE(RunUntil([&] { return told[0] == 1 && told[1] == 1; }));
  Settle();
  EXPECT_EQ(told[0] + told[1], 2);
  ASSERT_EQ(waitpid(child, nullptr, 0), child);
}

TEST_F(RealHostTest, DeathBeforeTheWatchIsToldToo) {
  const pid_t child = Sleeper();
  auto zombie = ProcessOf(child);
  ASSERT_EQ(kill(child, SIGKILL), 0);
  int told = 0;
  auto before_reaping = host_.WatchExit(zombie, [&] { told += 1; });
  ASSERT_TRUE(before_reaping.ok());
  ASSERT_TRUE(RunUntil([&] { return told == 1; }));
  ASSERT_EQ(waitpid(child, nullptr, 0), child);
  auto after_reaping = host_.WatchExit(zombie, [&] { told += 1; });
  ASSERT_TRUE(after_reaping.ok()) << after_reaping.status();
  EXPECT_EQ(told, 1) << "told from within the call";
  ASSERT_TRUE(RunUntil([&] { return told == 2; }));
}

TEST_F(RealHostTest, DestroyedWatchTellsNothing) {
  const pid_t child = Sleeper();
  int told = 0;
  auto watch = host_.WatchExit(ProcessOf(child), [&] { told += 1; });
  ASSERT_TRUE(watch.ok());
  ASSERT_EQ(kill(child, SIGKILL), 0);
  ASSERT_EQ(waitpid(child, nullptr, 0), child);
  watch->reset();
  Settle();
  EXPECT_EQ(told, 0);
}

TEST_F(RealHostTest, WatchMayBeDestroyedByItsOwnCallback) {
  const pid_t child = Sleeper();
  std::unique_ptr<ExitWatch> watch;
  bool told = false;
  watch = *host_.WatchExit(ProcessOf(child), [&] {
    watch.reset();
    told = true;
  });
  ASSERT_EQ(kill(child, SIGKILL), 0);
  ASSERT_TRUE(RunUntil([&] { return told; }));
  ASSERT_EQ(waitpid(child, nullptr, 0), child);
}

TEST_F(RealHostTest, OnlyAProcessCanBeWatched) {
  EXPECT_EQ(host_.WatchExit(Memory(), [] {}).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(host_.WatchExit(nullptr, [] {}).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(host_.WatchExit(*host_.OwnProcess(), [] {}).ok());
}

}  // namespace
}  // namespace gemel

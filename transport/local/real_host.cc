// SPDX-License-Identifier: Apache-2.0
#include "transport/local/real_host.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <fstream>
#include <string>
#include <utility>

#include "common/check.h"
#include "common/errors.h"
#include "common/status_macros.h"
#include "transport/descriptor.h"
#include "transport/outcome.h"

namespace gemel {
namespace {

constexpr int kSizeSeals = F_SEAL_SHRINK | F_SEAL_GROW;
constexpr size_t kNameBytesMax = 200;  // of memfd's 249
constexpr size_t kPageBytes = 4096;    // the smallest: touching one more often is only slower
constexpr uint64_t kHugePageBytes = 2 * kMiB;
// Since Linux 5.14; older C library headers lack them.
constexpr int kPopulateRead = 22;
constexpr int kPopulateWrite = 23;
constexpr std::string_view kPidField = "Pid:";

int ProtectionOf(Access access) {
  switch (access) {
    case Access::kNone:
      return PROT_NONE;
    case Access::kRead:
      return PROT_READ;
    case Access::kReadWrite:
      return PROT_READ | PROT_WRITE;
  }
  GEMEL_CHECK(false) << "access " << static_cast<int>(access);
  return PROT_NONE;
}

// Touches every page without changing a byte, also while another process writes there.
void TouchPages(MutableByteSpan bytes, bool write) {
  for (size_t at = 0; at < bytes.size(); at += kPageBytes) {
    std::atomic_ref<uint8_t> byte(reinterpret_cast<uint8_t&>(bytes[at]));
    if (write) {
      byte.fetch_or(0, std::memory_order_relaxed);
    } else {
      static_cast<void>(byte.load(std::memory_order_relaxed));
    }
  }
}

class RealMapping final : public Mapping {
 public:
  explicit RealMapping(MutableByteSpan bytes) : bytes_(bytes) { GEMEL_CHECK(!bytes_.empty()); }

  ~RealMapping() override { GEMEL_CHECK_EQ(munmap(bytes_.data(), bytes_.size()), 0); }

  MutableByteSpan bytes() const override { return bytes_; }

  Access access() const override { return access_.load(std::memory_order_acquire); }

  absl::Status Protect(Access access) override {
    if (mprotect(bytes_.data(), bytes_.size(), ProtectionOf(access)) != 0) {
      return StatusOfErrno(errno, fmt::format("protecting {} mapped bytes", bytes_.size()));
    }
    access_.store(access, std::memory_order_release);
    return absl::OkStatus();
  }

  // Leaves the mapping accessible: readable or writable.
  absl::Status Populate(bool write) {
    GEMEL_RETURN_IF_ERROR(Protect(write ? Access::kReadWrite : Access::kRead));
    const int advice = write ? kPopulateWrite : kPopulateRead;
    if (madvise(bytes_.data(), bytes_.size(), advice) == 0) {
      return absl::OkStatus();
    }
    if (errno == EINVAL) {
      TouchPages(bytes_, write);
      return absl::OkStatus();
    }
    return error::ResourceExhausted(
        "{} bytes of shared memory cannot be filled in: {}; raise the memory limit of this process "
        "(cgroup memory.max) or use smaller or fewer slabs",
        bytes_.size(), MessageOf(StatusOfErrno(errno, "madvise")));
  }

 private:
  const MutableByteSpan bytes_;
  std::atomic<Access> access_{Access::kNone};
};

class RealExitWatch final : public ExitWatch {
 public:
  // `process` is this watch's own copy: one descriptor has one watch on a loop.
  RealExitWatch(EpollLoop* loop, Descriptor process, std::function<void()> exited)
      : loop_(loop), process_(std::move(process)) {
    auto told = [this, exited = std::move(exited)](uint32_t /*ready*/) {
      loop_->Unwatch(process_.get());
      exited();  // last: it may destroy the watch
    };
    loop_->Watch(process_.get(), EPOLLIN, std::move(told));
  }

  RealExitWatch(const RealExitWatch&) = delete;
  RealExitWatch& operator=(const RealExitWatch&) = delete;

  ~RealExitWatch() override { loop_->Unwatch(process_.get()); }

 private:
  EpollLoop* const loop_;
  const Descriptor process_;
};

// Invariant (2).
absl::Status CheckMemory(int fd, uint64_t bytes) {
  struct stat found{};
  const int seals = fcntl(fd, F_GET_SEALS);
  if (seals < 0 || fstat(fd, &found) != 0) {
    return error::InvalidArgument("the handle (descriptor {}) is not shared memory", fd);
  }
  if ((seals & kSizeSeals) != kSizeSeals) {
    return error::InvalidArgument(
        "shared memory without sealed size (seals {:#x}): its sender could cut it under our feet",
        seals);
  }
  if (bytes == 0 || static_cast<uint64_t>(found.st_size) < bytes) {
    return error::InvalidArgument("shared memory of {} bytes cannot be mapped as {} bytes",
                                  found.st_size, bytes);
  }
  return absl::OkStatus();
}

int DescriptorOf(const std::shared_ptr<SharedHandle>& handle) {
  return handle == nullptr ? -1 : handle->descriptor();
}

absl::Status CheckProcess(int fd) {
  // Signal 0 is not sent; it only asks. Of all descriptors only a pidfd can be asked so.
  if (syscall(SYS_pidfd_send_signal, fd, 0, nullptr, 0) != 0 && errno != ESRCH && errno != EPERM) {
    return error::InvalidArgument("the handle (descriptor {}) is not a process", fd);
  }
  return absl::OkStatus();
}

absl::Status MemoryError(int error, std::string_view doing, uint64_t bytes) {
  return StatusOfErrno(error, fmt::format("{} {} bytes of shared memory", doing, bytes));
}

}  // namespace

absl::StatusOr<std::shared_ptr<SharedHandle>> RealHost::CreateMemory(std::string name,
                                                                     uint64_t bytes) {
  if (name.size() > kNameBytesMax || bytes == 0 || bytes > static_cast<uint64_t>(INT64_MAX)) {
    return error::InvalidArgument("shared memory '{}' of {} bytes: no such size or name", name,
                                  bytes);
  }
  Descriptor memory(memfd_create(name.c_str(), MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!memory.valid() || ftruncate(memory.get(), static_cast<off_t>(bytes)) != 0) {
    return MemoryError(errno, "making", bytes);
  }
  if (fcntl(memory.get(), F_ADD_SEALS, kSizeSeals | F_SEAL_SEAL) != 0) {
    return MemoryError(errno, "sealing", bytes);
  }
  return std::make_shared<DescriptorHandle>(std::move(memory));
}

absl::StatusOr<std::unique_ptr<Mapping>> RealHost::Map(const std::shared_ptr<SharedHandle>& memory,
                                                       uint64_t bytes, Access access,
                                                       bool populate) {
  const int fd = DescriptorOf(memory);
  GEMEL_RETURN_IF_ERROR(CheckMemory(fd, bytes));
  void* place = mmap(nullptr, bytes, PROT_NONE, MAP_SHARED, fd, 0);
  if (place == MAP_FAILED) {
    return MemoryError(errno, "mapping", bytes);
  }
  auto mapping =
      std::make_unique<RealMapping>(MutableByteSpan(static_cast<std::byte*>(place), bytes));
  if (madvise(place, bytes, MADV_DONTFORK) != 0) {
    return MemoryError(errno, "keeping from forks", bytes);
  }
  // Only a wish (real_host.h, "Huge pages"): a kernel that cannot give them refuses, and nothing
  // else changes.
  if (bytes >= kHugePageBytes) {
    static_cast<void>(madvise(place, bytes, MADV_HUGEPAGE));
  }
  if (populate) {
    GEMEL_RETURN_IF_ERROR(mapping->Populate(access != Access::kRead));
  }
  if (mapping->access() != access) {
    GEMEL_RETURN_IF_ERROR(mapping->Protect(access));
  }
  return mapping;
}

absl::StatusOr<std::shared_ptr<SharedHandle>> RealHost::OwnProcess() {
  Descriptor process(static_cast<int>(syscall(SYS_pidfd_open, getpid(), 0)));
  if (!process.valid()) {
    return StatusOfErrno(errno, "making a handle of this process");
  }
  return std::make_shared<DescriptorHandle>(std::move(process));
}

absl::StatusOr<std::unique_ptr<ExitWatch>> RealHost::WatchExit(
    const std::shared_ptr<SharedHandle>& process, std::function<void()> exited) {
  GEMEL_CHECK(exited != nullptr);
  const int fd = DescriptorOf(process);
  GEMEL_RETURN_IF_ERROR(CheckProcess(fd));
  Descriptor own(fcntl(fd, F_DUPFD_CLOEXEC, 0));
  if (!own.valid()) {
    return StatusOfErrno(errno, "watching a process");
  }
  return std::make_unique<RealExitWatch>(loop_, std::move(own), std::move(exited));
}

absl::StatusOr<uint64_t> RealHost::LivingPid(const std::shared_ptr<SharedHandle>& process) {
  const int fd = DescriptorOf(process);
  GEMEL_RETURN_IF_ERROR(CheckProcess(fd));
  // Readable: its last thread has ended. Asked first, the pid that follows may be a zombie's.
  pollfd ended{fd, POLLIN, 0};
  if (poll(&ended, 1, 0) != 0) {
    return 0;
  }
  std::ifstream info(fmt::format("/proc/self/fdinfo/{}", fd));
  for (std::string line; std::getline(info, line);) {
    if (line.starts_with(kPidField)) {
      // -1 when it was reaped meanwhile, 0 when it is of another pid namespace.
      const long long pid = std::strtoll(line.c_str() + kPidField.size(), nullptr, 10);
      if (pid == 0) {
        return error::InvalidArgument(
            "the process of descriptor {} is of another pid namespace: run trainers and server in "
            "one",
            fd);
      }
      return pid < 0 ? 0 : static_cast<uint64_t>(pid);
    }
  }
  return error::Internal("/proc/self/fdinfo/{} names no pid", fd);
}

}  // namespace gemel

// SPDX-License-Identifier: Apache-2.0
//
// Facts of kernel, memory, network and disk.
#include <fcntl.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/timex.h>
#include <sys/utsname.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>

#include "client/cli/doctor_facts.h"
#include "client/cli/host_processes.h"
#include "common/bytes.h"
#include "common/check.h"
#include "common/errors.h"
#include "common/xxh3.h"
#include "transport/verbs/verbs_calls.h"

namespace gemel::cli {
namespace {

constexpr int kPopulateWrite = 23;  // since Linux 5.14; older C library headers lack it
constexpr int kFsyncProbes = 5;
constexpr size_t kProbeBytes = 4096;
constexpr const char* kClocks = "/sys/devices/system/clocksource/clocksource0";
constexpr const char* kHugePages = "/sys/kernel/mm/transparent_hugepage";

std::string LineOf(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

uint64_t NumberOf(const std::string& path) {
  std::ifstream file(path);
  uint64_t number = 0;
  file >> number;
  return number;
}

// "always [madvise] never": madvise.
std::string ChosenIn(const std::string& line) {
  const size_t open = line.find('[');
  const size_t close = line.find(']');
  return open == std::string::npos || close == std::string::npos
             ? ""
             : line.substr(open + 1, close - open - 1);
}

uint64_t LimitOf(int resource, bool hard) {
  rlimit limit{};
  GEMEL_CHECK_EQ(getrlimit(static_cast<__rlimit_resource>(resource), &limit), 0);
  const rlim_t value = hard ? limit.rlim_max : limit.rlim_cur;
  return value == RLIM_INFINITY ? kNoLimit : value;
}

// What a slab needs: made, sized, sealed, mapped, filled. 0 or errno.
int ProbeMemfd(bool* populate) {
  const int fd = memfd_create("gemel-doctor", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (fd < 0) {
    return errno;
  }
  int failed = 0;
  if (ftruncate(fd, kProbeBytes) != 0 || fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) != 0) {
    failed = errno;
  }
  void* mapped = failed != 0
                     ? MAP_FAILED
                     : mmap(nullptr, kProbeBytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (failed == 0 && mapped == MAP_FAILED) {
    failed = errno;
  }
  if (mapped != MAP_FAILED) {
    *populate = madvise(mapped, kProbeBytes, kPopulateWrite) == 0;
    GEMEL_CHECK_EQ(munmap(mapped, kProbeBytes), 0);
  }
  close(fd);
  return failed;
}

void ReadRdmaFacts(NetworkFacts* facts) {
  const absl::StatusOr<const VerbsCalls*> calls = LoadVerbs();
  if (!calls.ok()) {
    facts->rdma_error = MessageOf(calls.status());
    return;
  }
  const absl::StatusOr<std::vector<RdmaPort>> ports = ListRdmaPorts(**calls);
  facts->rdma_error = ports.ok() ? "no device" : MessageOf(ports.status());
  for (const RdmaPort& port : ports.value_or(std::vector<RdmaPort>())) {
    facts->rdma.push_back(Describe(port));
  }
}

bool CubicSettable() {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) {
    return false;
  }
  constexpr std::string_view kCubic = "cubic";
  const bool set = setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, kCubic.data(), kCubic.size()) == 0;
  close(fd);
  return set;
}

std::string NameOfFileSystem(uint64_t magic) {
  static const std::map<uint64_t, const char*> kNames = {
      {0xEF53, "ext4"},      {0x58465342, "xfs"},    {0x9123683E, "btrfs"},
      {0x01021994, "tmpfs"}, {0x858458F6, "ramfs"},  {0x794C7630, "overlayfs"},
      {0x6969, "nfs"},       {0x0BD00BD0, "lustre"}, {0xFF534D42, "cifs"},
      {0x65735546, "fuse"},  {0x2FC12FC1, "zfs"},    {0xF2F52010, "f2fs"},
      {0x01021997, "9p"},    {0x00C36400, "ceph"},   {0x47504653, "gpfs"}};
  const auto name = kNames.find(magic);
  return name != kNames.end() ? name->second : fmt::format("file system {:#x}", magic);
}

double MillisecondsOf(Duration duration) {
  return std::chrono::duration<double, std::milli>(duration).count();
}

// Median time of a small synced file; below zero, with errno in *failed, when none can be written.
double ProbeFsync(const std::string& folder, int* failed) {
  const std::string path = fmt::format("{}/.gemel-doctor-{}", folder, getpid());
  std::array<double, kFsyncProbes> times{};
  const std::array<char, kProbeBytes> content{};
  for (double& time : times) {
    const TimePoint began = Now();
    const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) {
      *failed = errno;
      return -1;
    }
    const bool written =
        write(fd, content.data(), content.size()) == static_cast<ssize_t>(content.size()) &&
        fsync(fd) == 0;
    *failed = written ? 0 : errno;
    close(fd);
    unlink(path.c_str());
    if (!written) {
      return -1;
    }
    time = MillisecondsOf(Now() - began);
  }
  std::sort(times.begin(), times.end());
  GEMEL_CHECK(times.front() >= 0.0) << times.front();
  return times[kFsyncProbes / 2];
}

}  // namespace

void ReadMemoryFacts(MemoryFacts* facts) {
  facts->machine = ReadMachineMemory();
  facts->lock_limit_bytes = LimitOf(RLIMIT_MEMLOCK, false);
  facts->file_limit_bytes = LimitOf(RLIMIT_FSIZE, false);
  struct statvfs shm{};
  if (statvfs("/dev/shm", &shm) == 0) {
    facts->shm_bytes = shm.f_blocks * shm.f_frsize;
    facts->shm_free_bytes = shm.f_bavail * shm.f_frsize;
  }
  bool populate = false;
  const int failed = ProbeMemfd(&populate);
  facts->memfd = failed == 0;
  facts->memfd_error = failed == 0 ? "" : std::strerror(failed);
  constexpr uint64_t kTwoMebibytes = 2 * kMiB;
  const std::string pool = "/sys/kernel/mm/hugepages/hugepages-2048kB";
  facts->huge_page_bytes = kTwoMebibytes;
  facts->huge_pages = NumberOf(pool + "/nr_hugepages");
  facts->huge_pages_free = NumberOf(pool + "/free_hugepages");
  facts->transparent = ChosenIn(LineOf(std::string(kHugePages) + "/enabled"));
  facts->transparent_shm = ChosenIn(LineOf(std::string(kHugePages) + "/shmem_enabled"));
}

KernelFacts ReadKernelFacts(uint64_t slabs) {
  KernelFacts facts;
  utsname name{};
  facts.release = uname(&name) == 0 ? name.release : "of no version";
  const auto process = static_cast<int>(syscall(SYS_pidfd_open, getpid(), 0));
  facts.pidfd_open = process >= 0;
  if (process >= 0) {
    close(process);
  }
  ProbeMemfd(&facts.populate);
  facts.digest_isa = Xxh3IsaName(PreferredXxh3Isa());
  facts.digest_wide = PreferredXxh3Isa() != Xxh3Isa::kBaseline;
  facts.open_files_soft = LimitOf(RLIMIT_NOFILE, false);
  facts.open_files_hard = LimitOf(RLIMIT_NOFILE, true);
  facts.slabs = slabs;
  facts.clock_source = LineOf(std::string(kClocks) + "/current_clocksource");
  facts.clock_sources = LineOf(std::string(kClocks) + "/available_clocksource");
  timex time{};
  facts.clock_synchronised = adjtimex(&time) != TIME_ERROR;
  return facts;
}

NetworkFacts ReadNetworkFacts() {
  NetworkFacts facts;
  facts.ports = {{7601, "placement, gRPC", HolderOfPort(7601)},
                 {7611, "data between servers", HolderOfPort(7611)},
                 {7621, "metrics", HolderOfPort(7621)}};
  facts.congestion = LineOf("/proc/sys/net/ipv4/tcp_congestion_control");
  facts.congestion_available = LineOf("/proc/sys/net/ipv4/tcp_available_congestion_control");
  facts.cubic_settable = CubicSettable();
  ReadRdmaFacts(&facts);
  return facts;
}

DiskFacts ReadDiskFacts(const std::string& dir) {
  DiskFacts facts;
  facts.dir = dir;
  std::error_code error;
  std::filesystem::path folder = std::filesystem::absolute(dir, error);
  while (!std::filesystem::is_directory(folder, error) && folder.has_relative_path()) {
    folder = folder.parent_path();
  }
  facts.looked_at = folder.string();
  struct statfs found{};
  if (statfs(folder.c_str(), &found) == 0) {
    const auto magic = static_cast<uint64_t>(found.f_type) & 0xFFFFFFFF;
    facts.file_system = NameOfFileSystem(magic);
    facts.in_memory = facts.file_system == "tmpfs" || facts.file_system == "ramfs";
    facts.over_network = facts.file_system == "nfs" || facts.file_system == "cifs" ||
                         facts.file_system == "lustre" || facts.file_system == "ceph" ||
                         facts.file_system == "gpfs";
    facts.bytes = static_cast<uint64_t>(found.f_blocks) * static_cast<uint64_t>(found.f_bsize);
    facts.free_bytes = static_cast<uint64_t>(found.f_bavail) * static_cast<uint64_t>(found.f_bsize);
  }
  int failed = 0;
  facts.fsync_ms = ProbeFsync(facts.looked_at, &failed);
  facts.writable = failed == 0;
  facts.write_error = failed == 0 ? "" : std::strerror(failed);
  return facts;
}

}  // namespace gemel::cli

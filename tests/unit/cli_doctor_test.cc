// SPDX-License-Identifier: Apache-2.0
//
// The findings of `gemel doctor`, from recorded facts: one test for each thing that can be wrong.
#include <gtest/gtest.h>

#include "client/cli/doctor.h"
#include "common/bytes.h"

namespace gemel::cli {
namespace {

// Every check has a finding of its own, and a way to mend it exactly when it is not ok.
const Finding& FindingOf(const Findings& findings, const std::string& check) {
  for (const Finding& finding : findings) {
    EXPECT_EQ(finding.level == Level::kOk, finding.mend.empty()) << finding.check;
    EXPECT_EQ(finding.found.find('\n'), std::string::npos) << finding.found;
  }
  for (const Finding& finding : findings) {
    if (finding.check == check) {
      return finding;
    }
  }
  ADD_FAILURE() << "no finding of " << check;
  static const Finding kNone;
  return kNone;
}

void ExpectAllOk(const Findings& findings) {
  for (const Finding& finding : findings) {
    EXPECT_EQ(finding.level, Level::kOk) << finding.check << ": " << finding.found;
    EXPECT_TRUE(finding.mend.empty()) << finding.mend;
  }
}

void Expect(const Finding& finding, Level level, const std::string& found,
            const std::string& mend) {
  EXPECT_EQ(finding.level, level) << finding.found;
  EXPECT_NE(finding.found.find(found), std::string::npos) << finding.found;
  EXPECT_NE(finding.mend.find(mend), std::string::npos) << finding.mend;
}

// ---- memory

MemoryFacts SoundMemory() {
  MemoryFacts facts;
  facts.machine.physical_bytes = 16 * kGiB;
  facts.machine.available_bytes = 12 * kGiB;
  facts.memory_bytes = kGiB;
  facts.servers = 3;
  facts.shm_bytes = 8 * kGiB;
  facts.transparent = "madvise";
  facts.transparent_shm = "advise";
  return facts;
}

TEST(DoctorMemory, IsContentWithASoundMachine) { ExpectAllOk(CheckMemory(SoundMemory())); }

TEST(DoctorMemory, SaysWhatFitsWhenMoreIsAskedForThanTheMachineHas) {
  MemoryFacts facts = SoundMemory();
  facts.memory_bytes = 8 * kGiB;
  Expect(FindingOf(CheckMemory(facts), "memory"), Level::kFail, "16.0 GiB of memory",
         "gemel up --servers 3 --memory 4864MiB");
}

TEST(DoctorMemory, TakesTheControlGroupForTheMachine) {
  MemoryFacts facts = SoundMemory();
  facts.machine.group_limit_bytes = 2 * kGiB;
  facts.machine.group_used_bytes = kGiB / 2;
  facts.machine.group_file = "/sys/fs/cgroup/memory.max";
  Expect(FindingOf(CheckMemory(facts), "memory"), Level::kFail,
         "/sys/fs/cgroup/memory.max limits it to 2.0 GiB", "--memory 576MiB");
  facts.memory_bytes = 600 * kMiB;  // fits the limit, but not beside what is used
  Expect(FindingOf(CheckMemory(facts), "memory"), Level::kWarn, "1.5 GiB free", "--memory 448MiB");
}

TEST(DoctorMemory, CountsWhatItsOwnServersHoldAsFree) {
  MemoryFacts facts = SoundMemory();
  facts.machine.available_bytes = kGiB;
  Expect(FindingOf(CheckMemory(facts), "memory"), Level::kWarn, "1.0 GiB free", "end what uses");
  facts.held_bytes = 3 * kGiB;
  EXPECT_EQ(FindingOf(CheckMemory(facts), "memory").level, Level::kOk);
}

TEST(DoctorMemory, FailsWithoutMemfd) {
  MemoryFacts facts = SoundMemory();
  facts.memfd = false;
  facts.memfd_error = "Operation not permitted";
  Expect(FindingOf(CheckMemory(facts), "shared memory"), Level::kFail, "Operation not permitted",
         "seccomp");
}

TEST(DoctorMemory, KnowsThatDevShmDoesNotBoundIt) {
  MemoryFacts facts = SoundMemory();
  facts.shm_bytes = 64 * kMiB;  // what docker gives
  Expect(FindingOf(CheckMemory(facts), "shared memory"), Level::kOk, "/dev/shm has 64 MiB", "");
  facts.shm_bytes = 0;
  Expect(FindingOf(CheckMemory(facts), "shared memory"), Level::kOk, "not mounted", "");
}

TEST(DoctorMemory, FailsWhenFilesMayNotBeLargeEnough) {
  MemoryFacts facts = SoundMemory();
  facts.file_limit_bytes = 100 * kMiB;
  Expect(FindingOf(CheckMemory(facts), "file size limit"), Level::kFail, "100 MiB",
         "ulimit -f unlimited");
}

TEST(DoctorMemory, WarnsOfASmallMemlockLimit) {
  MemoryFacts facts = SoundMemory();
  facts.lock_limit_bytes = 64 * kMiB;
  Expect(FindingOf(CheckMemory(facts), "memlock"), Level::kWarn, "64 MiB", "ulimit -l unlimited");
}

TEST(DoctorMemory, WarnsWhereSharedMemoryGetsNoHugePages) {
  MemoryFacts facts = SoundMemory();
  for (const char* choice : {"never", "deny"}) {
    facts.transparent_shm = choice;
    Expect(FindingOf(CheckMemory(facts), "huge pages"), Level::kWarn, choice,
           "echo advise > /sys/kernel/mm/transparent_hugepage/shmem_enabled");
  }
  facts.transparent_shm = "";  // a kernel without them: nothing to choose
  Expect(FindingOf(CheckMemory(facts), "huge pages"), Level::kOk, "not there", "");
}

TEST(DoctorMemory, WarnsOfReservedHugePagesThatAreTaken) {
  MemoryFacts facts = SoundMemory();
  facts.huge_pages = 512;
  facts.huge_page_bytes = 2 * kMiB;
  facts.huge_pages_free = 512;
  Expect(FindingOf(CheckMemory(facts), "huge pages"), Level::kOk, "512 of 2 MiB", "");
  facts.huge_pages_free = 0;
  Expect(FindingOf(CheckMemory(facts), "huge pages"), Level::kWarn, "0 free", "vm.nr_hugepages=0");
}

// ---- kernel

KernelFacts SoundKernel() {
  KernelFacts facts;
  facts.release = "6.1.0";
  facts.digest_isa = "avx2";
  facts.open_files_soft = 1024;
  facts.open_files_hard = 524'288;
  facts.slabs = 256;
  facts.clock_source = "tsc";
  facts.clock_sources = "tsc hpet";
  return facts;
}

TEST(DoctorKernel, IsContentWithASoundOne) { ExpectAllOk(CheckKernel(SoundKernel())); }

TEST(DoctorKernel, FailsWithoutPidfdAndWarnsWithoutPopulate) {
  KernelFacts facts = SoundKernel();
  facts.populate = false;
  Expect(FindingOf(CheckKernel(facts), "kernel"), Level::kWarn, "6.1.0", "5.14");
  facts.pidfd_open = false;
  Expect(FindingOf(CheckKernel(facts), "kernel"), Level::kFail, "pidfd_open", "5.3");
}

TEST(DoctorKernel, WarnsOfANarrowDigest) {
  KernelFacts facts = SoundKernel();
  facts.digest_isa = "baseline";
  facts.digest_wide = false;
  Expect(FindingOf(CheckKernel(facts), "digest"), Level::kWarn, "baseline", "AVX2");
}

TEST(DoctorKernel, CountsTheDescriptorsOfTheSlabs) {
  KernelFacts facts = SoundKernel();
  facts.open_files_hard = 1024;
  Expect(FindingOf(CheckKernel(facts), "open files"), Level::kWarn, "about 1280", "ulimit -n 1280");
  facts.slabs = 4096;
  Expect(FindingOf(CheckKernel(facts), "open files"), Level::kFail, "about 5120", "--slab-bytes");
}

TEST(DoctorKernel, WarnsOfASlowClock) {
  KernelFacts facts = SoundKernel();
  facts.clock_source = "hpet";
  Expect(FindingOf(CheckKernel(facts), "clock source"), Level::kWarn, "hpet",
         "current_clocksource");
}

TEST(DoctorKernel, WarnsOfAnUnsynchronisedClockAndSaysThatNothingIsDecidedByIt) {
  KernelFacts facts = SoundKernel();
  facts.clock_synchronised = false;
  const Findings findings = CheckKernel(facts);
  Expect(FindingOf(findings, "time of day"), Level::kWarn, "not synchronised", "timedatectl");
  Expect(FindingOf(findings, "time of day"), Level::kWarn, "no decision of Gemel", "");
}

// ---- network

NetworkFacts SoundNetwork() {
  NetworkFacts facts;
  facts.ports = {{7601, "placement, gRPC", std::nullopt}};
  facts.congestion = "cubic";
  facts.congestion_available = "reno cubic";
  return facts;
}

TEST(DoctorNetwork, IsContentWithASoundOne) { ExpectAllOk(CheckNetwork(SoundNetwork())); }

TEST(DoctorNetwork, KnowsThatBbrIsNotUsedForDataConnections) {
  NetworkFacts facts = SoundNetwork();
  facts.congestion = "bbr";
  Expect(FindingOf(CheckNetwork(facts), "congestion control"), Level::kOk, "halve loopback", "");
  facts.cubic_settable = false;
  Expect(FindingOf(CheckNetwork(facts), "congestion control"), Level::kFail, "default bbr",
         "modprobe tcp_cubic");
  facts.congestion = "reno";
  EXPECT_EQ(FindingOf(CheckNetwork(facts), "congestion control").level, Level::kWarn);
}

TEST(DoctorNetwork, ShowsRdmaDevicesAndWhyThereAreNone) {
  NetworkFacts facts = SoundNetwork();
  facts.rdma_error = "no device";
  Expect(FindingOf(CheckNetwork(facts), "RDMA"), Level::kOk, "TCP serves: no device", "");
  facts.rdma = {"mlx5_0 port 1: active", "mlx5_1 port 1: not active"};
  Expect(FindingOf(CheckNetwork(facts), "RDMA"), Level::kOk, "active; mlx5_1 port 1", "");
}

TEST(DoctorNetwork, NamesWhoHoldsAPort) {
  NetworkFacts facts = SoundNetwork();
  facts.ports[0].holder = PortHolder{4711, "python3 -m http.server 7601", 1000};
  Expect(FindingOf(CheckNetwork(facts), "port 7601"), Level::kWarn,
         "process 4711 (python3 -m http.server 7601)", "kill 4711");
  facts.ports[0].holder = PortHolder{0, "", 33};
  Expect(FindingOf(CheckNetwork(facts), "port 7601"), Level::kWarn, "a process of user 33",
         "ss -ltnp");
  facts.ports[0].holder = PortHolder{4712, "/opt/gemel/bin/gemel-placement --dir /x", 0};
  Expect(FindingOf(CheckNetwork(facts), "port 7601"), Level::kOk, "process 4712", "");
}

// ---- disk

DiskFacts SoundDisk() {
  DiskFacts facts;
  facts.dir = "/state/gemel";
  facts.looked_at = "/state";
  facts.file_system = "ext4";
  facts.bytes = 100 * kGiB;
  facts.free_bytes = 50 * kGiB;
  facts.state_bytes = 3 * kGiB;
  facts.fsync_ms = 1.5;
  return facts;
}

TEST(DoctorDisk, IsContentWithASoundOne) { ExpectAllOk(CheckDisk(SoundDisk())); }

TEST(DoctorDisk, FailsOnAFullDisk) {
  DiskFacts facts = SoundDisk();
  facts.free_bytes = 2 * kMiB;
  Expect(FindingOf(CheckDisk(facts), "disk space"), Level::kFail, "2 MiB of 100.0 GiB free",
         "free at least 256 MiB");
  facts.free_bytes = kGiB;
  Expect(FindingOf(CheckDisk(facts), "disk space"), Level::kWarn, "takes up to 3.0 GiB",
         "--persist-dir");
}

TEST(DoctorDisk, FailsOnAFolderThatCannotBeWritten) {
  DiskFacts facts = SoundDisk();
  facts.writable = false;
  facts.write_error = "Permission denied";
  Expect(FindingOf(CheckDisk(facts), "folder"), Level::kFail,
         "/state cannot be written: Permission", "chown");
}

TEST(DoctorDisk, WarnsOfMemoryAndOfTheNetworkUnderIt) {
  DiskFacts facts = SoundDisk();
  facts.file_system = "tmpfs";
  facts.in_memory = true;
  Expect(FindingOf(CheckDisk(facts), "file system"), Level::kWarn, "does not survive a reboot",
         "--persist-dir");
  facts.file_system = "nfs";
  facts.in_memory = false;
  facts.over_network = true;
  Expect(FindingOf(CheckDisk(facts), "file system"), Level::kWarn, "is nfs", "local disk");
}

TEST(DoctorDisk, WarnsOfASlowFsync) {
  DiskFacts facts = SoundDisk();
  facts.fsync_ms = 120;
  Expect(FindingOf(CheckDisk(facts), "fsync"), Level::kWarn, "120.0 ms", "faster disk");
}

// ---- versions

VersionFacts SoundVersions() {
  VersionFacts facts;
  facts.own = "1.2.3";
  facts.programs = {{"gemel-server", "1.2.3", "/bin/gemel-server", false}};
  facts.processes = {{"server-0", "1.2.3", "process 7", false}};
  facts.package = {"Python package", "1.2.3", "/lib/gemel", false};
  facts.native = {"its native module", "1.2.3", "/lib/gemel/_native.so", false};
  return facts;
}

TEST(DoctorVersions, IsContentWithOneVersion) { ExpectAllOk(CheckVersions(SoundVersions())); }

TEST(DoctorVersions, NamesAnotherProgramBesideThisOne) {
  VersionFacts facts = SoundVersions();
  facts.programs[0].version = "1.2.2";
  Expect(FindingOf(CheckVersions(facts), "programs"), Level::kFail,
         "gemel-server 1.2.2 (/bin/gemel-server)", "install Gemel whole");
  facts.programs[0].version = "";
  Expect(FindingOf(CheckVersions(facts), "programs"), Level::kFail, "of no version", "install");
}

TEST(DoctorVersions, NamesAProcessOfAnotherVersion) {
  VersionFacts facts = SoundVersions();
  facts.processes[0].version = "1.1.0";
  Expect(FindingOf(CheckVersions(facts), "running versions"), Level::kFail,
         "server-0 1.1.0 (process 7)", "gemel down");
  facts = SoundVersions();
  facts.processes[0].replaced = true;
  Expect(FindingOf(CheckVersions(facts), "running versions"), Level::kWarn, "server-0", "gemel up");
}

TEST(DoctorVersions, SaysHowPythonFindsThePackage) {
  VersionFacts facts = SoundVersions();
  facts.package = {"Python package", "", "/usr/bin/python3", false};
  facts.package_folder = "/opt/gemel/python";
  Expect(FindingOf(CheckVersions(facts), "Python package"), Level::kWarn, "/usr/bin/python3",
         "export PYTHONPATH=/opt/gemel/python");
}

TEST(DoctorVersions, NamesAPackageOfAnotherVersion) {
  VersionFacts facts = SoundVersions();
  facts.native.version = "1.2.2";
  Expect(FindingOf(CheckVersions(facts), "Python package"), Level::kFail,
         "its native module 1.2.2 (/lib/gemel/_native.so)", "install the package");
}

// ---- sockets and cluster

ClusterFacts SoundCluster() {
  ClusterFacts facts;
  facts.dir = "/state/gemel";
  facts.known = true;
  facts.own_user = 1000;
  SocketFacts socket;
  socket.address = "unix:///s";
  socket.exists = true;
  socket.is_socket = true;
  socket.owner = 1000;
  socket.owner_name = "ada";
  socket.mode = 0600;
  socket.answers = true;
  facts.sockets = {socket};
  facts.placement = "127.0.0.1:7601";
  facts.placement_answers = true;
  facts.servers = {{"server-0", "ALIVE"}, {"server-1", "ALIVE"}};
  return facts;
}

TEST(DoctorCluster, IsContentWithASoundOneAndWithNone) {
  ExpectAllOk(CheckCluster(SoundCluster()));
  ClusterFacts none;
  none.dir = "/state/gemel";
  ExpectAllOk(CheckCluster(none));
  none.known = true;
  none.stopped = true;
  ExpectAllOk(CheckCluster(none));
}

TEST(DoctorCluster, NamesTheOwnerOfAForeignSocket) {
  ClusterFacts facts = SoundCluster();
  facts.sockets[0].owner = 0;
  facts.sockets[0].owner_name = "root";
  facts.sockets[0].denied = true;
  facts.sockets[0].answers = false;
  Expect(FindingOf(CheckCluster(facts), "socket unix:///s"), Level::kFail,
         "belongs to user 0 (root), mode 600; you are user 1000", "run as root");
}

TEST(DoctorCluster, TellsAStaleSocketFromAMissingOneAndFromAFile) {
  ClusterFacts facts = SoundCluster();
  facts.sockets[0].answers = false;
  facts.sockets[0].error = "Connection refused";
  Expect(FindingOf(CheckCluster(facts), "socket unix:///s"), Level::kFail, "stale", "gemel up");
  facts.sockets[0].is_socket = false;
  Expect(FindingOf(CheckCluster(facts), "socket unix:///s"), Level::kFail, "no socket",
         "GEMEL_ADDRESS");
  facts.sockets[0].exists = false;
  Expect(FindingOf(CheckCluster(facts), "socket unix:///s"), Level::kFail, "not there",
         "GEMEL_ADDRESS");
  facts.sockets[0].denied = true;
  Expect(FindingOf(CheckCluster(facts), "socket unix:///s"), Level::kFail, "looked into",
         "user who started it");
}

TEST(DoctorCluster, WarnsOfASocketOpenToOthers) {
  ClusterFacts facts = SoundCluster();
  facts.sockets[0].mode = 0666;
  Expect(FindingOf(CheckCluster(facts), "socket unix:///s"), Level::kWarn, "mode 666",
         "chmod 600 /");
}

TEST(DoctorCluster, SaysWhichPartIsDeadAndHowToStartIt) {
  ClusterFacts facts = SoundCluster();
  facts.servers[1].second = "DEAD";
  Expect(FindingOf(CheckCluster(facts), "servers"), Level::kFail, "server-1 DEAD",
         "gemel up --server server-1 --dir /state/gemel");
  facts.placement_answers = false;
  facts.placement_error = "no gemel-placement answers";
  Expect(FindingOf(CheckCluster(facts), "placement"), Level::kFail, "no gemel-placement answers",
         "gemel up --placement --dir /state/gemel");
}

TEST(DoctorCluster, PassesWarningsOfPlacementOn) {
  ClusterFacts facts = SoundCluster();
  facts.warnings = {"server-1: its disk is full"};
  Expect(FindingOf(CheckCluster(facts), "cluster warning"), Level::kWarn, "its disk is full",
         "gemel status");
}

TEST(DoctorCluster, SaysThatTheFolderIsOfAnotherGemel) {
  ClusterFacts facts;
  facts.dir = "/state/gemel";
  facts.problem = "format 9";
  Expect(FindingOf(CheckCluster(facts), "cluster"), Level::kFail, "format 9", "--dir");
}

}  // namespace
}  // namespace gemel::cli

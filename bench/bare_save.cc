// SPDX-License-Identifier: Apache-2.0
//
// The yardstick for the time that a save takes from a training (bench/step_time.py): what cannot be
// left out of it, and nothing else. One for each rank; two of them keep each other's bytes.
//
//   bench_bare_save --memory FD --bytes N
//
// FD is shared memory into which the rank has copied its state. On its standard input it is told
// the port of the other one, then a line for each save; on its standard output it says its own
// port, then a line for each save that the other one has acknowledged.
//
// A save: each MiB is hashed and sent in 128 KiB steps, the digest behind it; the other side hashes
// while it receives, compares, and acknowledges the whole with one byte. Blocking sockets, one
// thread a direction, no server, no placement, no commit.
#include <netinet/in.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <iostream>
#include <thread>

#include "CLI/CLI.hpp"
#include "bench/bare_sockets.h"
#include "common/bytes.h"
#include "common/check.h"
#include "common/xxh3.h"

namespace gemel {
namespace {

constexpr size_t kStepBytes = 128 * kKiB;  // hashed while it is in the second-level cache

sockaddr_in Loopback(uint16_t port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(port);
  return address;
}

int Socket() {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  GEMEL_CHECK_GE(fd, 0) << errno;
  TuneBare(fd);
  return fd;
}

// Listens, says where, and takes the one connection that comes.
class Incoming {
 public:
  Incoming() : listener_(Socket()) {
    sockaddr_in address = Loopback(0);
    socklen_t size = sizeof address;
    GEMEL_CHECK_EQ(bind(listener_, reinterpret_cast<sockaddr*>(&address), size), 0) << errno;
    GEMEL_CHECK_EQ(listen(listener_, 1), 0) << errno;
    GEMEL_CHECK_EQ(getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size), 0);
    std::cout << ntohs(address.sin_port) << "\n" << std::flush;
  }

  int Take() const {
    const int fd = accept(listener_, nullptr, nullptr);
    GEMEL_CHECK_GE(fd, 0) << errno;
    TuneBare(fd);
    close(listener_);
    return fd;
  }

 private:
  const int listener_;
};

int ConnectTo(uint16_t port) {
  const int fd = Socket();
  const sockaddr_in address = Loopback(port);
  GEMEL_CHECK_EQ(connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address), 0)
      << errno;
  return fd;
}

// Present, in huge pages where the kernel gives them, as slabs are.
MutableByteSpan Map(int fd, size_t bytes) {
  const int flags = fd < 0 ? MAP_SHARED | MAP_ANONYMOUS : MAP_SHARED;
  void* const memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, flags, fd, 0);
  GEMEL_CHECK(memory != MAP_FAILED) << errno;
  madvise(memory, bytes, MADV_HUGEPAGE);
  GEMEL_CHECK_EQ(madvise(memory, bytes, MADV_POPULATE_WRITE), 0) << errno;
  return {static_cast<std::byte*>(memory), bytes};
}

void Send(int fd, ByteSpan memory) {
  while (!memory.empty()) {
    const ByteSpan chunk = memory.first(std::min<size_t>(kChunkBytes, memory.size()));
    Xxh3Stream hash;
    for (size_t at = 0; at < chunk.size(); at += kStepBytes) {
      const ByteSpan step = chunk.subspan(at, std::min(kStepBytes, chunk.size() - at));
      hash.Update(step);
      WriteAll(fd, step.data(), step.size());
    }
    const Digest128 digest = hash.Finish();
    WriteAll(fd, &digest, sizeof digest);
    memory = memory.subspan(chunk.size());
  }
  char acknowledged = 0;
  GEMEL_CHECK(ReadAllOrEnd(fd, &acknowledged, 1)) << "the other side has ended";
}

bool ReceiveChunk(int fd, MutableByteSpan chunk) {
  Xxh3Stream hash;
  for (size_t at = 0; at < chunk.size(); at += kStepBytes) {
    const MutableByteSpan step = chunk.subspan(at, std::min(kStepBytes, chunk.size() - at));
    if (!ReadAllOrEnd(fd, step.data(), step.size())) {
      return false;
    }
    hash.Update(step);
  }
  Digest128 digest;
  const bool told = ReadAllOrEnd(fd, &digest, sizeof digest);
  GEMEL_CHECK(!told || digest == hash.Finish()) << "damaged";
  return told;
}

void ReceiveForEver(int fd, MutableByteSpan memory) {
  while (true) {
    for (size_t at = 0; at < memory.size(); at += kChunkBytes) {
      if (!ReceiveChunk(fd,
                        memory.subspan(at, std::min<size_t>(kChunkBytes, memory.size() - at)))) {
        return;
      }
    }
    WriteAll(fd, "a", 1);
  }
}

void Run(int memory_fd, size_t bytes) {
  const MutableByteSpan own = Map(memory_fd, bytes);
  const MutableByteSpan others = Map(-1, bytes);
  const Incoming incoming;
  uint16_t port = 0;
  std::cin >> port;
  const int out = ConnectTo(port);
  const int in = incoming.Take();
  std::thread receiver([in, others] { ReceiveForEver(in, others); });
  std::string save;
  while (std::cin >> save) {
    Send(out, own);
    std::cout << save << "\n" << std::flush;
  }
  shutdown(out, SHUT_RDWR);
  receiver.join();
}

}  // namespace
}  // namespace gemel

int main(int argc, char** argv) {
  CLI::App app("What a save cannot do without: hashed, sent, hashed again, acknowledged");
  int memory = -1;
  size_t bytes = 0;
  app.add_option("--memory", memory, "descriptor of the shared memory with the state")->required();
  app.add_option("--bytes", bytes, "of state")->required()->check(CLI::PositiveNumber);
  CLI11_PARSE(app, argc, argv);
  gemel::Run(memory, bytes);
  return 0;
}

// SPDX-License-Identifier: Apache-2.0
#include "tests/sim/traps.h"

#include <dlfcn.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/types.h>

#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "common/check.h"

namespace gemel::sim {
namespace {

bool armed = false;

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define GEMEL_SIM_NO_TRAPS 1
#endif
#endif
#else
#define GEMEL_SIM_NO_TRAPS 1
#endif

}  // namespace

void ArmTraps() { armed = true; }

void DisarmTraps() { armed = false; }

#ifdef GEMEL_SIM_NO_TRAPS

bool HasTraps() { return false; }

}  // namespace gemel::sim

#else

bool HasTraps() { return true; }

namespace {

// No memory is taken and nothing is formatted: the call may come from anywhere.
void Spring(const char* name) {
  if (!armed) {
    return;
  }
  armed = false;
  std::fputs("gemel-sim: trapped a call of ", stderr);
  std::fputs(name, stderr);
  std::fputs(
      ": the simulated cluster goes through its seams only (common/loop.h, random.h, "
      "disk.h, transport/net.h)\n",
      stderr);
  std::abort();
}

template <typename Function>
Function* Real(const char* name) {
  void* found = dlsym(RTLD_NEXT, name);
  GEMEL_CHECK(found != nullptr) << name;
  return reinterpret_cast<Function*>(found);
}

}  // namespace
}  // namespace gemel::sim

// Each stands before libc's own, whose headers declare it under its own name: hence the label.
#define GEMEL_SIM_TRAP(returns, name, parameters, arguments)               \
  extern "C" returns gemel_trap_##name parameters __asm__(#name);          \
  extern "C" returns gemel_trap_##name parameters {                        \
    gemel::sim::Spring(#name);                                             \
    static auto* const real = gemel::sim::Real<returns parameters>(#name); \
    return real arguments;                                                 \
  }

using GemelThread = unsigned long;  // NOLINT(google-runtime-int): pthread_t

GEMEL_SIM_TRAP(int, clock_gettime, (int clock, timespec* out), (clock, out))
GEMEL_SIM_TRAP(int, gettimeofday, (timeval * out, void* zone), (out, zone))
GEMEL_SIM_TRAP(long, time, (long* out), (out))  // NOLINT(google-runtime-int)
GEMEL_SIM_TRAP(int, nanosleep, (const timespec* wait, timespec* left), (wait, left))
GEMEL_SIM_TRAP(int, usleep, (unsigned wait), (wait))
GEMEL_SIM_TRAP(ssize_t, getrandom, (void* out, size_t bytes, unsigned flags), (out, bytes, flags))
GEMEL_SIM_TRAP(int, getentropy, (void* out, size_t bytes), (out, bytes))
GEMEL_SIM_TRAP(int, rand, (), ())
GEMEL_SIM_TRAP(long, random, (), ())  // NOLINT(google-runtime-int)
GEMEL_SIM_TRAP(int, pthread_create,
               (GemelThread * thread, const void* attributes, void* (*run)(void*), void* with),
               (thread, attributes, run, with))
GEMEL_SIM_TRAP(int, socket, (int domain, int type, int protocol), (domain, type, protocol))
GEMEL_SIM_TRAP(int, connect, (int fd, const sockaddr* to, unsigned bytes), (fd, to, bytes))
GEMEL_SIM_TRAP(int, open, (const char* name, int flags, unsigned mode), (name, flags, mode))
GEMEL_SIM_TRAP(int, open64, (const char* name, int flags, unsigned mode), (name, flags, mode))
GEMEL_SIM_TRAP(int, openat, (int at, const char* name, int flags, unsigned mode),
               (at, name, flags, mode))
GEMEL_SIM_TRAP(void*, fopen, (const char* name, const char* mode), (name, mode))
GEMEL_SIM_TRAP(void*, fopen64, (const char* name, const char* mode), (name, mode))
GEMEL_SIM_TRAP(int, memfd_create, (const char* name, unsigned flags), (name, flags))
GEMEL_SIM_TRAP(int, fsync, (int fd), (fd))
GEMEL_SIM_TRAP(int, unlink, (const char* name), (name))
GEMEL_SIM_TRAP(int, epoll_create1, (int flags), (flags))

#endif

// SPDX-License-Identifier: Apache-2.0
#include "common/real_process.h"

#include <sys/random.h>
#include <unistd.h>

#include <cerrno>

#include "common/check.h"

namespace gemel {

uint64_t RealProcess::Entropy64() {
  uint64_t bits = 0;
  ssize_t got = getrandom(&bits, sizeof(bits), 0);
  while (got < 0 && errno == EINTR) {
    got = getrandom(&bits, sizeof(bits), 0);
  }
  // Up to 256 bytes come whole once the kernel's pool is ready (man 2 getrandom).
  GEMEL_CHECK(got == sizeof(bits)) << "getrandom: errno " << errno;
  return bits;
}

uint64_t RealProcess::pid() const { return static_cast<uint64_t>(getpid()); }

}  // namespace gemel

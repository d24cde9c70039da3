// SPDX-License-Identifier: Apache-2.0
#include "common/scheduling.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>

namespace gemel {
namespace {

// As sched_setattr(2) has it; the C library does not, and the kernel's header clashes with it.
struct SchedulingAttributes {
  uint32_t size;
  uint32_t policy;
  uint64_t flags;
  int32_t nice;
  uint32_t priority;
  uint64_t runtime;  // of an ordinary thread: its slice, ns
  uint64_t deadline;
  uint64_t period;
};

}  // namespace

void PreferShortSlices() {
  SchedulingAttributes attributes{};
  if (syscall(SYS_sched_getattr, 0, &attributes, sizeof(attributes), 0) == 0) {
    attributes.runtime = static_cast<uint64_t>(kShortSlice.count());
    static_cast<void>(syscall(SYS_sched_setattr, 0, &attributes, 0));
  }
}

}  // namespace gemel

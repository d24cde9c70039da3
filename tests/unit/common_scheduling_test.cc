// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <thread>

#include "common/scheduling.h"

namespace gemel {
namespace {

// The slice that sched_getattr(2) tells of the calling thread, ns; 0: this kernel tells none.
uint64_t Slice() {
  std::array<std::byte, 48> attributes{};
  EXPECT_EQ(syscall(SYS_sched_getattr, 0, attributes.data(), attributes.size(), 0), 0);
  uint64_t slice = 0;
  std::memcpy(&slice, attributes.data() + 24, sizeof(slice));
  return slice;
}

TEST(Scheduling, AThreadAsksForShortSlicesAndIsOtherwiseAsItWas) {
  if (Slice() == 0) {
    GTEST_SKIP() << "this kernel has no slices of a thread's own; Linux 6.12 has";
  }
  uint64_t asked = 0;
  int nice = 0;
  int policy = -1;
  std::jthread([&] {
    EXPECT_EQ(setpriority(PRIO_PROCESS, static_cast<id_t>(gettid()), 7), 0);
    PreferShortSlices();
    asked = Slice();
    nice = getpriority(PRIO_PROCESS, static_cast<id_t>(gettid()));
    policy = sched_getscheduler(0);
  }).join();
  EXPECT_EQ(asked, static_cast<uint64_t>(kShortSlice.count()));
  EXPECT_EQ(nice, 7);
  EXPECT_EQ(policy, SCHED_OTHER);
  EXPECT_NE(Slice(), asked) << "of another thread";
}

}  // namespace
}  // namespace gemel

// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cstring>
#include <set>
#include <thread>
#include <vector>

#include "common/frame_memory.h"

namespace gemel::internal {
namespace {

TEST(FrameMemory, GivesOutWhatOfTheSameSizeCameBackLast) {
  if (!FrameMemory::kKeeps) {
    GTEST_SKIP() << "nothing is kept under a sanitizer";
  }
  void* const first = FrameMemory::Take(300);
  void* const second = FrameMemory::Take(300);
  FrameMemory::Give(first, 300);
  FrameMemory::Give(second, 300);
  void* const other_size = FrameMemory::Take(300 + FrameMemory::kStepBytes);
  EXPECT_NE(other_size, second);
  EXPECT_EQ(FrameMemory::Take(320), second);  // of the same step
  EXPECT_EQ(FrameMemory::Take(300), first);
  FrameMemory::Give(first, 300);
  FrameMemory::Give(second, 320);
  FrameMemory::Give(other_size, 300 + FrameMemory::kStepBytes);
}

TEST(FrameMemory, EverySizeIsWritableAsAWhole) {
  for (size_t bytes = 1; bytes < FrameMemory::kFrameBytesMax + 200; bytes += 7) {
    std::vector<void*> frames;
    for (int i = 0; i < 3; ++i) {
      frames.push_back(FrameMemory::Take(bytes));
      std::memset(frames.back(), 0xab, bytes);
    }
    EXPECT_EQ(std::set<void*>(frames.begin(), frames.end()).size(), 3U);
    for (void* frame : frames) {
      FrameMemory::Give(frame, bytes);
    }
  }
}

TEST(FrameMemory, FramesMayComeBackInNumbersAndOnOtherThreads) {
  std::vector<void*> frames;
  for (size_t i = 0; i < 2 * FrameMemory::kKeptFrames; ++i) {
    frames.push_back(FrameMemory::Take(500));
  }
  std::jthread([&frames] {
    for (void* frame : frames) {
      FrameMemory::Give(frame, 500);
    }
    frames.clear();
  }).join();
  EXPECT_TRUE(frames.empty());
}

}  // namespace
}  // namespace gemel::internal

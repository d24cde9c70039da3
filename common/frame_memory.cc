// SPDX-License-Identifier: Apache-2.0
#include "common/frame_memory.h"

#include <array>
#include <new>

namespace gemel::internal {
namespace {

struct Free {
  Free* next;
};

struct Kept {
  Free* first;
  size_t count;
};

constexpr size_t kSizes = FrameMemory::kFrameBytesMax / FrameMemory::kStepBytes;

// Without a destructor: frames may go after it would have run.
constinit thread_local std::array<Kept, kSizes> kept{};
constinit thread_local bool thread_ends = false;

struct AtThreadEnd {
  ~AtThreadEnd() {
    thread_ends = true;
    for (Kept& size : kept) {
      while (size.first != nullptr) {
        Free* const frame = size.first;
        size.first = frame->next;
        ::operator delete(frame);
      }
    }
  }
};

constexpr size_t SizeOf(size_t bytes) { return (bytes - 1) / FrameMemory::kStepBytes; }

}  // namespace

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool FrameMemory::kKeeps = false;
#elif defined(__has_feature)
constexpr bool FrameMemory::kKeeps =
    !__has_feature(address_sanitizer) && !__has_feature(thread_sanitizer);
#else
constexpr bool FrameMemory::kKeeps = true;
#endif

void* FrameMemory::Take(size_t bytes) {
  if (!kKeeps || bytes > kFrameBytesMax) {
    return ::operator new(bytes);
  }
  Kept& size = kept[SizeOf(bytes)];
  if (size.first == nullptr) {
    return ::operator new((SizeOf(bytes) + 1) * kStepBytes);
  }
  Free* const frame = size.first;
  size.first = frame->next;
  size.count -= 1;
  return frame;
}

void FrameMemory::Give(void* frame, size_t bytes) {
  if (!kKeeps || bytes > kFrameBytesMax || thread_ends ||
      kept[SizeOf(bytes)].count >= kKeptFrames) {
    ::operator delete(frame);
    return;
  }
  static thread_local AtThreadEnd at_thread_end;
  static_cast<void>(at_thread_end);
  Kept& size = kept[SizeOf(bytes)];
  size.first = ::new (frame) Free{size.first};
  size.count += 1;
}

}  // namespace gemel::internal

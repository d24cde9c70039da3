// SPDX-License-Identifier: Apache-2.0
//
// FrameMemory: memory of coroutine frames, used again. A call is some frames of up to a kilobyte;
// malloc keeps seven of a size at hand for each thread, and with more calls under way than that
// each frame goes the long way through its bins (a fifth of a small call's instructions).
//
// Thread safety: all. Each thread keeps what was freed on it, at most kKeptFrames of a size, until
// it ends; a frame may be freed on another thread than it was made on.
// Errors: as operator new. Under a sanitizer nothing is kept, so that it sees each frame's end.
#pragma once

#include <cstddef>

namespace gemel::internal {

class FrameMemory {
 public:
  static constexpr size_t kStepBytes = 64;
  static constexpr size_t kFrameBytesMax = 2048;  // a larger one is malloc's
  static constexpr size_t kKeptFrames = 256;
  static const bool kKeeps;  // frames that come back; false under a sanitizer

  static void* Take(size_t bytes);
  static void Give(void* frame, size_t bytes);
};

}  // namespace gemel::internal

// SPDX-License-Identifier: Apache-2.0
//
// 20,000 inputs of the frame fuzzer from one seed, with any compiler: random bytes, and whole
// frames with some bytes changed.
#include <gtest/gtest.h>

#include <string>

#include "common/random.h"
#include "tests/fuzz/frame_target.h"

namespace gemel {
namespace {

constexpr int kInputs = 20000;

std::string RandomBytes(Random* random, size_t bytes) {
  std::string out;
  for (size_t i = 0; i < bytes; ++i) {
    out.push_back(static_cast<char>(random->Next()));
  }
  return out;
}

std::string RandomFrame(Random* random) {
  FrameHeader header;
  header.type = static_cast<FrameType>(32 + random->Below(8));
  header.op = random->Next();
  header.body_bytes = static_cast<uint32_t>(random->Below(200));
  header.payload_bytes = static_cast<uint32_t>(random->Below(300));
  const std::string body = RandomBytes(random, header.body_bytes);
  const std::string payload = RandomBytes(random, header.payload_bytes);
  header.body_crc32c = Crc32c(AsBytes(body));
  const auto encoded = EncodeFrameHeader(header);
  return std::string(encoded.begin(), encoded.end()) + body + payload;
}

// The choices, then one to three frames with up to four changed bytes.
std::string MutatedFrames(Random* random) {
  std::string input = RandomBytes(random, 1);
  const uint64_t frames = 1 + random->Below(3);
  for (uint64_t i = 0; i < frames; ++i) {
    input += RandomFrame(random);
  }
  const uint64_t changes = random->Below(5);
  for (uint64_t i = 0; i < changes; ++i) {
    const uint64_t at = 1 + random->Below(input.size() - 1);
    input[at] = static_cast<char>(random->Next());
  }
  return input;
}

TEST(FrameFuzzReplay, NoInputBreaksAnInvariantAndWholeFramesPass) {
  Random random(20240607);
  size_t frames = 0;
  for (int i = 0; i < kInputs; ++i) {
    const bool mutated = random.Chance(3, 4);
    const size_t bytes = random.Below(400);
    const std::string input = mutated ? MutatedFrames(&random) : RandomBytes(&random, bytes);
    FrameTarget target;
    frames += target.Run(AsBytes(input));
  }
  EXPECT_GT(frames, static_cast<size_t>(kInputs) / 2) << "the inputs do not get behind the header";
}

TEST(FrameFuzzReplay, RepairedChecksumsReachTheLimits) {
  Random random(7);
  size_t frames = 0;
  for (int i = 0; i < kInputs / 4; ++i) {
    std::string input = MutatedFrames(&random);
    input[0] = static_cast<char>(input[0] | 8);
    FrameTarget target;
    frames += target.Run(AsBytes(input));
  }
  EXPECT_GT(frames, static_cast<size_t>(kInputs) / 4);
}

}  // namespace
}  // namespace gemel

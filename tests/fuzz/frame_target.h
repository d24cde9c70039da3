// SPDX-License-Identifier: Apache-2.0
//
// One input of the frame fuzzers: a stream of bytes to a FrameReader, in pieces the input chooses.
//
// Thread safety: pure. An input that breaks an invariant ends the process.
#pragma once

#include <algorithm>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "common/check.h"
#include "common/crc32c.h"
#include "transport/frame_reader.h"

namespace gemel {

// Where a header with a wrong checksum would end the input, it is given the right one, so that what
// is behind the checksums is reached too. The first byte of `input` chooses: sizes of pieces,
// whether checksums are repaired, where payloads go, when they are revoked.
class FrameTarget {
 public:
  // Frames that came out whole.
  size_t Run(ByteSpan input) {
    if (input.empty()) {
      return 0;
    }
    const auto choice = static_cast<uint8_t>(input[0]);
    step_ = size_t{1} << (choice & 7);
    repair_ = (choice & 8) != 0;
    drop_ = (choice & 16) != 0;
    revoke_ = (choice & 32) != 0;
    stream_.assign(input.begin() + 1, input.end());
    return Feed();
  }

 private:
  size_t Feed() {
    size_t frames = 0;
    size_t at = 0;
    while (at < stream_.size()) {
      if (repair_ && !reader_.inside_frame()) {
        Repair(at);
      }
      const MutableByteSpan target = reader_.Target();
      GEMEL_CHECK(!target.empty());
      const size_t bytes = std::min({step_, stream_.size() - at, target.size()});
      std::memcpy(target.data(), stream_.data() + at, bytes);
      at += bytes;
      const auto progress = reader_.Advance(bytes);
      if (!progress.ok()) {
        return frames;
      }
      frames += OnProgress(*progress);
    }
    return frames;
  }

  // Makes the checksums of a frame that begins at `at` right, as far as the stream reaches.
  void Repair(size_t at) {
    const MutableByteSpan frame = MutableByteSpan(stream_).subspan(at);
    if (frame.size() < kFrameHeaderBytes) {
      return;
    }
    uint32_t body_bytes = 0;
    std::memcpy(&body_bytes, frame.data() + 40, sizeof(body_bytes));
    if (body_bytes <= frame.size() - kFrameHeaderBytes) {
      Store(frame, 48, Crc32c(frame.subspan(kFrameHeaderBytes, body_bytes)));
    }
    Store(frame, 60, Crc32c(frame.first(60)));
  }

  static void Store(MutableByteSpan frame, size_t at, uint32_t value) {
    std::memcpy(frame.data() + at, &value, sizeof(value));
  }

  size_t OnProgress(FrameProgress progress) {
    if (progress == FrameProgress::kPlace) {
      CheckHeader(reader_.header());
      place_.resize(drop_ ? 0 : reader_.header().payload_bytes);
      auto revocation = std::make_shared<Revocation>();
      if (revoke_) {
        revocation->Revoke();
      }
      reader_.Place(Placement{place_, std::move(revocation)});
    }
    if (progress != FrameProgress::kFrame) {
      return 0;
    }
    const IncomingFrame frame = reader_.Take();
    CheckHeader(frame.header);
    GEMEL_CHECK_EQ(frame.body.size(), frame.header.body_bytes);
    GEMEL_CHECK_EQ(frame.payload.size(), frame.payload_dropped ? 0 : frame.header.payload_bytes);
    GEMEL_CHECK(frame.handles.empty());
    return 1;
  }

  // What a header passed must encode to the bytes it came from.
  static void CheckHeader(const FrameHeader& header) {
    const auto again = EncodeFrameHeader(header);
    GEMEL_CHECK(DecodeFrameHeader(std::as_bytes(std::span(again))).ok());
  }

  size_t step_ = 1;
  bool repair_ = false;
  bool drop_ = false;
  bool revoke_ = false;
  std::vector<std::byte> stream_;
  std::vector<std::byte> place_;
  FrameReader reader_;
};

}  // namespace gemel

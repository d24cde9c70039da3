// SPDX-License-Identifier: Apache-2.0
//
// FrameReader: bytes of one connection, in whatever pieces they arrive, to frames. It holds no
// socket: the owner asks Target() where the next bytes go, puts them there, and tells Advance() how
// many.
//
//   header (64 bytes) → body (own buffer) → [kPlace: Place()] → payload (its final place) →
//   [kFrame: Take()]
//
// Thread safety: one loop.
// Invariants:
//   (1) nothing is read or allocated before the header's checksum and limits hold;
//   (2) bytes go to Placement::place only while it is not revoked, asked at every Target(): a
//       caller that asks, receives and advances in one step never writes revoked memory; one that
//       does not sets a fence;
//   (3) the handles that came with a frame are as many as its header says, or the frame is refused;
//   (4) any bytes are safe input. After an error the reader is of no further use.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"

#include "transport/net.h"

namespace gemel {

constexpr size_t kScratchBytes = 64 * kKiB;
// A longer payload is hashed as its pieces land: in whole it would be out of the cache by then.
constexpr size_t kHashLandingBytes = 128 * kKiB;

enum class FrameProgress {
  kMore,   // nothing to do but read on
  kPlace,  // header and body are there and match: Place() before the next Target()
  kFrame,  // a whole frame: Take() before the next Target()
};

class FrameReader {
 public:
  // Where the next bytes go; never empty.
  MutableByteSpan Target();
  // `bytes` have arrived at Target(). InvalidArgument and FailedPrecondition as
  // DecodeFrameHeader().
  absl::StatusOr<FrameProgress> Advance(size_t bytes);
  // Handles that arrived with the last bytes; before their Advance().
  absl::Status AddHandles(Handles handles);

  // Whoever writes to Target() after it has returned, until the next Advance(): `fence` ends that
  // when the place is revoked, and the next Target() is another. REQUIRES: Target() is a place.
  void SetFence(std::function<void()> fence);

  bool fenced() const { return fenced_; }

  // Only at kPlace. REQUIRES: the place is empty or holds the payload.
  void Place(Placement placement);
  // Only at kFrame.
  IncomingFrame Take();

  const FrameHeader& header() const { return frame_.header; }

  std::string_view body() const { return frame_.body; }

  // The stream may end here only when false.
  bool inside_frame() const { return state_ != State::kHeader || filled_ != 0; }

 private:
  enum class State { kHeader, kBody, kPlace, kPayload, kFrame };

  absl::StatusOr<FrameProgress> OnHeader();
  absl::StatusOr<FrameProgress> OnBody();
  FrameProgress OnPayload();
  void DropWhenRevoked();

  // The payload goes to its place and is long.
  bool hashes_landing() const {
    return !frame_.payload_dropped && frame_.header.payload_bytes > kHashLandingBytes;
  }

  State state_ = State::kHeader;
  size_t filled_ = 0;  // of the part that `state_` names
  std::array<std::byte, kFrameHeaderBytes> header_bytes_{};
  IncomingFrame frame_;
  Placement placement_;
  bool fenced_ = false;
  Xxh3Stream landed_;                     // of the payload that lands
  std::unique_ptr<std::byte[]> scratch_;  // made when the first payload is dropped
};

}  // namespace gemel

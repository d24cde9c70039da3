// SPDX-License-Identifier: Apache-2.0
//
// The frames around what a small durable file holds (docs/formats/records.md), so that a torn, cut
// or rotten one is seen when it is read. Little endian. A file that is written anew each time:
//
//   0  8 bytes  magic "GEMLFILE"
//   8  u32      version, 1
//  12  u64      length of the content
//  20  u32      CRC32C of bytes 0..19 followed by the content
//  24  content
//
// A file that is written in place is a pair: two copies, each in half of it, in whole 4 KiB blocks:
//
//   0  8 bytes  magic "GEMLPAIR"
//   8  u32      version, 1
//  12  u64      length of the content
//  20  u64      serial: one more with each write
//  28  u32      CRC32C of bytes 0..27 followed by the content
//  32  content; the rest of the half is nothing
//
// Both copies are the same except while one is being written: the newest whole one counts. So a
// copy that is torn, or rots later, is no loss.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace gemel {

std::string FrameFile(std::string_view content);
// The content of either kind. DataLoss, naming `path` and what differs, for a bad frame;
// FailedPrecondition for a sound frame of a newer version.
absl::StatusOr<std::string> UnframeFile(std::string_view file, std::string_view path);

struct FilePair {
  std::string content;
  uint64_t serial = 0;
  size_t newest = 0;  // which copy, 0 or 1
  size_t room = 0;    // bytes of a copy with its header
};

// One copy, without the rest of its room.
std::string FrameCopy(std::string_view content, uint64_t serial);
// A whole file with room for RoomFor(content) in each copy.
std::string FramePair(std::string_view content, uint64_t serial);
// Errors: as UnframeFile(), also for a sound file that is no pair.
absl::StatusOr<FilePair> UnframePair(std::string_view file, std::string_view path);

}  // namespace gemel

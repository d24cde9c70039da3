// SPDX-License-Identifier: Apache-2.0
#include "common/file_frame.h"

#include <utility>

#include "common/check.h"
#include "common/codec.h"
#include "common/crc32c.h"
#include "common/disk.h"
#include "common/errors.h"
#include "common/status_macros.h"

namespace gemel {
namespace {

constexpr std::string_view kMagic = "GEMLFILE";
constexpr uint32_t kVersion = 1;
constexpr size_t kHeaderBytes = 24;
constexpr size_t kCheckedBytes = kHeaderBytes - sizeof(uint32_t);
static_assert(kMagic.size() + 4 + 8 + 4 == kHeaderBytes);

constexpr std::string_view kPairMagic = "GEMLPAIR";
constexpr uint32_t kPairVersion = 1;
constexpr size_t kPairHeaderBytes = 32;
constexpr size_t kPairCheckedBytes = kPairHeaderBytes - sizeof(uint32_t);
static_assert(kPairMagic.size() + 4 + 8 + 8 + 4 == kPairHeaderBytes);

constexpr size_t kBlockBytes = 4 * kKiB;  // of a disk: what is torn or lost at once

uint32_t ChecksumOf(std::string_view checked, std::string_view content) {
  return Crc32c(AsBytes(content), Crc32c(AsBytes(checked)));
}

absl::Status NotOurs(std::string_view path, size_t bytes) {
  return error::DataLoss(
      "file {} of {} bytes does not begin with a whole header: it is torn or not ours; restore it "
      "from another copy or remove it",
      path, bytes);
}

absl::Status OfAnotherVersion(std::string_view path, uint32_t version, uint32_t known) {
  return error::FailedPrecondition(
      "file {} has format version {}; this program reads {}: use the program that wrote it", path,
      version, known);
}

struct Copy {
  std::string_view content;
  uint64_t serial = 0;
};

// `bytes` may go on after the copy: the rest of its room.
absl::StatusOr<Copy> UnframeCopy(std::string_view bytes, std::string_view path) {
  Decoder header(bytes.substr(0, kPairHeaderBytes));
  const std::string_view magic = header.Raw(kPairMagic.size(), "magic");
  const auto version = header.Int<uint32_t>("version");
  const auto length = header.Int<uint64_t>("length");
  const auto serial = header.Int<uint64_t>("serial");
  const auto checksum = header.Int<uint32_t>("checksum");
  if (!header.ok() || magic != kPairMagic || length > bytes.size() - kPairHeaderBytes) {
    return NotOurs(path, bytes.size());
  }
  const std::string_view content = bytes.substr(kPairHeaderBytes, length);
  if (ChecksumOf(bytes.substr(0, kPairCheckedBytes), content) != checksum) {
    return NotOurs(path, bytes.size());
  }
  if (version != kPairVersion) {
    return OfAnotherVersion(path, version, kPairVersion);
  }
  return Copy{content, serial};
}

}  // namespace

std::string FrameFile(std::string_view content) {
  Encoder header;
  header.Raw(kMagic).Int(kVersion).Int(static_cast<uint64_t>(content.size()));
  std::string frame = header.Take();
  Encoder checksum;
  checksum.Int(ChecksumOf(frame, content));
  frame += checksum.Take();
  GEMEL_CHECK_EQ(frame.size(), kHeaderBytes);
  frame += content;
  return frame;
}

std::string FrameCopy(std::string_view content, uint64_t serial) {
  Encoder header;
  header.Raw(kPairMagic).Int(kPairVersion).Int(static_cast<uint64_t>(content.size())).Int(serial);
  std::string copy = header.Take();
  Encoder checksum;
  checksum.Int(ChecksumOf(copy, content));
  copy += checksum.Take();
  GEMEL_CHECK_EQ(copy.size(), kPairHeaderBytes);
  copy += content;
  return copy;
}

std::string FramePair(std::string_view content, uint64_t serial) {
  std::string copy = FrameCopy(content, serial);
  const size_t needed = kPairHeaderBytes + RoomFor(content.size());
  copy.resize((needed + kBlockBytes - 1) / kBlockBytes * kBlockBytes);
  return copy + copy;
}

absl::StatusOr<FilePair> UnframePair(std::string_view file, std::string_view path) {
  const size_t room = file.size() / 2;
  if (room == 0 || room % kBlockBytes != 0 || 2 * room != file.size()) {
    return NotOurs(path, file.size());
  }
  const absl::StatusOr<Copy> copies[] = {UnframeCopy(file.substr(0, room), path),
                                         UnframeCopy(file.substr(room), path)};
  if (!copies[0].ok() && !copies[1].ok()) {
    return absl::IsFailedPrecondition(copies[1].status()) ? copies[1].status() : copies[0].status();
  }
  const bool second = !copies[0].ok() || (copies[1].ok() && copies[1]->serial > copies[0]->serial);
  const Copy& newest = *copies[second ? 1 : 0];
  return FilePair{std::string(newest.content), newest.serial, second ? 1U : 0U, room};
}

absl::StatusOr<std::string> UnframeFile(std::string_view file, std::string_view path) {
  absl::StatusOr<FilePair> pair = UnframePair(file, path);
  if (pair.ok()) {
    return std::move(pair->content);
  }
  Decoder header(file.substr(0, kHeaderBytes));
  const std::string_view magic = header.Raw(kMagic.size(), "magic");
  const auto version = header.Int<uint32_t>("version");
  const auto bytes = header.Int<uint64_t>("length");
  const auto checksum = header.Int<uint32_t>("checksum");
  if (!header.ok() || magic != kMagic) {
    return pair.status();
  }
  const std::string_view content = file.substr(kHeaderBytes);
  if (content.size() != bytes) {
    return error::DataLoss(
        "file {} holds {} bytes of content and should hold {}: it is torn; "
        "restore it from another copy or remove it",
        path, content.size(), bytes);
  }
  const uint32_t found = ChecksumOf(file.substr(0, kCheckedBytes), content);
  if (found != checksum) {
    return error::DataLoss(
        "file {} of {} bytes has CRC32C {:08x} and should have {:08x}: its bytes "
        "changed on the disk; restore it from another copy or remove it",
        path, file.size(), found, checksum);
  }
  if (version != kVersion) {
    return OfAnotherVersion(path, version, kVersion);
  }
  return std::string(content);
}

}  // namespace gemel

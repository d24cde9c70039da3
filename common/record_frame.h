// SPDX-License-Identifier: Apache-2.0
//
// RecordFrame: what stands around the fields of a small record that is kept or sent as one string
// (docs/formats/records.md, docs/formats/persist.md):
//
//   u32 magic  u8 version  fields  u32 crc32c of all before it
//
// Thread safety: pure functions.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

#include "common/codec.h"

namespace gemel {

struct RecordFrame {
  uint32_t magic = 0;
  uint8_t version = 0;
  std::string_view what;  // "commit record"; for errors

  // Magic and version; the fields follow.
  Encoder Begin() const;

  // The record whose fields `encoder` has, which came from Begin().
  static std::string End(Encoder* encoder);

  // The fields of `raw`, a part of it, once checksum, magic and version are right. InvalidArgument
  // when they are not; FailedPrecondition for another version.
  absl::StatusOr<std::string_view> FieldsOf(std::string_view raw) const;
};

}  // namespace gemel

// SPDX-License-Identifier: Apache-2.0
//
// The digests that S3 speaks: SHA-256 (in signatures) and MD5 (Content-MD5, ETag). MD5 finds damage
// on the way; nothing of ours trusts it further.
//
// Thread safety: pure.
#pragma once

#include <string>

#include "common/bytes.h"

namespace gemel::archive {

// 64 lower-case hexadecimal digits.
std::string Sha256Hex(ByteSpan body);

// 16 bytes.
std::string Md5(ByteSpan body);

std::string HexOf(std::string_view bytes);
std::string Base64Of(std::string_view bytes);

}  // namespace gemel::archive

// SPDX-License-Identifier: Apache-2.0
#include "client/archive/body_digest.h"

#include <openssl/evp.h>

#include <array>

#include "absl/strings/escaping.h"

#include "common/check.h"

namespace gemel::archive {
namespace {

std::string DigestOf(ByteSpan body, const EVP_MD* kind) {
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
  unsigned int bytes = 0;
  // Fails only where the library was built without the digest.
  GEMEL_CHECK_EQ(EVP_Digest(body.data(), body.size(), digest.data(), &bytes, kind, nullptr), 1);
  return {reinterpret_cast<const char*>(digest.data()), bytes};
}

}  // namespace

std::string Sha256Hex(ByteSpan body) { return HexOf(DigestOf(body, EVP_sha256())); }

std::string Md5(ByteSpan body) { return DigestOf(body, EVP_md5()); }

std::string HexOf(std::string_view bytes) {
  return absl::BytesToHexString({bytes.data(), bytes.size()});
}

std::string Base64Of(std::string_view bytes) {
  std::string text(4 * DivideUp(bytes.size(), 3) + 1, '\0');  // EVP ends it with a zero byte
  const int written = EVP_EncodeBlock(reinterpret_cast<unsigned char*>(text.data()),
                                      reinterpret_cast<const unsigned char*>(bytes.data()),
                                      static_cast<int>(bytes.size()));
  GEMEL_CHECK_GE(written, 0);
  text.resize(static_cast<size_t>(written));
  return text;
}

}  // namespace gemel::archive

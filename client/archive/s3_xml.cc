// SPDX-License-Identifier: Apache-2.0
#include "client/archive/s3_xml.h"

#include <fmt/format.h>

#include <array>
#include <charconv>
#include <cstdint>

#include "common/check.h"

namespace gemel::archive {
namespace {

constexpr std::array<std::pair<std::string_view, char>, 5> kEntities = {
    {{"amp", '&'}, {"lt", '<'}, {"gt", '>'}, {"quot", '"'}, {"apos", '\''}}};
constexpr size_t kEntityBytesMax = 8;
constexpr uint32_t kAsciiMax = 0x7f;

// The character of `&name;`, or 0.
char Entity(std::string_view name) {
  for (const auto& [word, c] : kEntities) {
    if (word == name) {
      return c;
    }
  }
  if (name.starts_with('#')) {
    const bool hex = name.starts_with("#x");
    const std::string_view digits = name.substr(hex ? 2 : 1);
    uint32_t code = 0;
    const auto [end, bad] =
        std::from_chars(digits.data(), digits.data() + digits.size(), code, hex ? 16 : 10);
    if (bad == std::errc() && end == digits.data() + digits.size() && code <= kAsciiMax) {
      return static_cast<char>(code);
    }
  }
  return 0;
}

std::string Unescape(std::string_view text) {
  std::string plain;
  for (size_t i = 0; i < text.size(); ++i) {
    const size_t end = text[i] == '&' ? text.substr(i, kEntityBytesMax).find(';') : 0;
    const char c =
        end != 0 && end != std::string_view::npos ? Entity(text.substr(i + 1, end - 1)) : '\0';
    plain += c != 0 ? c : text[i];
    i += c != 0 ? end : 0;
  }
  return plain;
}

// Where the element that begins at or after `from` has its content, or npos.
size_t ContentOf(std::string_view xml, std::string_view name, size_t from) {
  const std::string open = "<" + std::string(name);
  for (size_t at = xml.find(open, from); at != std::string_view::npos;
       at = xml.find(open, at + 1)) {
    const size_t after = at + open.size();
    if (after < xml.size() && (xml[after] == '>' || xml[after] == ' ')) {
      const size_t end = xml.find('>', after);
      return end == std::string_view::npos ? end : end + 1;
    }
  }
  return std::string_view::npos;
}

}  // namespace

std::vector<std::string_view> XmlElements(std::string_view xml, std::string_view name) {
  GEMEL_CHECK(!name.empty());
  std::vector<std::string_view> found;
  const std::string close = "</" + std::string(name) + ">";
  size_t at = ContentOf(xml, name, 0);
  while (at != std::string_view::npos) {
    const size_t end = xml.find(close, at);
    if (end == std::string_view::npos) {
      break;
    }
    found.push_back(xml.substr(at, end - at));
    at = ContentOf(xml, name, end);
  }
  return found;
}

std::string XmlText(std::string_view xml, std::string_view name) {
  const std::vector<std::string_view> found = XmlElements(xml, name);
  return found.empty() ? "" : Unescape(found[0]);
}

std::string XmlEscape(std::string_view text) {
  std::string escaped;
  for (const char c : text) {
    bool plain = true;
    for (const auto& [word, special] : kEntities) {
      if (c == special) {
        escaped += fmt::format("&{};", word);
        plain = false;
      }
    }
    escaped += plain ? std::string(1, c) : "";
  }
  return escaped;
}

std::string CompleteUploadXml(const std::vector<std::string>& etags) {
  std::string xml = "<CompleteMultipartUpload>";
  for (size_t i = 0; i < etags.size(); ++i) {
    xml += fmt::format("<Part><PartNumber>{}</PartNumber><ETag>{}</ETag></Part>", i + 1,
                       XmlEscape(etags[i]));
  }
  return xml + "</CompleteMultipartUpload>";
}

}  // namespace gemel::archive

// SPDX-License-Identifier: Apache-2.0
//
// The little XML that S3 answers with: texts of elements by name. No attributes, no namespaces, no
// entities but the five of XML and numbers; whatever the bytes are, there is an answer, and memory
// is bounded by them.
//
// Thread safety: pure.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace gemel::archive {

// What stands between <name> (or <name attributes>) and the next </name>, as written; empty when
// there is none.
std::vector<std::string_view> XmlElements(std::string_view xml, std::string_view name);

// The text of the first such element, with entities replaced; empty when there is none.
std::string XmlText(std::string_view xml, std::string_view name);

std::string XmlEscape(std::string_view text);

// The body of CompleteMultipartUpload for parts 1, 2, … with these ETags.
std::string CompleteUploadXml(const std::vector<std::string>& etags);

}  // namespace gemel::archive

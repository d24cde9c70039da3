// SPDX-License-Identifier: Apache-2.0
#include "client/archive/json_text.h"

#include <set>
#include <string>
#include <vector>

#include "common/check.h"
#include "common/errors.h"

namespace gemel::archive {
namespace {

using Json = nlohmann::json;
using Event = Json::parse_event_t;

// Before the parser, which keeps a pointer for each level.
bool IsDeeperThan(std::string_view text, size_t depth_max) {
  size_t depth = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string && c == '\\') {
      ++i;
    } else if (c == '"') {
      in_string = !in_string;
    } else if (!in_string && (c == '{' || c == '[')) {
      if (++depth > depth_max) {
        return true;
      }
    } else if (!in_string && (c == '}' || c == ']') && depth > 0) {
      --depth;
    }
  }
  return false;
}

// Sees every event of the parser before it becomes part of the value: the names of the objects that
// are open.
class Names {
 public:
  explicit Names(size_t depth_max) : open_(depth_max) {}

  void See(int depth, Event event, const Json& parsed) {
    GEMEL_CHECK_GE(depth, 0);
    const auto level = static_cast<size_t>(depth);
    if (event == Event::object_start) {
      GEMEL_CHECK_LT(level, open_.size());
      open_[level].clear();
    }
    if (event == Event::key) {
      GEMEL_CHECK(level >= 1 && level <= open_.size()) << level;
      const auto& name = parsed.get_ref<const std::string&>();
      if (!open_[level - 1].insert(name).second && twice_.empty()) {
        twice_ = name.empty() ? "(empty)" : name;
      }
    }
  }

  const std::string& twice() const { return twice_; }

 private:
  std::vector<std::set<std::string>> open_;
  std::string twice_;
};

}  // namespace

absl::StatusOr<Json> ParseJson(std::string_view text, std::string_view what, size_t depth_max) {
  if (IsDeeperThan(text, depth_max)) {
    return error::InvalidArgument("{}: more than {} levels", what, depth_max);
  }
  Names names(depth_max);
  const auto see = [&names](int depth, Event event, const Json& parsed) {
    names.See(depth, event, parsed);
    return true;
  };
  Json json = Json::parse(text.begin(), text.end(), see, /*allow_exceptions=*/false);
  if (json.is_discarded()) {
    return error::InvalidArgument("{}: not JSON, or cut short", what);
  }
  if (!names.twice().empty()) {
    return error::InvalidArgument("{}: '{}' is there twice", what, names.twice());
  }
  return json;
}

}  // namespace gemel::archive

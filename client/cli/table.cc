// SPDX-License-Identifier: Apache-2.0
#include "client/cli/table.h"

#include <algorithm>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>

#include "common/bytes.h"
#include "common/errors.h"

namespace gemel::cli {
namespace {

bool IsBytes(const std::string& key) { return key == "bytes" || key.ends_with("_bytes"); }

std::string CellOf(const nlohmann::ordered_json& row, const std::string& key) {
  const nlohmann::ordered_json value = row.value(key, nlohmann::ordered_json(""));
  if (IsBytes(key) && value.is_number()) {
    return fmt::format("{:.1f} MiB", value.get<double>() / static_cast<double>(kMiB));
  }
  if (value.is_boolean()) {
    return value.get<bool>() ? "yes" : "no";
  }
  const std::string text = value.is_string() ? value.get<std::string>() : value.dump();
  constexpr size_t kIdDigits = 32;
  return text.size() == kIdDigits ? text.substr(0, 8) : text;
}

}  // namespace

std::string TableOf(const nlohmann::ordered_json& list, const std::vector<std::string>& keys) {
  std::vector<std::vector<std::string>> rows(1);
  for (const std::string& key : keys) {
    std::string title =
        IsBytes(key) ? key.substr(0, key.size() - std::min(key.size(),
                                                           key == "bytes" ? size_t{0} : size_t{6}))
                     : key;
    std::replace(title.begin(), title.end(), '_', ' ');
    rows[0].push_back(title);
  }
  for (const nlohmann::ordered_json& row : list) {
    std::vector<std::string>& cells = rows.emplace_back();
    for (const std::string& key : keys) {
      cells.push_back(CellOf(row, key));
    }
  }
  std::vector<size_t> widths(keys.size(), 0);
  for (const std::vector<std::string>& row : rows) {
    for (size_t i = 0; i < row.size(); ++i) {
      widths[i] = std::max(widths[i], row[i].size());
    }
  }
  std::string text;
  for (const std::vector<std::string>& row : rows) {
    std::string line;
    for (size_t i = 0; i < row.size(); ++i) {
      line += fmt::format("{:<{}}  ", row[i], widths[i]);
    }
    text += line.substr(0, line.find_last_not_of(' ') + 1) + "\n";
  }
  return text;
}

absl::StatusOr<uint64_t> ParseBytes(const std::string& text) {
  static const std::map<std::string, uint64_t> kUnits = {
      {"", 1}, {"B", 1}, {"KiB", kKiB}, {"MiB", kMiB}, {"GiB", kGiB}};
  const size_t digits = std::min(text.find_first_not_of("0123456789"), text.size());
  const auto unit = kUnits.find(text.substr(digits));
  constexpr size_t kDigitsMax = 15;
  if (digits == 0 || digits > kDigitsMax || unit == kUnits.end()) {
    return error::InvalidArgument("size '{}' is not like 4096, 64MiB or 1GiB", text);
  }
  const uint64_t value = std::stoull(text.substr(0, digits));
  if (value > std::numeric_limits<uint64_t>::max() / unit->second) {
    return error::InvalidArgument("size '{}' is more than 64 bits hold", text);
  }
  return value * unit->second;
}

}  // namespace gemel::cli

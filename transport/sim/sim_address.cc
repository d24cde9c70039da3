// SPDX-License-Identifier: Apache-2.0
#include "transport/sim/sim_address.h"

#include <charconv>

#include "common/errors.h"

namespace gemel {
namespace {

constexpr std::string_view kSim = "sim://";
constexpr std::string_view kUnix = "unix://";

}  // namespace

std::string SimAddress::ToString() const {
  return local ? fmt::format("{}{}", kUnix, path) : fmt::format("{}{}/{}", kSim, node, port);
}

std::string SimAddress::Key() const {
  return local ? fmt::format("{} {}{}", node, kUnix, path) : ToString();
}

absl::StatusOr<SimAddress> ParseSimAddress(std::string_view own_node, std::string_view text) {
  SimAddress address;
  if (text.starts_with(kUnix) && text.size() > kUnix.size()) {
    address.node = own_node;
    address.local = true;
    address.path = text.substr(kUnix.size());
    return address;
  }
  const size_t slash = text.rfind('/');
  const bool has_node = text.starts_with(kSim) && slash > kSim.size() && slash != text.npos;
  const char* const end = text.data() + text.size();
  const char* const digits = has_node ? text.data() + slash + 1 : end;
  const auto [stopped, error] = std::from_chars(digits, end, address.port);
  if (!has_node || error != std::errc() || stopped != end) {
    return error::InvalidArgument("address '{}' is not of the form sim://node/port or unix://path",
                                  text);
  }
  address.node = text.substr(kSim.size(), slash - kSim.size());
  return address;
}

}  // namespace gemel

// SPDX-License-Identifier: Apache-2.0
#include "server/keeper/keeper.h"

#include <fmt/format.h>

#include "common/check.h"

namespace gemel {

std::string KeptName::ToString() const {
  switch (kind) {
    case KeptKind::kDirectory:
      return fmt::format("directory {}", number);
    case KeptKind::kSlab:
      return fmt::format("slab {}", number);
    case KeptKind::kClient:
      return fmt::format("client {}", number);
  }
  GEMEL_CHECK(false) << static_cast<int>(kind);
  return "";
}

}  // namespace gemel

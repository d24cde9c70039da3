// SPDX-License-Identifier: Apache-2.0
//
// RetryDelay: how long to wait before the next try: doubling from kBackoffMin to kBackoffMax.
// Thread safety: one owner.
#pragma once

#include <algorithm>

#include "server/limits.h"

namespace gemel {

class RetryDelay {
 public:
  Duration Next() {
    const Duration now = next_;
    next_ = std::min(2 * next_, kBackoffMax);
    return now;
  }

  void Reset() { next_ = kBackoffMin; }

 private:
  Duration next_ = kBackoffMin;
};

}  // namespace gemel

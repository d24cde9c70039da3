// SPDX-License-Identifier: Apache-2.0
//
// RealProcess: the process we run in; its entropy is the kernel's.
// Thread safety: any thread. Errors: none; a kernel without getrandom ends the process.
#pragma once

#include "common/process.h"

namespace gemel {

class RealProcess final : public Process {
 public:
  uint64_t Entropy64() override;
  uint64_t pid() const override;
};

}  // namespace gemel

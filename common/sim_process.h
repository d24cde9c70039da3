// SPDX-License-Identifier: Apache-2.0
//
// SimProcess: one life of a simulated process. Its entropy comes from the seed of the run; a
// restarted node gets a new SimProcess with another stream, so that incarnations differ. Thread
// safety: one thread. Errors: none.
#pragma once

#include "common/process.h"
#include "common/random.h"

namespace gemel {

class SimProcess final : public Process {
 public:
  SimProcess(Random random, uint64_t pid) : random_(random), pid_(pid) {}

  uint64_t Entropy64() override { return random_.Next(); }

  uint64_t pid() const override { return pid_; }

 private:
  Random random_;
  const uint64_t pid_;
};

}  // namespace gemel

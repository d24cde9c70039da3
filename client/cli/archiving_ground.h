// SPDX-License-Identifier: Apache-2.0
//
// What an archiving command stands on: a loop for time and signals.
//
// Thread safety: one thread.
#pragma once

#include <memory>

#include "client/archive/pace.h"
#include "client/cli/archiving.h"

namespace gemel::cli {

struct Archiving::Ground {
  Ground() = default;
  Ground(const Ground&) = delete;
  Ground& operator=(const Ground&) = delete;
  ~Ground();

  std::unique_ptr<EpollLoop> loop;
  bool stop = false;  // set by SIGINT and SIGTERM
  int signal_fd = -1;
  std::unique_ptr<archive::LoopPace> pace;
};

}  // namespace gemel::cli

// SPDX-License-Identifier: Apache-2.0
//
// The handle behind gemel_client.
//
// Thread safety: any thread. Invariant: who the server is does not change; a server that comes back
// under the same address is another incarnation of the same id, or the calls fail.
#pragma once

#include <memory>
#include <string>

#include "client/library/runtime.h"

struct gemel_client {
  std::shared_ptr<gemel::Runtime> runtime;  // shared with this client's writers and restores
  std::string cluster_id;
  std::string server_id;
};

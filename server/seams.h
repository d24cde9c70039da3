// SPDX-License-Identifier: Apache-2.0
//
// ServerSeams: everything not deterministic that the server uses. Production fills it in
// server/main.cc, the simulator in its own way; no other file of the server knows the difference.
//
// Ownership: borrowed; all of it outlives the server.
#pragma once

#include "common/disk.h"
#include "common/events.h"
#include "common/loop.h"
#include "common/metrics.h"
#include "common/process.h"
#include "transport/control/rpc.h"
#include "transport/host.h"
#include "transport/net.h"

namespace gemel {

class Keeper;        // server/keeper/keeper.h
class PersistStore;  // server/persist/persist_store.h

struct ServerSeams {
  Loop* loop = nullptr;
  Net* net = nullptr;
  Host* host = nullptr;
  Disk* disk = nullptr;
  Process* process = nullptr;
  RpcChannel* placement = nullptr;
  EventSink* events = nullptr;
  MetricRegistry* metrics = nullptr;
  PersistStore* persist = nullptr;  // null: no persistent tier
  Keeper* keeper = nullptr;         // null: memory ends with this process
};

}  // namespace gemel

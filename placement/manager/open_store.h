// SPDX-License-Identifier: Apache-2.0
//
// The MetaStore that the flags of gemel-placement name: RocksDB in a folder, or etcd.
//
// Thread safety: main, before it serves.
// Ownership: the store borrows loop and random.
// Errors: InvalidArgument for flags that do not go together or an address that is none;
// PermissionDenied for an etcd beyond this machine without certificates; NotFound for a file that
// cannot be read; what the store says otherwise.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"

#include "common/epoll_loop.h"
#include "common/random.h"
#include "placement/store/meta_store.h"

namespace gemel {

struct StoreFlags {
  std::string dir;      // RocksDB
  std::string address;  // etcd://…; exactly one of both
  std::string authorities_file;
  std::string certificate_file;
  std::string key_file;
};

absl::StatusOr<std::unique_ptr<MetaStore>> OpenStore(EpollLoop* loop, Random* random,
                                                     const StoreFlags& flags);

}  // namespace gemel

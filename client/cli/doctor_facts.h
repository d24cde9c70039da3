// SPDX-License-Identifier: Apache-2.0
//
// The facts of `gemel doctor`, read from this machine. What cannot be read keeps its default; a
// probe leaves nothing behind.
//
// Thread safety: one thread.
#pragma once

#include <string>

#include "client/cli/cluster_file.h"
#include "client/cli/doctor.h"

namespace gemel::cli {

void ReadMemoryFacts(MemoryFacts* facts);
// `slabs`: of one server.
KernelFacts ReadKernelFacts(uint64_t slabs);
NetworkFacts ReadNetworkFacts();
// Writes and removes a few small files in `dir`, or in the nearest folder above it that exists.
DiskFacts ReadDiskFacts(const std::string& dir);
VersionFacts ReadVersionFacts(const ClusterFile* cluster);
// Of "unix:///PATH" or "/PATH".
SocketFacts ReadSocketFacts(const std::string& address);

}  // namespace gemel::cli

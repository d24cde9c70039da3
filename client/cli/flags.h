// SPDX-License-Identifier: Apache-2.0
//
// Flags: what the command line said, for every command alike. Empty or 0: not said; the command
// knows its default.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace gemel::cli {

struct ClusterFlags {
  uint32_t servers = 0;
  std::string memory;      // of each server
  std::string slab_bytes;  // default: DefaultSlabBytes() of the memory
  std::string listen;      // address of gemel-placement
  std::string persist_dir;
  bool no_persist = false;
  bool no_keeper = false;
  std::string only_server;      // restart this dead one
  bool only_placement = false;  // restart it
};

struct Flags {
  std::string dir;
  std::string placement;
  std::string address;  // of a server's socket
  std::string output = "table";
  ClusterFlags cluster;
  std::string target;  // JOB or JOB@STEP, or what else a command is about
  std::vector<std::string> command;
  uint32_t copies = 2;
  std::string strategy = "group";
  uint32_t patience_s = 60;
  bool wipe = false;
  bool watch = false;
  bool yes = false;
  bool accept_loss = false;
  bool from_servers = false;  // said so that nobody rebuilds by mistake
  bool force = false;
  bool cancel = false;
  bool no_wait = false;

  bool json() const { return output == "json"; }
};

}  // namespace gemel::cli

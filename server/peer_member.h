// SPDX-License-Identifier: Apache-2.0
//
// PeerMember: another server as placement names it. Thread safety: a value.
#pragma once

#include <string>

#include "common/ids.h"

namespace gemel {

struct PeerMember {
  ServerId server;
  Incarnation incarnation;
  std::string name;
  std::string data_address;
  bool dead = false;

  friend bool operator==(const PeerMember&, const PeerMember&) = default;

  // "server-1 (5f2a9c01)"
  std::string ToString() const { return name + " (" + server.ToShort() + ")"; }
};

}  // namespace gemel

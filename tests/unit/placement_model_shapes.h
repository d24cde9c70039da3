// SPDX-License-Identifier: Apache-2.0
//
// Clusters for the tests of placement/model: all small shapes, and random ones from a fixed seed.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "placement/model/cluster_map.h"

namespace gemel::model {

// SplitMix64 (Steele, Lea, Flood 2014): equal numbers on every machine.
class SplitMix {
 public:
  explicit SplitMix(uint64_t seed) : state_(seed) {}

  uint64_t Next() {
    state_ += 0x9e3779b97f4a7c15u;
    uint64_t z = state_;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }

  // In [0, bound); the bias of the remainder does not matter here.
  uint32_t Below(uint32_t bound) { return static_cast<uint32_t>(Next() % bound); }

 private:
  uint64_t state_;
};

inline std::vector<Member> InDomains(const std::vector<std::string>& domains) {
  std::vector<Member> members;
  members.reserve(domains.size());
  for (const std::string& domain : domains) {
    members.push_back({.domain = domain});
  }
  return members;
}

// n members, each in a rack of its own.
inline std::vector<Member> OwnDomains(uint32_t n) {
  std::vector<Member> members;
  members.reserve(n);
  for (uint32_t i = 0; i < n; ++i) {
    members.push_back({.domain = "rack" + std::to_string(i)});
  }
  return members;
}

// Every way to put n members into domains, up to the names of the domains (restricted growth
// strings; Bell(n) calls).
inline void ForEachShape(uint32_t n, const std::function<void(const std::vector<Member>&)>& visit) {
  std::vector<Member> members;
  const std::function<void(uint32_t)> extend = [&](uint32_t used) {
    if (members.size() == n) {
      visit(members);
      return;
    }
    for (uint32_t domain = 0; domain <= used && domain < n; ++domain) {
      members.push_back({.domain = "d" + std::to_string(domain)});
      extend(domain == used ? used + 1 : used);
      members.pop_back();
    }
  };
  extend(0);
}

inline std::string NameOf(const std::vector<Member>& shape) {
  std::string name;
  for (const Member& member : shape) {
    name += " " + member.domain;
  }
  return name;
}

// `expect` for 1 to 4 copies on every shape of 1 to 8 members; what failed first is named.
inline void ExpectOnEveryShape(
    const std::function<void(const std::vector<Member>&, uint32_t copies)>& expect) {
  for (uint32_t n = 1; n <= 8; ++n) {
    ForEachShape(n, [&expect](const std::vector<Member>& members) {
      for (uint32_t copies = 1; copies <= 4 && !::testing::Test::HasFatalFailure(); ++copies) {
        SCOPED_TRACE(std::to_string(copies) + " copies on" + NameOf(members));
        expect(members, copies);
      }
    });
  }
}

// 1 to n_max members below a few pods and racks, some paths shorter, some members not placeable.
inline std::vector<Member> RandomCluster(SplitMix& random, uint32_t n_max) {
  const uint32_t n = 1 + random.Below(n_max);
  const uint32_t pods = 1 + random.Below(4);
  const uint32_t racks = 1 + random.Below(8);
  const uint32_t hosts = 1 + random.Below(40);
  const bool spares = random.Below(3) == 0;
  std::vector<Member> members;
  for (uint32_t i = 0; i < n; ++i) {
    Member member;
    // The minimum of two draws makes some pods and racks larger than others.
    const uint32_t first = random.Below(pods);
    const uint32_t second = random.Below(pods);
    member.domain = "pod" + std::to_string(first < second ? first : second);
    const uint32_t rack = random.Below(racks);
    const uint32_t host = random.Below(hosts);
    if (random.Below(12) != 0) {
      member.domain += "/rack" + std::to_string(rack) + "/host" + std::to_string(host);
    }
    member.placeable = !spares || random.Below(6) != 0;
    members.push_back(member);
  }
  return members;
}

}  // namespace gemel::model

// SPDX-License-Identifier: Apache-2.0
//
// SimLink: one direction between two simulated nodes: its faults, its random stream, its counters
// and what a blackhole holds back. A link knows nothing of frames or calls; SimWorld moves things
// over it.
//
// Thread safety: one thread.
// Chances are in parts per million, drawn once a frame or call. A chance of 0 draws nothing, so
// turning one fault on does not shift the draws of links that do not have it.
#pragma once

#include <compare>
#include <cstdint>
#include <string>
#include <vector>

#include "common/loop.h"
#include "common/random.h"
#include "common/time.h"

namespace gemel {

// From one node to another; also from a node to itself (unix sockets, loopback).
struct Route {
  std::string from;
  std::string to;

  friend auto operator<=>(const Route&, const Route&) = default;

  Route Reverse() const { return {to, from}; }
};

struct LinkFaults {
  Duration delay_min = 50us;
  Duration delay_max = 500us;
  // Time a sender needs for one MiB of payload.
  Duration transmit_per_mib = 100us;
  // Nothing arrives. Frames and calls on the way are held, as TCP would retransmit them, and arrive
  // after the link heals; news of a closed connection is lost for good.
  bool blackhole = false;
  // Nothing arrives before this.
  TimePoint clogged_until{};
  // Per frame or call: it needs up to straggle_max more, and calls sent after it overtake it.
  uint32_t straggle_ppm = 0;
  Duration straggle_max = 400ms;
  // Per frame: the connection is reset while this frame arrives; a part of its payload may have
  // landed.
  uint32_t reset_ppm = 0;
  // Per frame: one bit of header, body or payload is flipped.
  uint32_t corrupt_ppm = 0;
  // Per kWrite frame: the same write lands once more up to late_max afterwards, on the same
  // connection or, when that is closed, on another one between the same two processes.
  uint32_t late_write_ppm = 0;
  // Per call: the request is executed once more up to late_max afterwards, whatever became of its
  // caller meanwhile, by the process that it was sent to if that lives; nobody hears of it.
  uint32_t late_call_ppm = 0;
  Duration late_max = 2s;
  // How long at most the rest of a payload takes to land after its first part.
  Duration landing_max = 200us;
  // Per payload: the rest of it takes up to stall_max, as when its sender stands still.
  uint32_t stall_ppm = 0;
  Duration stall_max = 5s;
  // Per reply and per kWrite frame: it arrives twice in a row.
  uint32_t duplicate_ppm = 0;
  // Per call: the request is executed a second time, and nobody hears of that.
  uint32_t duplicate_call_ppm = 0;
  // Per call: the request is lost before it is executed.
  uint32_t lose_request_ppm = 0;
  // Per call, on the link that carries replies: executed, but the caller never learns of it.
  uint32_t lose_reply_ppm = 0;
};

struct LinkStats {
  uint64_t frames = 0;
  uint64_t frame_bytes = 0;
  uint64_t requests = 0;
  uint64_t replies = 0;
  uint64_t held = 0;
  uint64_t clogged = 0;
  uint64_t stragglers = 0;
  uint64_t closes_lost = 0;
  uint64_t resets = 0;
  uint64_t corruptions = 0;
  uint64_t duplicates = 0;
  uint64_t duplicate_calls = 0;
  uint64_t late_writes = 0;
  uint64_t late_calls = 0;
  uint64_t slow_landings = 0;
  uint64_t requests_lost = 0;
  uint64_t replies_lost = 0;
};

class SimLink {
 public:
  SimLink(const LinkFaults& faults, Random random) : faults(faults), random_(random) {}

  // True with chance `ppm` in a million.
  bool Happens(uint32_t ppm);
  // Uniform in [min, max], at the granularity of a nanosecond.
  Duration Between(Duration min, Duration max);

  Duration DrawDelay() { return Between(faults.delay_min, faults.delay_max); }

  // Uniform in [0, bound).
  uint64_t Below(uint64_t bound) { return random_.Below(bound); }

  LinkFaults faults;
  bool own_faults = false;  // set for this link alone: defaults do not reach it
  LinkStats stats;
  std::vector<Loop::Callback> held;  // in the order of arrival at the blackhole

 private:
  Random random_;
};

}  // namespace gemel

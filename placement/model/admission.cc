// SPDX-License-Identifier: Apache-2.0
#include "placement/model/admission.h"

#include <fmt/format.h>

#include <algorithm>

#include "common/check.h"

namespace gemel::model {
namespace {

uint64_t Sum(uint64_t a, uint64_t b) {
  uint64_t sum = 0;
  GEMEL_CHECK(!__builtin_add_overflow(a, b, &sum)) << a << " bytes + " << b << " bytes";
  return sum;
}

// "1610612736 bytes (1.50 GiB)"; hundredths by integers, rounded down.
std::string Bytes(uint64_t bytes) {
  constexpr const char* kUnits[] = {"bytes", "KiB", "MiB", "GiB", "TiB", "PiB"};
  size_t unit = 0;
  uint64_t scale = 1;
  while (unit + 1 < std::size(kUnits) && bytes / scale >= 1024) {
    scale *= 1024;
    ++unit;
  }
  if (unit == 0) {
    return fmt::format("{} bytes", bytes);
  }
  const uint64_t hundredths = (bytes % scale) * 100 / scale;  // scale <= 2^50
  return fmt::format("{} bytes ({}.{:02} {})", bytes, bytes / scale, hundredths, kUnits[unit]);
}

Verdict VerdictOn(const ServerMemory& server, const MemoryDemand& demand) {
  // A server that gets nothing is not asked, even when it is over its limit already.
  if (demand.staging_bytes == 0 || demand.Total() <= server.capacity_bytes) {
    return Verdict::kAccept;
  }
  return demand.TotalWithoutInFlight() <= server.capacity_bytes ? Verdict::kWait : Verdict::kRefuse;
}

}  // namespace

uint64_t MemoryDemand::TotalWithoutInFlight() const {
  return Sum(Sum(committed_bytes, staging_bytes), pin_bytes);
}

uint64_t MemoryDemand::Total() const { return Sum(TotalWithoutInFlight(), in_flight_bytes); }

MemoryDemand DemandOn(const ServerMemory& server, uint64_t staging_bytes) {
  GEMEL_CHECK_LE(server.pinned_bytes, server.committed_bytes) << "server " << server.name;
  return {.committed_bytes = server.committed_bytes,
          .in_flight_bytes = server.in_flight_bytes,
          .staging_bytes = staging_bytes,
          .pin_bytes = staging_bytes - std::min(staging_bytes, server.pinned_bytes)};
}

absl::Status Shortage(const ServerMemory& server, const MemoryDemand& demand, Verdict verdict,
                      std::string_view elsewhere) {
  GEMEL_CHECK(verdict != Verdict::kAccept) << "server " << server.name;
  const uint64_t total = demand.Total();
  GEMEL_CHECK_GT(total, server.capacity_bytes);
  const char* way_out =
      verdict == Verdict::kWait
          ? "wait for the saves in flight, or give the server more memory (--memory)"
          : "give the server more memory (--memory), add servers, or lower keep or copies";
  return absl::ResourceExhaustedError(fmt::format(
      "server {} has {} for snapshots and would need {}: {} committed + {} in flight + {} for this "
      "snapshot + {} for a pin; {} short; {}{}{}",
      server.name, Bytes(server.capacity_bytes), Bytes(total), demand.committed_bytes,
      demand.in_flight_bytes, demand.staging_bytes, demand.pin_bytes,
      Bytes(total - server.capacity_bytes), elsewhere, elsewhere.empty() ? "" : "; ", way_out));
}

Admission AdmitSnapshot(std::span<const ServerMemory> servers,
                        std::span<const uint64_t> staging_bytes) {
  GEMEL_CHECK_EQ(servers.size(), staging_bytes.size());
  Admission result;
  uint64_t worst_short_bytes = 0;
  for (size_t i = 0; i < servers.size(); ++i) {
    const MemoryDemand demand = DemandOn(servers[i], staging_bytes[i]);
    result.demands.push_back(demand);
    const Verdict verdict = VerdictOn(servers[i], demand);
    if (verdict == Verdict::kAccept || verdict < result.verdict) {
      continue;
    }
    const uint64_t short_bytes = demand.Total() - servers[i].capacity_bytes;
    if (verdict > result.verdict || short_bytes > worst_short_bytes) {
      result.verdict = verdict;
      result.worst = i;
      worst_short_bytes = short_bytes;
    }
  }
  GEMEL_CHECK_EQ(result.worst.has_value(), result.verdict != Verdict::kAccept);
  if (result.worst) {
    result.status = Shortage(servers[*result.worst], result.demands[*result.worst], result.verdict);
  }
  return result;
}

}  // namespace gemel::model

// SPDX-License-Identifier: Apache-2.0
#include "server/metric_names.h"

#include <array>

namespace gemel {
namespace {

struct Name {
  const char* name;
  const char* help;
};

constexpr std::array kGauges = {
    Name{"gemel_memory_capacity_bytes", "Memory that this server may keep."},
    Name{"gemel_memory_used_bytes", "Memory of slabs that hold objects."},
    Name{"gemel_memory_idle_bytes", "Memory that clients keep mapped for a save."},
    Name{"gemel_memory_staged_bytes", "Memory of staged shards without a name."},
    Name{"gemel_objects", "Objects on this server, in any state."},
    Name{"gemel_persisted_shards", "Shards on this server's disk."},
    Name{"gemel_persist_used_bytes", "Bytes of persisted shards."},
    Name{"gemel_persist_free_bytes", "Bytes free on the persistent tier's disk."},
    Name{"gemel_persist_trouble", "1 while the persistent tier is in trouble."},
};

constexpr std::array kCounters = {
    Name{"gemel_objects_sealed_total", "Objects sealed on this server."},
    Name{"gemel_seal_hashed_bytes_total",
         "Bytes that seals hashed: no holder had found them right after the writing."},
    Name{"gemel_replication_retries_total", "Copies that had to start again."},
    Name{"gemel_replicated_bytes_total", "Bytes placed at other servers."},
    Name{"gemel_slices_again_total", "Slices sent again over another lane."},
    Name{"gemel_read_waits_total",
         "Reads that waited because as much was on its way here as may be."},
    Name{"gemel_credit_waits_total",
         "Times a sender waited because as much was on its way here as may be."},
    Name{"gemel_placed_bytes_total", "Bytes that other servers placed here."},
    Name{"gemel_read_bytes_total", "Bytes that other servers read here."},
    Name{"gemel_fetched_bytes_total", "Bytes that were brought here from other servers."},
    Name{"gemel_reads_hedged_total",
         "Reads that were late and were read again from a second source."},
    Name{"gemel_hedges_won_total", "Second reads that brought the right bytes first."},
    Name{"gemel_reads_cancelled_total", "Reads that were ended because the other one had won."},
    Name{"gemel_hedge_wasted_bytes_total",
         "Bytes of reads that came although the other one had won."},
    Name{kCopiedBytesMetric, "Bytes of state that this process copied in its own memory."},
    Name{"gemel_chunks_corrupt_total", "Chunks that failed their digest."},
    Name{"gemel_persisted_shards_total", "Shards written to disk."},
    Name{"gemel_persisted_bytes_total", "Bytes of shards written to disk."},
    Name{"gemel_persist_read_bytes_total", "Bytes that were read from disk."},
    Name{"gemel_persist_dropped_total", "Shards that were removed from disk."},
    Name{"gemel_persist_given_up_total", "Shards that were not persisted to the end."},
    Name{"gemel_persist_errors_total", "Shards that could not be persisted."},
    Name{"gemel_scrub_bytes_total", "Bytes of memory hashed again."},
    Name{"gemel_scrub_passes_total", "Passes over all of memory."},
    Name{"gemel_scrub_memory_corruptions_total", "Objects that scrubbing found damaged."},
    Name{"gemel_scrub_disk_bytes_total", "Bytes on disk read again."},
    Name{"gemel_scrub_disk_passes_total", "Passes over all of the disk."},
    Name{"gemel_scrub_disk_corruptions_total", "Shards on disk that scrubbing found damaged."},
    Name{"gemel_heartbeat_errors_total", "Heartbeats without an answer."},
};

}  // namespace

void RegisterServerMetrics(MetricRegistry* metrics) {
  for (const Name& gauge : kGauges) {
    metrics->Gauge(gauge.name, gauge.help);
  }
  for (const Name& counter : kCounters) {
    metrics->Counter(counter.name, counter.help);
  }
}

}  // namespace gemel

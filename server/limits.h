// SPDX-License-Identifier: Apache-2.0
//
// Every bound and time-out of the server, in one table. What happens at a bound is said beside it.
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/bytes.h"
#include "common/time.h"
#include "transport/frame.h"
#include "transport/lane.h"

namespace gemel {

// Memory.
inline constexpr uint64_t kSlabBytesDefault = 64 * kMiB;
inline constexpr uint64_t kSlabBytesMax = 1 * kGiB;
inline constexpr uint32_t kSlabsMax = 65'536;            // more memory needs larger slabs
inline constexpr uint64_t kTouchStepBytes = 4 * kMiB;    // populated between two turns of the loop
inline constexpr uint64_t kWarmBytesFirst = 128 * kMiB;  // populated before a server is ready
// Of the budget that PrepareSlabs leaves to others: a client cannot hoard what it has no save for.
inline constexpr uint64_t kPrepareLeavesPercent = 25;

// Replication and reading.
inline constexpr uint8_t kChunkFailuresMax = 4;    // of one chunk on any lanes; then the try ends
inline constexpr size_t kReadWindow = 8;           // outstanding reads of one source
inline constexpr uint32_t kFetchChunksMax = 1024;  // of one FetchChunks; more: InvalidArgument
inline constexpr size_t kSourcePacesMax =
    1024;                                     // servers; more: those not read lately are forgotten
inline constexpr uint32_t kReadTriesMax = 3;  // of one chunk at one source; then another source
inline constexpr uint32_t kDescribeTriesMax = 3;
inline constexpr Duration kConnectDeadline = 2s;
inline constexpr Duration kOfferDeadline = 5s;
inline constexpr Duration kWriteDeadline = 10s;
inline constexpr Duration kLaneDeadline = 1s;  // of a call of a copy while another lane is open
inline constexpr int64_t kLatenessMax = 8;     // a slice may take this many times what is expected
inline constexpr Duration kLaneWait = 100ms;   // for room on a lane, before it looks around again
// On their way to this server at once, for each of its data addresses: what fills a lane.
inline constexpr size_t kIncomingPerPath = kLaneWindowMax;
inline constexpr Duration kCreditHold = 500ms;  // of an AskCredit before it is answered anyhow
inline constexpr Duration kCreditLook = 50ms;   // between two looks who has fallen silent
inline constexpr Duration kCreditDeadline = 2s;
inline constexpr Duration kPeerSealDeadline = 10s;
inline constexpr Duration kVouchPatience = 10ms;  // of a seal with holders that answer nothing
inline constexpr Duration kReadDeadline = 2s;
inline constexpr Duration kBackoffMin = 10ms;
inline constexpr Duration kBackoffMax = 1s;

// Repair and scrubbing.
inline constexpr uint64_t kRepairRateDefault = 128 * kMiB;  // a second: a tenth of 10 Gbit/s
inline constexpr uint64_t kRepairRateMax = uint64_t{1} << 40;
inline constexpr Duration kRepairBurst = 50ms;
inline constexpr Duration kRepairPauseMax = 20ms;  // of a lane, before it looks who waits for it
inline constexpr uint64_t kScrubRateMax = uint64_t{1} << 40;
inline constexpr Duration kScrubStepMin = 50ms;
inline constexpr Duration kScrubStepMax = 1s;
inline constexpr Duration kScrubDeferMax = 1s;  // while clients or peers write

// Of the loop, before it parks: about what it takes to wake another core.
inline constexpr Duration kSpinMost = std::chrono::microseconds(100);

// The control plane.
inline constexpr uint32_t kJoinLeadersMax = 3;    // that one join may come to
inline constexpr Duration kControlDeadline = 2s;  // of one call, beyond what it may be held
inline constexpr Duration kProxyPatience = 5s;    // a client's call is repeated that long
inline constexpr uint32_t kWaitMsMax = 10'000;    // that a client may ask a call to be held
// The server's own long polls. One whose answer was lost is deaf until its deadline: to directives,
// and with them to what is retired and lies in its memory.
inline constexpr uint32_t kPollMs = 500;
inline constexpr Duration kPollLate = 1s;
inline constexpr Duration kPollPause = 20ms;  // between polls that are answered at once
inline constexpr Duration kHeartbeatDefault = 100ms;
// A lost heartbeat must not cost the next ones: placement's verdict comes after 800 ms of silence.
inline constexpr Duration kHeartbeatDeadline = 250ms;
inline constexpr uint32_t kAbortTriesMax = 20;
inline constexpr size_t kReceiptsPerCallMax = 1024;

// The persistent tier.
inline constexpr size_t kPersistWritesMax = 64;  // that wait; more: ResourceExhausted
inline constexpr size_t kPersistReadsMax = 64;   // that wait; more: ResourceExhausted
inline constexpr size_t kPersistReadThreads = 4;
inline constexpr uint64_t kPersistFileBytes = 1 * kGiB;      // of a shard; then a further file
inline constexpr uint64_t kPersistSyncBytes = 8 * kMiB;      // written back while more is written
inline constexpr uint64_t kPersistReserveBytes = 16 * kMiB;  // of the disk that no shard fills
inline constexpr Duration kPersistTendEvery = 1s;      // free space asked, a lost handle reopened
inline constexpr Duration kPersistReopenMax = 30s;     // back-off of a disk that fails
inline constexpr Duration kPersistSilenceMax = 10s;    // without progress: the tier is in trouble
inline constexpr Duration kPersistListPatience = 10s;  // at start; then it joins without the disk
inline constexpr Duration kPersistWatchEvery = 500ms;
inline constexpr Duration kPersistStopPatience = 2s;  // for a disk that hangs, at the end
inline constexpr size_t kPersistDigestsKept = 64;     // lists of shards that are being read

// Clients.
inline constexpr size_t kUploadsPerClientMax = 64;    // more: ResourceExhausted
inline constexpr size_t kRestoresPerClientMax = 64;   // and reads
inline constexpr size_t kStagesPerClientMax = 16;     // more: ResourceExhausted
inline constexpr size_t kStagesMax = 1024;            // of all clients; likewise
inline constexpr uint64_t kStageChunksMax = 131'072;  // more: InvalidArgument; the digests of all
inline constexpr size_t kClientsMax = 4096;           // more: the connection is closed
inline constexpr size_t kReclaimMax = 64;             // of one ReclaimSlabs; more: InvalidArgument
inline constexpr size_t kEventTextMax = 1024;

static_assert(kTouchStepBytes % kChunkBytes == 0);
static_assert(kSlabBytesDefault % kChunkBytes == 0);
static_assert(kSlabBytesMax % kChunkBytes == 0 && kSlabBytesDefault <= kSlabBytesMax);
static_assert(kPrepareLeavesPercent < 100);
static_assert(kReadWindow > 0 && kCreditLook < kCreditHold && kCreditHold < kLaneDeadline);
static_assert(kRepairRateDefault <= kRepairRateMax && kRepairBurst > Duration::zero());
static_assert(kScrubStepMin < kScrubStepMax && kScrubDeferMax >= kScrubStepMax);
static_assert(kBackoffMin < kBackoffMax && kBackoffMax < kConnectDeadline);
static_assert(kPersistWritesMax > 0 && kPersistReadThreads > 0 && kPersistDigestsKept > 0);
static_assert(kPersistFileBytes % kChunkBytes == 0 && kPersistSyncBytes < kPersistFileBytes);
static_assert(kPersistTendEvery < kPersistReopenMax && kPersistWatchEvery < kPersistSilenceMax);
static_assert(kFetchChunksMax * 32 < kFrameBodyBytesMax);
// An OpenShardReply holds them beside a name and a sentence.
static_assert(kStageChunksMax * 16 <= kFrameBodyBytesMax / 2);

}  // namespace gemel

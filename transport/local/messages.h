// SPDX-License-Identifier: Apache-2.0
//
// What a client says to the server of its host (docs/formats/messages.md). The client links neither
// gRPC nor Protobuf: these are our own frames, and the server passes on to placement what is its.
//
// A request is answered in the same frame type; the reply struct has the suffix Reply. An error is
// a status code in the header and a sentence in the body. "wait_ms" is how long a call may be held.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "common/digest.h"
#include "common/ids.h"
#include "common/strategy.h"

namespace gemel {

constexpr uint32_t kClientProtocolVersion = 3;

// Memory of the server given to a client: slab `slab` is the handle sent with it once; the client
// keeps its mapping (amendment 6).
struct SlabPiece {
  uint32_t slab = 0;        // index, for the life of the server's incarnation
  uint64_t offset = 0;      // bytes into the slab
  uint64_t bytes = 0;       // of the object that lie there
  bool has_handle = false;  // the next handle of this frame is this slab's memory

  static void Fields(auto& m, auto&& field) {
    field("slab", m.slab);
    field("offset", m.offset);
    field("bytes", m.bytes);
    field("has_handle", m.has_handle);
  }
};

// First message; handle: the client's own process (pidfd).
struct ClientHello {
  static constexpr std::string_view kName = "client hello";
  uint32_t version = kClientProtocolVersion;
  uint64_t pid = 0;

  static void Fields(auto& m, auto&& field) {
    field("version", m.version);
    field("pid", m.pid);
  }
};

struct ClientHelloReply {
  static constexpr std::string_view kName = "client hello reply";
  uint32_t version = kClientProtocolVersion;
  ClusterId cluster;
  ServerId server;
  Incarnation incarnation;
  std::string server_name;
  uint64_t slab_bytes = 0;
  uint64_t holder = 0;  // names what this connection is given, also to later lives of the server

  static void Fields(auto& m, auto&& field) {
    field("version", m.version);
    field("cluster", m.cluster);
    field("server", m.server);
    field("incarnation", m.incarnation);
    field("server_name", m.server_name);
    field("slab_bytes", m.slab_bytes);
    field("holder", m.holder);
  }
};

// Of connections of this process that have ended, whose memory it has unmapped: what they were
// given is this connection's now. One that is unknown or another process's is left as it is.
struct ReclaimSlabs {
  static constexpr std::string_view kName = "reclaim slabs";
  std::vector<uint64_t> holders;

  static void Fields(auto& m, auto&& field) { field("holders", m.holders); }
};

struct AcquireEpoch {
  static constexpr std::string_view kName = "acquire epoch";
  std::string job;
  EpochToken token;

  static void Fields(auto& m, auto&& field) {
    field("job", m.job);
    field("token", m.token);
  }
};

struct AcquireEpochDone {
  static constexpr std::string_view kName = "acquire epoch reply";
  EpochId epoch;

  static void Fields(auto& m, auto&& field) { field("epoch", m.epoch); }
};

enum class OnBusyPolicy : uint8_t { kWait = 0, kSkip = 1 };
enum class OpenDecision : uint8_t { kAccept = 0, kWait = 1, kSkip = 2 };

inline bool IsValid(OnBusyPolicy value) { return value <= OnBusyPolicy::kSkip; }

inline bool IsValid(OpenDecision value) { return value <= OpenDecision::kSkip; }

struct OpenShard {
  static constexpr std::string_view kName = "open shard";
  std::string job;
  EpochId epoch;
  EpochToken token;
  std::string name;
  uint32_t attempt = 0;
  uint32_t rank = 0;
  uint32_t world_size = 0;
  Digest128 layout_hash;  // of the whole job's layout: equal on all ranks
  uint64_t shard_bytes = 0;
  uint64_t layout_bytes = 0;  // leading bytes of the shard that hold its layout
  uint32_t copies = 0;
  uint32_t min_copies = 0;
  uint32_t keep_latest = 0;
  OnBusyPolicy on_busy = OnBusyPolicy::kWait;
  uint32_t wait_ms = 0;
  uint32_t deadline_ms = 0;
  uint32_t persist_every = 0;  // gemel.v1.PersistPolicy
  uint32_t persist_interval_s = 0;
  uint32_t persist_copies = 0;
  uint32_t persist_keep = 0;
  StageId stage;  // not zero: the shard is what was staged and sealed under this id
  StrategyChoice strategy = StrategyChoice::kGroup;

  static void Fields(auto& m, auto&& field) {
    field("job", m.job);
    field("epoch", m.epoch);
    field("token", m.token);
    field("name", m.name);
    field("attempt", m.attempt);
    field("rank", m.rank);
    field("world_size", m.world_size);
    field("layout_hash", m.layout_hash);
    field("shard_bytes", m.shard_bytes);
    field("layout_bytes", m.layout_bytes);
    field("copies", m.copies);
    field("min_copies", m.min_copies);
    field("keep_latest", m.keep_latest);
    field("on_busy", m.on_busy);
    field("wait_ms", m.wait_ms);
    field("deadline_ms", m.deadline_ms);
    field("persist_every", m.persist_every);
    field("persist_interval_s", m.persist_interval_s);
    field("persist_copies", m.persist_copies);
    field("persist_keep", m.persist_keep);
    field("stage", m.stage);
    field.Last("strategy", m.strategy);
  }
};

struct OpenShardReply {
  static constexpr std::string_view kName = "open shard reply";
  OpenDecision decision = OpenDecision::kAccept;
  std::string reason;              // WAIT and SKIP: for what
  SnapshotId snapshot;             // ACCEPT: with its sequence
  uint64_t upload = 0;             // names this shard on this connection
  std::vector<SlabPiece> pieces;   // in order of the shard's bytes; whole chunks but for the last
  std::vector<Digest128> digests;  // of a staged shard, one a chunk; it has no pieces to fill

  static void Fields(auto& m, auto&& field) {
    field("decision", m.decision);
    field("reason", m.reason);
    field("snapshot", m.snapshot);
    field("upload", m.upload);
    field("pieces", m.pieces);
    field("digests", m.digests);
  }
};

// Memory for a shard that has no name yet: filled by this client (ChunksFilled with its `upload`),
// sealed, and later opened under a name by any client process of this host and user. The same again
// is the same stage.
struct StageShard {
  static constexpr std::string_view kName = "stage shard";
  StageId stage;  // drawn by the client, not zero
  uint64_t shard_bytes = 0;
  uint64_t layout_bytes = 0;

  static void Fields(auto& m, auto&& field) {
    field("stage", m.stage);
    field("shard_bytes", m.shard_bytes);
    field("layout_bytes", m.layout_bytes);
  }
};

struct StageShardReply {
  static constexpr std::string_view kName = "stage shard reply";
  bool wait = false;    // no memory now: ask again
  std::string reason;   // of the wait
  uint64_t upload = 0;  // names it on this connection, apart from those of OpenShard
  std::vector<SlabPiece> pieces;

  static void Fields(auto& m, auto&& field) {
    field("wait", m.wait);
    field("reason", m.reason);
    field("upload", m.upload);
    field("pieces", m.pieces);
  }
};

// All chunks are filled and the client has dropped its writable mapping.
struct SealStage {
  static constexpr std::string_view kName = "seal stage";
  uint64_t upload = 0;

  static void Fields(auto& m, auto&& field) { field("upload", m.upload); }
};

// Frees what no snapshot took over. Also done when the connection that staged it ends.
struct DropStage {
  static constexpr std::string_view kName = "drop stage";
  StageId stage;

  static void Fields(auto& m, auto&& field) { field("stage", m.stage); }
};

// Makes ready the slabs of the next save of that size, in the background.
struct PrepareSlabs {
  static constexpr std::string_view kName = "prepare slabs";
  uint64_t bytes = 0;

  static void Fields(auto& m, auto&& field) { field("bytes", m.bytes); }
};

struct PrepareSlabsReply {
  static constexpr std::string_view kName = "prepare slabs reply";
  std::vector<SlabPiece> pieces;

  static void Fields(auto& m, auto&& field) { field("pieces", m.pieces); }
};

// Chunks [first_chunk, first_chunk + digests) are in their slabs: they may be sent to the peers.
struct ChunksFilled {
  static constexpr std::string_view kName = "chunks filled";
  uint64_t upload = 0;
  uint32_t first_chunk = 0;
  std::vector<Digest128> digests;

  static void Fields(auto& m, auto&& field) {
    field("upload", m.upload);
    field("first_chunk", m.first_chunk);
    field("digests", m.digests);
  }
};

// All chunks are filled and the client has dropped its writable mapping. Answered when the server
// has re-hashed its copy: DataLoss when it differs from what the client hashed.
struct SealShard {
  static constexpr std::string_view kName = "seal shard";
  uint64_t upload = 0;
  Digest128 root;

  static void Fields(auto& m, auto&& field) {
    field("upload", m.upload);
    field("root", m.root);
  }
};

struct AwaitCommit {
  static constexpr std::string_view kName = "await commit";
  SnapshotId snapshot;
  uint32_t rank = 0;
  uint32_t wait_ms = 0;

  static void Fields(auto& m, auto&& field) {
    field("snapshot", m.snapshot);
    field("rank", m.rank);
    field("wait_ms", m.wait_ms);
  }
};

enum class CommitState : uint8_t { kOpen = 0, kCommitted = 1, kAborted = 2 };

inline bool IsValid(CommitState value) { return value <= CommitState::kAborted; }

struct AwaitCommitDone {
  static constexpr std::string_view kName = "await commit reply";
  CommitState state = CommitState::kOpen;
  bool redundancy_full = false;
  uint32_t copies = 0;
  Digest128 root;     // of the snapshot object
  std::string why;    // what is missing, or why it was aborted
  uint32_t code = 0;  // aborted: absl::StatusCode

  static void Fields(auto& m, auto&& field) {
    field("state", m.state);
    field("redundancy_full", m.redundancy_full);
    field("copies", m.copies);
    field("root", m.root);
    field("why", m.why);
    field("code", m.code);
  }
};

// The whole attempt is given up, for all ranks.
struct AbortShard {
  static constexpr std::string_view kName = "abort shard";
  uint64_t upload = 0;
  std::string why;

  static void Fields(auto& m, auto&& field) {
    field("upload", m.upload);
    field("why", m.why);
  }
};

struct BeginRestore {
  static constexpr std::string_view kName = "begin restore";
  std::string job;
  EpochId epoch;
  EpochToken token;
  uint32_t rank = 0;
  uint32_t world_size = 0;
  uint32_t wait_ms = 0;

  static void Fields(auto& m, auto&& field) {
    field("job", m.job);
    field("epoch", m.epoch);
    field("token", m.token);
    field("rank", m.rank);
    field("world_size", m.world_size);
    field("wait_ms", m.wait_ms);
  }
};

enum class RestoreDecision : uint8_t { kChosen = 0, kWait = 1, kNeverCommitted = 2 };

inline bool IsValid(RestoreDecision value) { return value <= RestoreDecision::kNeverCommitted; }

struct RestoreShard {
  Digest128 root;
  uint64_t bytes = 0;
  uint64_t layout_bytes = 0;

  static void Fields(auto& m, auto&& field) {
    field("root", m.root);
    field("bytes", m.bytes);
    field("layout_bytes", m.layout_bytes);
  }
};

struct BeginRestoreDone {
  static constexpr std::string_view kName = "begin restore reply";
  RestoreDecision decision = RestoreDecision::kChosen;
  uint64_t restore = 0;  // names it on this connection
  uint32_t round = 0;
  SnapshotId snapshot;
  std::vector<RestoreShard> shards;  // by rank of the saved world
  std::string progress;              // WAIT: for whom
  std::vector<std::string> lost;     // what made the record move, when round > 0

  static void Fields(auto& m, auto&& field) {
    field("decision", m.decision);
    field("restore", m.restore);
    field("round", m.round);
    field("snapshot", m.snapshot);
    field("shards", m.shards);
    field("progress", m.progress);
    field("lost", m.lost);
  }
};

// Opens one committed snapshot for reading, without an epoch. Answered by BeginRestoreDone, whose
// `restore` is given to FetchChunks and ReleaseRestore; it is neither reported nor awaited.
// NotFound names what is there.
struct BeginRead {
  static constexpr std::string_view kName = "begin read";
  std::string job;
  std::string name;  // empty: the newest
  uint32_t wait_ms = 0;

  static void Fields(auto& m, auto&& field) {
    field("job", m.job);
    field("name", m.name);
    field("wait_ms", m.wait_ms);
  }
};

// What is committed of a job; an unknown job has nothing.
struct ListSnapshots {
  static constexpr std::string_view kName = "list snapshots";
  std::string job;

  static void Fields(auto& m, auto&& field) { field("job", m.job); }
};

struct ListedSnapshot {
  SnapshotId snapshot;
  uint32_t world_size = 0;
  uint64_t bytes = 0;
  int64_t committed_unix_s = 0;
  bool persisted = false;
  bool in_memory = false;

  static void Fields(auto& m, auto&& field) {
    field("snapshot", m.snapshot);
    field("world_size", m.world_size);
    field("bytes", m.bytes);
    field("committed_unix_s", m.committed_unix_s);
    field("persisted", m.persisted);
    field("in_memory", m.in_memory);
  }
};

struct ListSnapshotsReply {
  static constexpr std::string_view kName = "list snapshots reply";
  std::vector<ListedSnapshot> snapshots;  // by rising order

  static void Fields(auto& m, auto&& field) { field("snapshots", m.snapshots); }
};

struct RemoveSnapshot {
  static constexpr std::string_view kName = "remove snapshot";
  std::string job;
  std::string name;  // not empty

  static void Fields(auto& m, auto&& field) {
    field("job", m.job);
    field("name", m.name);
  }
};

// Brings chunks of one shard into memory of this host, each verified, from local slabs or peers.
struct FetchChunks {
  static constexpr std::string_view kName = "fetch chunks";
  uint64_t restore = 0;
  uint32_t shard = 0;
  uint32_t first_chunk = 0;
  uint32_t count = 0;

  static void Fields(auto& m, auto&& field) {
    field("restore", m.restore);
    field("shard", m.shard);
    field("first_chunk", m.first_chunk);
    field("count", m.count);
  }
};

struct FetchChunksReply {
  static constexpr std::string_view kName = "fetch chunks reply";
  std::vector<SlabPiece> pieces;   // one a chunk, in order; readable until ReleaseRestore
  std::vector<Digest128> digests;  // one a chunk: the client checks again what it copies
  uint64_t local_bytes = 0;        // were here already
  uint64_t peer_bytes = 0;         // came from peers for this call

  static void Fields(auto& m, auto&& field) {
    field("pieces", m.pieces);
    field("digests", m.digests);
    field("local_bytes", m.local_bytes);
    field("peer_bytes", m.peer_bytes);
  }
};

struct ReportRestore {
  static constexpr std::string_view kName = "report restore";
  uint64_t restore = 0;
  bool verified = false;
  std::vector<uint32_t> unreadable_shards;
  std::string why;

  static void Fields(auto& m, auto&& field) {
    field("restore", m.restore);
    field("verified", m.verified);
    field("unreadable_shards", m.unreadable_shards);
    field("why", m.why);
  }
};

struct AwaitRestore {
  static constexpr std::string_view kName = "await restore";
  uint64_t restore = 0;
  uint32_t wait_ms = 0;

  static void Fields(auto& m, auto&& field) {
    field("restore", m.restore);
    field("wait_ms", m.wait_ms);
  }
};

enum class RestoreOutcome : uint8_t { kPending = 0, kVerified = 1, kMoved = 2 };

inline bool IsValid(RestoreOutcome value) { return value <= RestoreOutcome::kMoved; }

struct AwaitRestoreDone {
  static constexpr std::string_view kName = "await restore reply";
  RestoreOutcome outcome = RestoreOutcome::kPending;
  std::vector<std::string> lost;
  std::string progress;

  static void Fields(auto& m, auto&& field) {
    field("outcome", m.outcome);
    field("lost", m.lost);
    field("progress", m.progress);
  }
};

struct ReleaseRestore {
  static constexpr std::string_view kName = "release restore";
  uint64_t restore = 0;

  static void Fields(auto& m, auto&& field) { field("restore", m.restore); }
};

// A reply without fields.
struct Acknowledged {
  static constexpr std::string_view kName = "acknowledgement";

  static void Fields(auto&, auto&&) {}
};

}  // namespace gemel

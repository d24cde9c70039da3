// SPDX-License-Identifier: Apache-2.0
//
// State of the manager: members, jobs, attempts, committed snapshots, restores. Plain data; the
// rules are in the files named after protocol events, all methods of PlacementCore (core.h).
//
// Thread safety: one loop.
// Invariants:
//   (1) a MemberEntry's held objects and records are of its present incarnation;
//   (2) an Attempt's receipts may name incarnations that are gone: whoever counts filters;
//   (3) Job::lock is held around every MetaStore transaction that touches the job.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "common/digest.h"
#include "common/ids.h"
#include "common/sync.h"
#include "common/time.h"
#include "placement/manager/stored.h"
#include "placement/manager/wire.h"
#include "placement/model/retention.h"

namespace gemel {

// Bounds; what happens at each is said where it is used.
inline constexpr size_t kDirectivesMax = 32'768;        // queued for one member: it must join again
inline constexpr size_t kDirectivesReplyMax = 256;      // in one reply
inline constexpr size_t kDirectiveBytesMax = 8u << 20;  // in one reply
inline constexpr size_t kFinishedMax = 64;  // ended attempts of a job that are remembered
inline constexpr size_t kEndedStored = 16;  // those of them that the store keeps
inline constexpr size_t kNamesMax = 4096;   // names of an epoch, and skips, that are remembered
inline constexpr size_t kPullsMax = 8;      // repairs under way to one member
inline constexpr size_t kPullsCalmMax = 4;  // those of them that are not urgent
inline constexpr size_t kJobsMax = 65'536;
inline constexpr size_t kManifestsKept = 4;  // of a job's newest snapshots, when nothing needs them
inline constexpr size_t kReadsMax = 1024;    // pins of readers on one job; more: ResourceExhausted
inline constexpr size_t kPersistsMax = 4;    // shards being written by one member's tier
inline constexpr uint32_t kPersistKeepDefault = 2;  // persisted snapshots of a job that keeps few
static_assert(kPersistKeepDefault > 0, "an older one goes only after a newer one is whole");
static_assert(kPersistsMax <= kDirectivesReplyMax);
static_assert(kReadsMax > 0);
static_assert(kDirectivesReplyMax <= kDirectivesMax);
static_assert(kPullsMax <= kDirectivesReplyMax, "one reply can hold all repairs of a member");
static_assert(kPullsCalmMax < kPullsMax, "the last copy of a shard never waits for calm ones");
static_assert(kManifestsKept > 0, "a restore begins with the newest one's");
inline constexpr Duration kDirectiveResend = 500ms;
inline constexpr Duration kRepairRetryMin = 1s;  // after a pull that failed, at the same member
inline constexpr Duration kRepairRetryMax = 30s;
static_assert(kRepairRetryMin < kRepairRetryMax);

// What a snapshot is looked up by: job and order.
struct SnapshotKey {
  std::string job;
  EpochId epoch;
  uint64_t sequence = 0;

  friend auto operator<=>(const SnapshotKey&, const SnapshotKey&) = default;
};

inline SnapshotKey KeyOf(const SnapshotId& id) { return {id.job, id.epoch, id.sequence}; }

inline model::SnapshotOrder OrderOf(const EpochId& epoch, uint64_t sequence) {
  return {.epoch = {.generation = epoch.generation, .counter = epoch.counter},
          .sequence = sequence};
}

// A sealed object that a member holds.
struct HeldCopy {
  SnapshotId snapshot;
  Digest128 root;
  uint64_t bytes = 0;
  uint64_t layout_bytes = 0;
  EpochToken token;
};

struct QueuedDirective {
  using Done = std::function<void(const pb::DirectiveResult&)>;

  pb::Directive body;                           // without the manifest
  std::shared_ptr<const std::string> manifest;  // shared by the directives of all holders
  Done done;  // with the result; never when the incarnation goes first
};

struct MemberEntry {
  explicit MemberEntry(Loop* loop) : wake(loop) {}

  MemberRecord record;
  uint64_t version = 0;   // of its key in the MetaStore
  bool reported = false;  // joined with its inventory since this manager started
  bool must_rejoin = false;
  uint64_t join = 0;         // number of the join that was taken last, of this incarnation
  bool registering = false;  // of a newer incarnation: receipts of this one count no more
  std::optional<TimePoint> suspect_since;
  TimePoint last_heard{};
  TimePoint dead_since{};
  bool probing = false;
  bool probe_answered = false;  // the newest probe, within this suspicion
  bool deaf = false;            // its heartbeats come, and it says that the answers do not reach it
  uint64_t used_bytes = 0;
  uint64_t lag_ms = 0;
  uint64_t map_version = 0;  // the newest that it has, by its last heartbeat

  std::map<SnapshotKey, std::map<uint32_t, HeldCopy>> held;
  std::set<SnapshotKey> records;                             // commit records on its disk
  std::map<SnapshotKey, std::map<uint32_t, HeldCopy>> disk;  // shards in its persistent tier
  std::set<SnapshotKey> marked;                              // told that PERSISTED is durable
  size_t persists = 0;                                       // PersistShards under way
  std::string tier_trouble;
  uint64_t tier_free_bytes = 0;  // 0: it has no tier, or a full one
  bool has_generation = false;   // on its disk; until a majority of the recovery has it
  bool disk_unknown = false;     // it joined before its tier was read: `disk` may lack something
  uint64_t dropping_bytes = 0;   // told to drop, not yet confirmed
  size_t pulls = 0;
  uint64_t pulling_bytes = 0;

  std::deque<QueuedDirective> directives;  // not acknowledged; ids ascend
  uint64_t next_directive = 0;
  uint64_t last_sent = 0;  // highest id in a reply
  TimePoint last_sent_at{};
  WaitQueue wake;

  bool alive() const { return !record.dead; }

  // False: servers named its id in a recovery, and it has not been heard since.
  bool known() const { return !record.data_address.empty(); }

  bool in_service() const { return alive() && known(); }
};

struct SlotReceipt {
  ServerId server;
  Incarnation incarnation;

  friend bool operator==(const SlotReceipt&, const SlotReceipt&) = default;
};

// One rank's shard of an open attempt.
struct RankSlot {
  bool opened = false;
  std::optional<ServerId> owner;  // the rank's local server, first holder
  Incarnation owner_incarnation;
  uint64_t bytes = 0;
  uint64_t layout_bytes = 0;
  std::vector<SlotReceipt> holders;  // planned; the incarnations that were told
  std::vector<SlotReceipt> receipts;
  std::optional<Digest128> root;
  uint32_t copies = 0;
  bool enough = false;
  bool full = false;
  bool unsent = false;  // the owner has no upload of it any more, and copies are pulled
  bool pulled = false;  // nobody sends it: holders pull it from those that have it
  std::map<ServerId, TimePoint> pulls;  // when to be told again; kTimeNever: under way
  uint32_t plan = 0;                    // grows when the holders change
  uint32_t plan_told = 0;               // last told to the rank's server
};

enum class AttemptState { kOpen, kCommitting, kCommitted, kAborting, kAborted };

// One attempt to save one snapshot. Shared: calls wait on it across its end.
// Local copies of the ranks of an attempt that have yet to open: as of the newest commit when the
// first rank opened; before the first commit, evenly over the servers.
struct ExpectedCopies {
  struct Home {
    uint32_t member = 0;
    uint64_t bytes = 0;  // 0: at no member of the plan
  };

  uint64_t plan = 0;             // number of the plan whose members these are; 0: of none yet
  std::vector<Home> homes;       // by rank; empty before the first commit
  std::vector<uint64_t> bytes;   // by member, of the homes
  std::vector<uint32_t> opened;  // by member: ranks that did
  uint32_t coming = 0;           // ranks that did not
};

struct Attempt {
  explicit Attempt(Loop* loop) : changed(loop) {}

  OpenRecord record;
  uint64_t version = 0;  // of its key in the MetaStore
  TimePoint deadline{};
  bool recovered = false;  // loaded by a restarted manager: sizes come from receipts
  AttemptState state = AttemptState::kOpen;
  absl::Status why;          // of an abort
  absl::Status store_error;  // what keeps a commit or an abort from becoming durable
  std::vector<RankSlot> slots;
  uint32_t opened_count = 0;
  uint32_t enough_count = 0;
  uint32_t full_count = 0;
  std::map<ServerId, uint64_t> reserved;  // bytes of this attempt on each member
  ExpectedCopies expected;
  bool pulls_sealed = false;     // a slot is `pulled`
  bool members_changed = false;  // while it was committing
  WaitQueue changed;

  const SnapshotId& id() const { return record.snapshot; }

  bool open() const { return state == AttemptState::kOpen || state == AttemptState::kCommitting; }
};

// How an attempt ended, for callers that ask late.
struct Finished {
  SnapshotId id;
  bool committed = false;
  absl::Status why;
  uint32_t copies = 0;
  bool full = false;
  Digest128 root;
};

// Which commits of a job go to disk by themselves (gemel.v1.PersistPolicy).
struct PersistPolicy {
  uint32_t every = 0;
  Duration interval{};  // 0: not by time
};

// One try to bring a committed snapshot to disk. It pins the snapshot.
struct PersistRun {
  uint64_t number = 0;   // tells the results of an earlier try apart
  TimePoint advanced{};  // when it began, or the last shard was done
  uint32_t copies = 1;
  std::set<std::pair<uint32_t, ServerId>> writing;
  std::map<std::pair<uint32_t, ServerId>, std::string> failed;  // why
  uint32_t done = 0;  // shards with enough persist receipts
  uint64_t done_bytes = 0;
  bool recording = false;      // PERSISTED is being written
  TimePoint record_from{};     // not before: the MetaStore refused it
  std::string record_refused;  // why
  std::string waits_for;
};

// Copies of a job that lie elsewhere than its strategy puts them, for lack of room there. Kept for
// the epoch and the map they were decided under, so that saves do not move to and fro with every
// byte; soft state.
struct Elsewhere {
  EpochId epoch;
  uint64_t map_version = 0;
  uint32_t copies = 0;
  StrategyChoice strategy = StrategyChoice::kGroup;
  std::map<uint32_t, std::vector<ServerId>> holders;  // by rank; its own server first
};

// A member could not take a copy: it is asked again later, another one now.
struct RepairFailure {
  TimePoint until{};
  uint32_t tries = 0;
  std::string why;
};

// A copy on its way to a member's disk, because the snapshot has too few there.
enum class Rewrite : uint8_t { kPulling, kWriting };

struct Committed {
  model::CommitRecord record;
  std::string encoded;
  std::shared_ptr<const std::string> manifest;    // shared with directives; null until known
  std::shared_ptr<const model::Manifest> parsed;  // shared with calls under way
  bool told = false;                      // record on the disk of enough holders (amendment 7)
  bool full = false;                      // every shard at full redundancy
  uint32_t fewest = 0;                    // copies of the shard with the fewest
  bool manifest_idle = false;             // let go: every copy had its committed root
  bool leaving = false;                   // a transaction that takes it away is under way: no pins
  bool in_memory = true;                  // false: retired there, kept on disk
  bool persisted = false;                 // PERSISTED is durable (amendment 12)
  PersistPolicy persist_policy;           // of its writer; none after a restart of the manager
  bool persist_due = false;               // to be begun as soon as its job's turn comes
  std::optional<PersistRun> persist;      // under way
  std::string persist_refused;            // why the last try was given up
  std::optional<ServerId> fetching_from;  // a FetchManifest is under way
  std::optional<ServerId> fetched_from;   // who was asked last: another one is next
  std::set<ServerId> without_manifest;    // they were asked and do not have it, or not this one
  std::vector<SnapshotId> replaced;       // dropped from the servers once this one is told
  std::map<std::pair<uint32_t, ServerId>, bool> pulls;  // repairs under way: urgent?
  std::map<std::pair<uint32_t, ServerId>, Rewrite> rewrites;
  std::map<std::pair<uint32_t, ServerId>, RepairFailure> repair_failures;
  bool disk_settled = false;   // persisted, and every shard has its copies on disk
  std::set<ServerId> storing;  // StoreCommit is under way there
};

struct RestoreState {
  RestoreRecord record;
  uint64_t version = 0;  // of its key in the MetaStore; 0: not there
  std::set<uint32_t> unreadable;
  std::string why;  // last report of an unreadable shard
};

// A reader's pin: soft state, gone with the incarnation of the reader's server.
struct ReadPin {
  std::string job;
  model::SnapshotOrder order;
  ServerId reader;
  Incarnation incarnation;
};

struct Job {
  Job(Loop* loop, std::string name) : name(std::move(name)), lock(loop, 1), changed(loop) {}

  const std::string name;
  JobRecord record;
  uint64_t version = 0;  // of its key; 0: not there
  std::map<EpochToken, EpochId> tokens;
  std::map<uint64_t, std::shared_ptr<Attempt>> attempts;  // open, by sequence
  std::map<model::SnapshotOrder, Committed> snapshots;
  std::map<std::pair<std::string, uint32_t>, std::string> skips;  // of the epoch: why
  std::map<std::string, uint32_t> attempt_of_name;                // highest seen in the epoch
  std::deque<std::string> names_seen;  // keys of attempt_of_name, oldest first
  std::deque<Finished> finished;
  std::optional<RestoreState> restore;
  std::map<model::SnapshotOrder, uint32_t> reads;  // how many readers pin it
  std::vector<ServerId> homes;  // by rank: the server it saved at, as of the newest commit seen
  std::vector<uint64_t> home_bytes;    // by rank: its shard of that commit
  std::map<ServerId, ServerId> heirs;  // of homes that are gone: who takes over the slot
  Elsewhere elsewhere;
  uint32_t committed_since_persist = 0;
  std::optional<TimePoint> persist_clock;  // when the last persist began, or the first commit was
  Semaphore lock;
  WaitQueue changed;
  bool maintaining = false;
  bool maintain_again = false;
};

}  // namespace gemel

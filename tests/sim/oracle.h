// SPDX-License-Identifier: Apache-2.0
//
// Oracle: what must be true of a simulated cluster. Content is a function of (job, epoch, step,
// world, rank), so it is recomputed and never stored: stale, torn and misplaced bytes all differ
// from it. The first lines that break something are kept in violations().
//
// Checked online (in brackets: numbers of the list of invariants):
//   content      a restored shard equals the oracle's bytes for the step that its snapshot names
//                [I3]; so does each that is read by name, and each restore after losses [I2]
//   one step     all ranks of an epoch start from the same snapshot [I1]
//   not lost     a restore gives at least the newest snapshot that anyone was told is committed,
//                unless at least `copies` servers lost memory, or were declared dead, since the
//                newest commit at full redundancy was opened [I2]
//   silent       one that gives less says what was lost; DATA_LOSS is told only then [I14]
//   honest loss  a shard that is written down as lost is held, whole, in the memory of no member
//                that placement hears; and some shard of its snapshot is nowhere, on disk neither:
//                not with one that it hears, not with one that it has yet to hear, and on no disk
//                whose server joined with it, read or not [I14]
//   latest       in the MetaStore, after every transaction: `latest`, the epoch, the sequence
//                numbers, the map's version, the generation and the leader's term never go back,
//                and `latest` names a commit record that is there [I4, I5]
//   token        a token's epoch is for ever, and no two tokens share one
//   once         a (epoch, name, attempt) is committed once, and only what was open is [I13]
//   shape        a commit record has world, layout and copies of its open [I1]
//   freed        a snapshot leaves the MetaStore only beside a newer one that has all its
//                copies, in as many domains as there are for them, or by a person [I7]
//   pinned       and not while the ranks of the present epoch restore from it
//   copies       when a commit record is written, min_copies servers have each shard sealed and
//                whole, in as many domains as there are for them; memories that were lost a
//                moment ago may have been among them [I2, I9]
//   whole        a sealed shard equals its digests as long as nobody damages it [I3]
//   dropped      no server lets go of a shard that is needed while its record is in the MetaStore
//   odd rank     a save whose ranks disagree about the layout is never committed [I1]
//   on record    when COMMITTED is told, min_copies disks have the record, as far as no disk was
//                replaced or put back
//   on disk      PERSISTED is written with a commit record and never goes back, and is taken away
//                only beside newer ones that are whole on disk; every shard is on persist_copies
//                disks when it is written; after a power cut a restore gives at least the newest
//                that was PERSISTED then, or committed and whole on the disks together
//   kept         what is newest, and whole on the disks together, is nowhere given up for lost by
//                whoever drops it there
//   believed     what the manager that leads counts as sealed in the memory of a server's present
//                life is there [I8, I9]
//   planned      the holders of a shard that is being saved are in as many domains as there are
//                for them [I9]
//   drained      a server that may be stopped, as a drain says, is not the only one with a shard of
//                what is committed, nor its disk with one of what is PERSISTED
//   fence        no payload lands in a shard that is sealed [I6]
//   verified     a rank counts as verified in a round of a restore only by what it read in it [I1]
//   recovered    after the MetaStore was lost, a majority of the last members has reported, or a
//                person has accepted the loss; what servers report is what was committed, byte
//                for byte, and every epoch is above all that were acquired (amendment 7);
//                "not lost" and "silent" hold across it
//   fenced       no commit record of a superseded epoch is ever written, and no commit is told with
//                a sequence above what a newer epoch restored from [I6]
//   one writer, budget   by GroundTruth, at every tick [I10]
//
// Checked at the end of a run, by Convergence: copies as placement counts them are those that there
// are [I8], in different domains where that can be [I9], repairs end [I11], nothing is left over.
// And the metadata calls of all trainers are linearisable [I15] (lincheck/job_model.h), until the
// MetaStore is lost.
// Not checked: I12 (there are no tenants yet).
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "common/bytes.h"
#include "common/ids.h"
#include "placement/manager/beliefs.h"
#include "placement/manager/stored.h"
#include "placement/model/cluster_map.h"
#include "placement/store/sim_store.h"
#include "tests/sim/ground_truth.h"
#include "tests/sim/lincheck/job_model.h"
#include "tests/sim/plan.h"

namespace gemel::sim {

// What the content of a shard is a function of.
struct ShardPlace {
  std::string job;
  EpochId epoch;
  uint64_t step = 0;
  uint32_t world = 0;
  uint32_t rank = 0;
};

class Oracle {
 public:
  // `truth` and `cluster` outlive it.
  Oracle(Cluster* cluster, const GroundTruth* truth, const std::vector<JobPlan>& jobs);

  // The history of metadata calls, as its clients saw them; each life of a process has a number.
  JobRecorder* calls() { return &calls_; }

  uint32_t NextProcess() { return ++processes_; }

  // At the end of a run: is there an order of all calls that explains every answer?
  // `ghosts`: calls were executed once more, late (JobModel).
  void CheckCalls(bool ghosts);

  // Too many calls of unknown outcome: CheckCalls() came to no verdict.
  bool undecided() const { return undecided_; }

  // Bytes of a shard: at least 1, different for epochs, steps and ranks.
  uint64_t ShardBytes(const ShardPlace& place) const;
  static void FillContent(const ShardPlace& place, MutableByteSpan out);

  // A rank was told that it is committed.
  void Committed(const SnapshotId& snapshot, bool full);
  // The epoch was acquired: what was told before must not be lost to it.
  void EpochAcquired(const std::string& job, const EpochId& epoch);
  // `snapshot` is empty when the restore said that the job never committed; `told_lost`: it said
  // what was lost.
  void Restored(const std::string& job, const EpochId& epoch, uint32_t rank,
                const std::optional<SnapshotId>& snapshot, bool told_lost);
  // The restore of an epoch said DATA_LOSS.
  void ToldDataLoss(const std::string& job, const EpochId& epoch);
  void CheckContent(const SnapshotId& snapshot, uint32_t world, uint32_t rank, ByteSpan bytes);

  // A server's memory is gone, or some of it is damaged.
  void MemoryLost(uint32_t server);
  // The MetaStore is lost, and a recovery from servers begins.
  void StoreLost();
  // A person has it go on without servers that it did not hear.
  void LossAccepted();
  // It has joined with the disk that it has.
  bool MayRecoverFrom(uint32_t server) const;
  // What was on the disk of this server is gone, old or damaged.
  void DiskLost(uint32_t server);

  // A test flips bits of it.
  void Damaged(const Object& object) { damaged_.insert(object.shard()); }

  void DamagedOnDisk(uint32_t server, const ShardId& shard);

  // Of memory, at every tick before anything strikes.
  void CheckHolders();

  // A manager says that this server may be stopped, with its disk.
  void Drained(uint32_t server, const ServerId& id);

  // A rank was let in with another layout than the rest of its save.
  void OddRank(const SnapshotId& snapshot) { odd_.insert(snapshot.ToString()); }

  // A rank tries to be let in so.
  void OddRankTried() { odd_tries_ += 1; }

  uint64_t odd_tries() const { return odd_tries_; }

  // A rank of this epoch is about to say that it has verified what it read of the snapshot.
  void Reporting(const EpochId& epoch, uint32_t rank, const SnapshotId& snapshot) {
    jobs_.at(snapshot.job).epochs[epoch].reporting[rank].insert(snapshot.sequence);
  }

  // May this server's memory go, and every job keep what it was told?
  bool CanLose(uint32_t server) const;
  // All memory is gone at once: what was told may be lost, what is on disk may not.
  void PowerCut();
  // No job has committed at full redundancy since the last power cut: disks are all there is.
  bool OnDisksOnly() const;

  // Losses went beyond the placement's tolerance: "not lost" is no longer checked.
  void Overkill() { overkill_ = true; }

  // A person removes the job.
  void Removing(const std::string& job);
  void RemovalEnded(const std::string& job);

  bool IsRemoving(const std::string& job) const { return jobs_.at(job).removal_runs; }

  // Something that is committed would survive a power cut.
  bool IsOnDisk(const std::string& job) const;

  // Something newer than what is PERSISTED is whole on the disks.
  bool IsToBePersisted(const std::string& job) const {
    return truth_->NewestWholeOnDisks(job) > newest_persisted(job);
  }

  // What was told of every job has each shard in the memory of a server that is not one of these.
  bool IsKeptBeside(const std::vector<uint32_t>& servers) const;

  // Two committed snapshots at least.
  bool HasOlder(const std::string& job) const { return jobs_.at(job).stored.size() > 1; }

  // Any shard of the newest committed snapshot.
  std::optional<ShardId> ShardOfLatest(const std::string& job, uint64_t draw) const;

  bool overkill() const { return overkill_; }

  void Violation(std::string what);

  const std::vector<std::string>& violations() const { return violations_; }

  uint64_t commits() const { return commits_; }

  uint64_t restores() const { return restores_; }

  uint64_t persists() const { return persists_; }

  uint64_t losses_told() const { return losses_told_; }

  // A call of a superseded epoch: not OK, or it is a violation already.
  void StaleTried(const absl::Status& status) {
    stale_refused_ += status.code() == absl::StatusCode::kFailedPrecondition ? 1 : 0;
  }

  // That were answered, and refused.
  uint64_t stale_refused() const { return stale_refused_; }

  // As the MetaStore has it.
  EpochId newest_epoch(const std::string& job) const { return jobs_.at(job).record.epoch; }

  uint64_t newest_told(const std::string& job) const { return jobs_.at(job).newest_told; }

  // When the newest that was told was opened; long ago when there is none.
  TimePoint newest_opened_at(const std::string& job) const {
    const auto found = jobs_.at(job).opened_at.find(newest_told(job));
    return found == jobs_.at(job).opened_at.end() ? TimePoint() : found->second;
  }

  uint64_t newest_persisted(const std::string& job) const {
    const std::set<uint64_t>& persisted = jobs_.at(job).persisted;
    return persisted.empty() ? 0 : *persisted.rbegin();
  }

 private:
  struct Epoch {
    uint64_t floor = 0;  // newest that was told when it was acquired
    bool restored = false;
    bool told_lost = false;
    bool exposed = false;  // too much was lost, or away, when its record was written
    std::optional<SnapshotId> from;
    std::map<uint32_t, std::set<uint64_t>> reporting;  // sequences that a rank has verified
  };

  // A shard that a manager knew to be on a disk.
  struct OnDisk {
    uint64_t term = 0;
    Incarnation incarnation;
    ShardId shard;
  };

  // A snapshot each of whose shards was on a disk; `disks` is empty otherwise.
  struct Finished {
    std::vector<OnDisk> disks;
    bool enough = false;  // on as many as the job asks for
    bool alone = false;   // some shard was in no memory
  };

  struct Job {
    JobPlan plan;
    JobRecord record;  // as last written
    std::map<EpochId, Epoch> epochs;
    uint64_t newest_told = 0;      // sequence
    uint64_t told_honestly = 0;    // the same, but for what was told as lost: what must not go
                                   // silently
    TimePoint safe_since{};        // the newest full commit was opened; a power cut was
    uint64_t newest_full = 0;      // sequence
    bool on_disks = false;         // nothing was committed in full since a power cut
    uint64_t removed_through = 0;  // sequences that a person may have removed
    bool removing = false;         // by a person
    bool removal_runs = false;     // and an epoch that is acquired may come before it
    std::set<uint64_t> persisted;  // sequences that are PERSISTED
    std::map<uint64_t, std::string> persisted_names;  // and ever were
    std::map<uint64_t, OpenRecord> open;              // by sequence
    std::map<uint64_t, TimePoint> opened_at;          // of every sequence
    std::set<uint64_t> stored;                        // sequences that have a commit record
    std::map<std::string, SnapshotId> by_text;        // every snapshot that was committed
    std::map<uint64_t, SnapshotId> by_sequence;       // the same
    std::map<uint64_t, std::string> records;          // and its record, encoded
    std::set<uint64_t> retired;                       // whose record has left the store
    uint64_t before_recovery = 0;                     // sequences that a lost store may have known
    std::set<std::tuple<EpochId, std::string, uint32_t>> named;  // committed ones
    std::map<EpochId, EpochToken> tokens;
    std::set<std::string> losses;  // sentences that were examined
    uint64_t whole_on_disks = 0;   // sequence, at the last look
    bool disks_alone = false;      // then: not all of the newest was in memory
    Finished finished;             // the newest, as the manager knew it at the last tick
  };

  // Who has a shard, sealed and whole; who may have had it until a moment ago; who has not.
  struct Standing {
    std::vector<uint32_t> holders;
    std::vector<uint32_t> excused;
    std::vector<uint32_t> without;

    std::vector<uint32_t> All() const {
      std::vector<uint32_t> all = holders;
      all.insert(all.end(), excused.begin(), excused.end());
      return all;
    }
  };

  using Losses = std::vector<std::pair<TimePoint, uint32_t>>;  // when, and whose
  using Sealed = std::vector<std::shared_ptr<Object>>;

  // What one life of a server had sealed.
  struct Held {
    uint64_t pid = 0;
    std::map<ShardId, std::weak_ptr<Object>> sealed;
  };

  // Watches every transaction that is applied to the store: oracle_store.cc.
  void Applied(const Txn& txn);
  void PutApplied(const std::string& key, const std::string& value);
  void DeleteApplied(const std::string& key);
  void CheckLeaders();
  void LeaderWritten(const std::string& key, const std::string& value);
  void ClusterWritten(const std::string& key, const std::string& value);
  void TokenWritten(const std::string& key, const std::string& value);
  void OpenWritten(const std::string& key, const std::string& value);
  void SnapshotWritten(const std::string& key, const std::string& value);
  bool IsFromBefore(const SnapshotId& id) const;
  void CheckRecovered(const Job& job, const SnapshotId& id, const std::string& value);
  void SnapshotDeleted(const std::string& key);
  void PersistedWritten(const std::string& key, const std::string& value);
  void PersistedDeleted(const std::string& key);
  void RestoreWritten(const std::string& key, const std::string& value);
  void JobWritten(const std::string& key, const std::string& value);
  void MemberWritten(const std::string& key, const std::string& value);
  bool IsLost(const SnapshotId& id) const;
  bool IsThere(const ShardId& shard) const;
  std::vector<uint32_t> KeptCopiesOf(const ShardId& shard) const;
  bool IsToBeHeard(uint32_t server) const;
  void LookAtDisks();
  void CheckKept(Job* job);
  bool IsInAMemory(const ShardId& shard) const;
  bool IsOnADisk(const ShardId& shard) const;
  void CheckDrained(uint32_t server, const SnapshotId& id, TimePoint lately);
  // oracle_beliefs.cc
  void CheckBeliefs();
  bool IsCounted(const SnapshotId& id) const;
  void CheckFinished(const PlacementBeliefs& beliefs, const std::map<Incarnation, uint32_t>& lives);
  void CheckWritten(const PlacementBeliefs& beliefs, const std::map<Incarnation, uint32_t>& lives);
  Finished FinishedOf(const Job& job, const PlacementBeliefs& beliefs) const;
  void CheckPlanned(const std::vector<PlacementBeliefs::Planned>& plans);
  void CheckLanded(const std::string& node, ByteSpan landed);
  void CheckMajority();
  // oracle_holders.cc
  std::optional<model::CommitRecord> LatestRecord(const Job& job) const;
  bool IsExcused(const Losses& lost, uint32_t server, TimePoint since) const;
  bool IsStarting(uint32_t server) const;
  static bool IsWhole(const Object& object);
  // oracle_copies.cc
  Standing StandingOf(const ShardId& shard, TimePoint opened) const;
  bool HasJoined(uint32_t server) const;
  std::vector<std::vector<model::Member>> MembersLately() const;
  void CheckCopies(const Job& job, const model::CommitRecord& record, uint32_t level);
  bool IsFull(const Job& job, const model::CommitRecord& record, bool excuse) const;
  void CheckRetired(const Job& job, const std::string& key, uint64_t sequence);
  // oracle_holders.cc
  bool IsWholeOnDisks(const Job& job, const model::CommitRecord& record, size_t copies) const;
  void CheckRetiredOnDisk(const Job& job, const std::string& key, uint64_t sequence);
  void CheckPinned(const Job& job, const std::string& key, uint64_t sequence);
  void CheckSealed(uint32_t server, const Sealed& sealed, bool all);
  void CheckDropped(uint32_t server, const Sealed& sealed);
  void CheckLoss(Job* job, const std::string& sentence);

  static void MayBeGone(Job* job);
  std::set<uint32_t> CountedDead() const;
  size_t Exposure(const Job& job) const;
  bool MayLose(const Job& job) const;
  // A transaction that is applied now was not decided before.
  TimePoint DecidedSince() const;
  bool IsDiskAway(const Job& job) const;

  Cluster* const cluster_;
  const GroundTruth* const truth_;
  std::map<std::string, Job> jobs_;
  ClusterRecord cluster_record_;
  JobRecorder calls_;
  uint32_t processes_ = 0;
  bool undecided_ = false;
  uint64_t term_ = 0;           // of the newest leader; counted anew in an empty store
  std::string leader_;          // its name
  bool recovering_ = false;     // the MetaStore was lost, and no cluster is in it yet
  bool loss_accepted_ = false;  // of this recovery
  TimePoint looked_at_disks_{};
  std::map<ShardId, TimePoint> misplanned_;                           // since when
  std::map<std::pair<Incarnation, ShardId>, TimePoint> gone_;         // since when, and counted
  std::map<std::pair<uint32_t, ShardId>, TimePoint> rotten_on_disk_;  // since when, heard
  PlacementBeliefs believed_;                                         // at the last tick
  TimePoint believed_at_{};
  Losses lost_;           // servers' memories
  Losses memories_lost_;  // all of them; those above are counted anew after a power cut
  Losses disks_lost_;
  std::set<ShardId> damaged_;
  bool late_store_ = false;  // transactions may be applied late
  uint64_t odd_tries_ = 0;
  std::map<uint32_t, Held> held_;                                   // by server, at the last tick
  std::map<uint32_t, std::map<ShardId, TimePoint>> on_disk_since_;  // by server, as far as seen
  std::map<std::string, std::map<std::string, TimePoint>> alive_since_;  // by name and key
  std::map<std::string, Incarnation> stored_life_;                       // by name
  std::map<std::string, std::string> stored_names_;                      // by id
  std::map<std::string, TimePoint> drained_;                             // by id; until when
  std::set<std::string> odd_;  // snapshots whose ranks disagree
  uint64_t ticks_ = 0;
  std::vector<std::string> violations_;
  uint64_t persists_ = 0;
  uint64_t commits_ = 0;
  uint64_t restores_ = 0;
  uint64_t losses_told_ = 0;
  uint64_t stale_refused_ = 0;
  bool overkill_ = false;
};

}  // namespace gemel::sim

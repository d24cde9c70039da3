// SPDX-License-Identifier: Apache-2.0
//
// PlacementCore: the methods behind PlacementManager, one file a protocol event. A method that
// waits looks members, jobs and attempts up again afterwards, or holds the job's lock.
//
// Thread safety: one loop. Ownership: PlacementManager owns it; spawned tasks hold gate_ passes.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "common/status_macros.h"
#include "placement/manager/backlog.h"
#include "placement/manager/beliefs.h"
#include "placement/manager/leadership.h"
#include "placement/manager/manager.h"
#include "placement/manager/state.h"
#include "placement/model/admission.h"
#include "placement/model/assignment.h"
#include "placement/model/receipts.h"
#include "placement/model/repair.h"

namespace gemel {

// The live members as placement/model sees them, and the groups for one number of copies and one
// strategy.
struct Plan {
  uint64_t number = 0;  // no two have the same
  std::vector<ServerId> ids;
  std::vector<model::Member> members;
  std::map<ServerId, uint32_t> index;
  model::Assignment assignment;
  model::Assignment slots;  // the assignment, and where ranks on draining servers keep copies
  std::unique_ptr<model::RepairPlanner> repairs;
  std::map<uint32_t, model::DomainRule> rules;  // by level

  const model::DomainRule& RuleAt(uint32_t level);
  // Once it is where it stays. REQUIRES: the assignment is built.
  void AddRepairs();
};

// Holds a lock (a semaphore of one permit) until it goes out of scope.
class LockHold {
 public:
  explicit LockHold(Semaphore* lock) : lock_(lock) {}

  LockHold(LockHold&& other) noexcept : lock_(std::exchange(other.lock_, nullptr)) {}

  LockHold& operator=(LockHold&&) = delete;

  ~LockHold() {
    if (lock_ != nullptr) {
      lock_->Release(1);
    }
  }

 private:
  Semaphore* lock_;
};

class PlacementCore {
 public:
  template <typename T>
  using Answer = Task<absl::StatusOr<T>>;
  using CallPtr = std::shared_ptr<RpcCall>;

  // `leadership` outlives it.
  PlacementCore(PlacementOptions options, PlacementSeams seams, Leadership* leadership);
  ~PlacementCore();

  // load.cc, core.cc
  Task<absl::Status> Load();
  void Begin();
  Task<absl::StatusOr<std::string>> Handle(CallPtr call, std::string method, std::string request);
  Task<void> Stop();
  std::string Describe() const;
  PlacementBeliefs Beliefs() const;

  const ClusterId& cluster() const { return cluster_.cluster; }

 private:
  using Handler = Task<absl::StatusOr<std::string>> (PlacementCore::*)(CallPtr, std::string);
  static const std::map<std::string, Handler>& Handlers();
  template <typename Request, typename Reply,
            Answer<Reply> (PlacementCore::*method)(CallPtr, Request)>
  Task<absl::StatusOr<std::string>> Serve(CallPtr call, std::string raw);

  // Calls, one file each or two.
  Answer<pb::JoinReply> Join(CallPtr call, pb::JoinRequest request);
  Answer<pb::HeartbeatReply> Heartbeat(CallPtr call, pb::HeartbeatRequest request);
  Answer<pb::DirectivesReply> Directives(CallPtr call, pb::DirectivesRequest request);
  Answer<pb::AcquireEpochReply> AcquireEpoch(CallPtr call, pb::AcquireEpochRequest request);
  Answer<pb::OpenReply> Open(CallPtr call, pb::OpenRequest request);
  Answer<pb::ReportReceiptsReply> ReportReceipts(CallPtr call, pb::ReportReceiptsRequest request);
  Answer<pb::AwaitCommitReply> AwaitCommit(CallPtr call, pb::AwaitCommitRequest request);
  Answer<pb::AbortSnapshotReply> AbortSnapshot(CallPtr call, pb::AbortSnapshotRequest request);
  Answer<pb::BeginRestoreReply> BeginRestore(CallPtr call, pb::BeginRestoreRequest request);
  Answer<pb::ReportRestoreReply> ReportRestore(CallPtr call, pb::ReportRestoreRequest request);
  Answer<pb::AwaitRestoreReply> AwaitRestore(CallPtr call, pb::AwaitRestoreRequest request);
  Answer<pb::BeginReadReply> BeginRead(CallPtr call, pb::BeginReadRequest request);
  Answer<pb::EndReadReply> EndRead(CallPtr call, pb::EndReadRequest request);
  Answer<pb::PersistSnapshotReply> PersistSnapshot(CallPtr call,
                                                   pb::PersistSnapshotRequest request);
  Answer<pb::WatchMapReply> WatchMap(CallPtr call, pb::WatchMapRequest request);
  Answer<pb::GetStatusReply> GetStatus(CallPtr call, pb::GetStatusRequest request);
  Answer<pb::ListJobsReply> ListJobs(CallPtr call, pb::ListJobsRequest request);
  Answer<pb::ListSnapshotsReply> ListSnapshots(CallPtr call, pb::ListSnapshotsRequest request);
  Answer<pb::RemoveSnapshotsReply> RemoveSnapshots(CallPtr call,
                                                   pb::RemoveSnapshotsRequest request);
  Answer<pb::VerifySnapshotReply> VerifySnapshot(CallPtr call, pb::VerifySnapshotRequest request);
  Answer<pb::ExplainReply> Explain(CallPtr call, pb::ExplainRequest request);
  Answer<pb::RepairReply> Repair(CallPtr call, pb::RepairRequest request);
  Answer<pb::DrainReply> Drain(CallPtr call, pb::DrainRequest request);

  // beliefs.cc
  void AddPlanned(const Attempt& attempt, const std::vector<model::Member>& members,
                  PlacementBeliefs* beliefs) const;
  static void CheckAccount(const MemberEntry& member);
  // core.cc
  absl::Status CheckCaller(const pb::Caller& caller);
  absl::Status CheckServing() const;
  void ExpectMembers();
  size_t HaveGeneration() const;
  bool IsOfRecovery(const MemberEntry& member) const;
  bool LacksGeneration() const;
  uint64_t ObeyedTerm() const;
  absl::StatusOr<MemberEntry*> Present(const pb::Caller& caller);
  // The same without Heard(): for a call that is held, which is no sign of life.
  absl::StatusOr<MemberEntry*> FindPresent(const pb::Caller& caller);
  absl::StatusOr<MemberEntry*> AskingFor(const pb::Caller& caller, std::string_view job,
                                         std::string_view name);
  TimePoint HoldUntil(uint32_t wait_ms) const;
  void Emit(Severity severity, std::string_view name, std::string text);
  void SpawnInside(Task<void> task);
  Task<void> RunInside(Gate::Pass pass, Task<void> task);
  Task<LockHold> Lock(Semaphore* lock);
  Job* FindJob(const std::string& name);
  absl::StatusOr<Job*> KnownJob(const std::string& name);
  std::string JobList() const;
  void NotifyEverything();

  // load.cc
  Task<absl::Status> LoadMembers();
  Task<absl::Status> LoadJobs();
  Task<absl::Status> LoadEnded();
  Task<absl::Status> LoadTokens();
  Task<absl::Status> LoadOpens();
  Task<absl::Status> LoadSnapshots();
  Task<absl::Status> LoadRestores();
  absl::StatusOr<Committed> CommittedOf(const std::string& key, const std::string& value,
                                        std::string (*key_of)(const std::string&, const EpochId&,
                                                              uint64_t)) const;
  Task<absl::Status> WriteBirth();
  absl::StatusOr<Job*> JobOfKey(const std::string& key, std::string_view prefix);

  // write.cc: the only users of MetaStore::Commit.
  Task<absl::StatusOr<uint64_t>> Write(Txn txn);
  Task<absl::StatusOr<std::optional<uint64_t>>> ReadBack(const Txn* txn);
  absl::Status CheckStore() const;
  Task<absl::Status> WriteJob(Job* job, JobRecord record, Txn more);
  Task<absl::Status> WriteMember(MemberRecord record, uint64_t version, bool remove);

  // map.cc
  MemberEntry* FindMember(const ServerId& id);
  Plan& PlanFor(uint32_t copies, StrategyChoice strategy);
  Plan& PlanOf(const model::CommitRecord& record);
  void MembersChanged();
  void MemberToProto(const MemberEntry& member, pb::Member* out) const;
  void MemberToProto(const ServerId& id, pb::Member* out) const;
  void MapToProto(pb::ClusterMap* out) const;
  std::vector<uint32_t> Indices(const Plan& plan, const std::vector<ServerId>& ids) const;

  // join.cc, reconcile.cc
  absl::StatusOr<MemberRecord> CheckJoin(const pb::JoinRequest& request) const;
  absl::Status CheckReported(const pb::JoinRequest& request) const;
  absl::Status CheckNewest(const MemberRecord& record, uint64_t join) const;
  bool CommitCounts(const ServerId& id) const;
  Task<absl::Status> Register(MemberRecord record);
  absl::Status TakeInventory(MemberEntry* member, const pb::JoinRequest& request);
  void TakeBackReceipts(MemberEntry* member);
  void TakeBackReceiptsOf(const std::shared_ptr<Attempt>& attempt, const MemberEntry& member);
  void Reconcile(MemberEntry* member, const pb::JoinRequest& request);
  void ReconcileJob(MemberEntry* member, Job* job);
  void ForgetSoftState(MemberEntry* member);
  absl::StatusOr<std::pair<ShardId, HeldCopy>> HeldFromProto(const pb::HeldObject& object) const;
  void HeldToProto(const ShardId& shard, const HeldCopy& copy, pb::HeldObject* out) const;

  // heartbeat.cc, liveness.cc
  void Heard(MemberEntry* member);
  bool IsDeaf(const MemberEntry& member) const;
  void TakeTierState(MemberEntry* member, const pb::TierState& tier);
  void Suspect(MemberEntry* member, std::string_view why);
  Task<void> Probe(ServerId id, Incarnation incarnation, TimePoint again_until);
  MemberEntry* FindProbed(ServerId id, Incarnation incarnation);
  Task<void> WatchMembers();
  void JudgeMember(MemberEntry* member);
  void Die(MemberEntry* member, std::string_view why);
  Task<void> RecordDeath(ServerId id, Incarnation incarnation);
  void ForgetDead();
  Task<void> Forget(ServerId id);
  void JudgeAttempt(const std::shared_ptr<Attempt>& attempt);
  void JudgeAttempts();

  // directives.cc
  void Direct(MemberEntry* member, QueuedDirective directive);
  void TakeResults(MemberEntry* member, const pb::DirectivesRequest& request);
  bool FillDirectives(MemberEntry* member, pb::DirectivesReply* reply);
  void DropEverywhere(const SnapshotId& id);
  void DropStagingAt(MemberEntry* member, const SnapshotId& id, std::string_view why);
  void DropStagingEverywhere(const SnapshotId& id, std::string_view why);
  void DropSnapshotAt(MemberEntry* member, const SnapshotId& id);

  // epochs.cc
  absl::Status CheckEpoch(const Job& job, const EpochId& epoch, const EpochToken& token) const;
  Task<absl::StatusOr<EpochId>> NewEpoch(Job* job, EpochToken token);

  // open.cc, admit.cc
  absl::Status CheckOpen(const pb::OpenRequest& request) const;
  absl::Status CheckSame(const Attempt& attempt, const pb::OpenRequest& request) const;
  absl::Status CheckNameFree(const Job& job, const pb::OpenRequest& request) const;
  std::shared_ptr<Attempt> FindOpen(const Job& job, const std::string& name) const;
  std::string BusyReason(const Job& job) const;
  void RememberName(Job* job, const std::string& name, uint32_t attempt);
  Answer<bool> OpenOnce(Job* job, const pb::OpenRequest* request, pb::OpenReply* reply);
  Answer<std::shared_ptr<Attempt>> Accept(Job* job, const pb::OpenRequest* request);
  absl::StatusOr<bool> TakeRank(Attempt* attempt, MemberEntry* owner,
                                const pb::OpenRequest& request, std::string* reason);
  absl::StatusOr<std::vector<ServerId>> Admit(Attempt* attempt, const MemberEntry& owner,
                                              const pb::OpenRequest& request, std::string* reason);
  bool RetiresAt(const MemberEntry& member) const;
  model::ServerMemory MemoryOf(const MemberEntry& member, const Attempt* attempt) const;
  ExpectedCopies* ExpectedOf(Attempt* attempt, const Plan& plan) const;
  std::vector<uint32_t> PreferredHolders(const Job& job, const Attempt& attempt, const Plan& plan,
                                         uint32_t rank, uint32_t owner) const;
  void RememberElsewhere(Job* job, const Attempt& attempt, uint32_t rank,
                         const std::vector<ServerId>& holders, const absl::Status& why);
  uint64_t CommittedBytes(const MemberEntry& member) const;
  uint64_t InFlightBytes(const MemberEntry& member, const Attempt* except) const;
  uint64_t PinnedBytes(const MemberEntry& member) const;
  void FillAccept(const Attempt& attempt, const RankSlot& slot, pb::OpenReply* reply) const;
  void FillHolders(const RankSlot& slot,
                   google::protobuf::RepeatedPtrField<pb::Member>* holders) const;

  // attempts.cc
  std::shared_ptr<Attempt> MakeAttempt(OpenRecord record, uint64_t version);
  void Evaluate(Attempt* attempt, RankSlot* slot);
  void EvaluateAll(Attempt* attempt);
  std::vector<ServerId> UsualHolders(const Attempt& attempt, const ServerId& owner);
  void PlanRank(Attempt* attempt, uint32_t rank, const std::vector<ServerId>& admitted);
  std::vector<uint32_t> WithoutRoom(const Attempt& attempt, const Plan& plan, uint64_t bytes,
                                    const std::vector<uint32_t>& members) const;
  void RetargetAll();
  void RetargetAttempt(const std::shared_ptr<Attempt>& attempt);
  bool RetargetRank(Attempt* attempt, uint32_t rank);
  void Reserve(Attempt* attempt);
  bool SourceGone(const RankSlot& slot) const;
  bool OwnerIsGone(const RankSlot& slot) const;
  void LearnOwner(const std::shared_ptr<Attempt>& attempt, uint32_t rank, const MemberEntry& owner);
  void LearnUnsent(const std::shared_ptr<Attempt>& attempt, uint32_t rank);
  bool AbortIfNowhere(const std::shared_ptr<Attempt>& attempt, uint32_t rank);
  void PullSealed(const std::shared_ptr<Attempt>& attempt, uint32_t rank);
  void PullMissing(const std::shared_ptr<Attempt>& attempt, uint32_t rank);
  void PullSealedTo(const std::shared_ptr<Attempt>& attempt, uint32_t rank, MemberEntry* member,
                    const std::vector<ServerId>& sources);
  void ForgetPullsOf(const ServerId& server);
  std::vector<ServerId> LiveReceipts(const RankSlot& slot);
  std::vector<ServerId> CountedReceipts(const Attempt& attempt, const RankSlot& slot);
  bool AllHoldersAnswered(const Attempt& attempt);
  std::string Missing(const Attempt& attempt) const;
  void Consider(const std::shared_ptr<Attempt>& attempt);

  // receipts.cc
  absl::Status TakeReceipt(MemberEntry* holder, const pb::HeldObject& object);
  absl::Status CountReceipt(const std::shared_ptr<Attempt>& attempt, MemberEntry* holder,
                            const ShardId& shard, const HeldCopy& copy);
  void FillRetargets(const MemberEntry& owner, pb::ReportReceiptsReply* reply);
  void FillRetargetsOf(Attempt* attempt, const ServerId& owner, pb::ReportReceiptsReply* reply);

  // ended.cc
  static Finished EndedOf(const Attempt& attempt);
  static Finished EndedOf(const Committed& snapshot);
  static Finished EndedOf(const Job& job, const EndedSave& save);
  static std::pair<std::string, std::string> EndedPut(const Job& job,
                                                      const std::vector<Finished>& now);
  static void Remember(Job* job, Finished finished);
  void TellAborted(Job* job, const Attempt& attempt);
  absl::Status CheckNotPassedOver(const Job& job, const SnapshotId& id) const;
  absl::StatusOr<bool> FillEnded(const Job& job, const SnapshotId& id, pb::AwaitCommitReply* reply);

  // commit.cc
  Task<void> Commit(std::shared_ptr<Attempt> attempt);
  Task<absl::Status> CommitLocked(Job* job, Attempt* attempt);
  model::CommitRecord BuildRecord(const Attempt& attempt, const model::Manifest& manifest,
                                  const std::string& encoded) const;
  void Disperse(Job* job, Committed* snapshot);
  void StoreCommitAt(MemberEntry* member, Committed* snapshot);
  void CountRecords(Job* job, Committed* snapshot);
  void Tell(Job* job, Committed* snapshot);
  void FillOpen(Attempt* attempt, uint32_t rank, pb::AwaitCommitReply* reply);

  // abort.cc
  void Abort(const std::shared_ptr<Attempt>& attempt, absl::Status why);
  Task<void> AbortDurably(std::shared_ptr<Attempt> attempt);

  // copies.cc: holders of committed shards.
  using HolderTable = std::vector<std::vector<ServerId>>;
  HolderTable HoldersOf(const Committed& snapshot);      // in memory
  HolderTable DiskHoldersOf(const Committed& snapshot);  // in the persistent tier
  HolderTable SourcesOf(const Committed& snapshot);      // in memory, or where none is, on disk
  // The same of one rank.
  std::vector<ServerId> RankHolders(const Committed& snapshot, uint32_t rank) const;
  std::vector<ServerId> RankSources(const Committed& snapshot, uint32_t rank) const;
  std::vector<ServerId> RankCopies(
      const Committed& snapshot, uint32_t rank,
      std::map<SnapshotKey, std::map<uint32_t, HeldCopy>> MemberEntry::* copies) const;
  HolderTable TableOf(const Committed& snapshot,
                      std::map<SnapshotKey, std::map<uint32_t, HeldCopy>> MemberEntry::* copies);
  static const HeldCopy& CopyAt(const MemberEntry& member, const ShardId& shard);
  void CountCopies(Committed* snapshot);
  static bool IsUnderWay(const Committed& snapshot, uint32_t rank);
  std::vector<uint32_t> LostShards(const Committed& snapshot, const HolderTable& sources) const;
  bool AllReported(std::string* waiting_for) const;
  std::string UnknownDisks() const;
  void CopyGone(MemberEntry* member, const ShardId& shard, std::string_view why);
  void TakeVerdict(const ServerId& server, const ShardId& shard,
                   const pb::DirectiveResult& verified);

  // manifest.cc
  bool LearnManifest(Committed* snapshot);
  void FetchManifest(Committed* snapshot);
  MemberEntry* ManifestHolder(const Committed& snapshot);
  void TakeFetched(const SnapshotId& id, const ServerId& server, const pb::DirectiveResult& result);
  bool TakeManifest(Committed* snapshot, const std::string& bytes);
  void LetManifestGo(const Job& job, const model::SnapshotOrder& order, Committed* snapshot) const;
  void CountManifests();

  // retain.cc
  void MaintainSoon(Job* job);
  Task<void> MaintainAt(Job* job, TimePoint when);
  void MaintainAllSoon();
  Task<void> Maintain(Job* job);
  void MaintainDisks(Job* job);
  Task<absl::Status> RetireOnce(Job* job);
  std::vector<model::RetentionEntry> Entries(const Job& job) const;
  bool IsPinned(const Job& job, const model::SnapshotOrder& order) const;
  // By a restore of the present epoch or by readers.
  static bool IsRead(const Job& job, const model::SnapshotOrder& order);
  static void SetLeaving(Job* job, const std::vector<model::SnapshotOrder>& orders, bool leaving);
  Task<absl::Status> WriteLeaving(Job* job, JobRecord record, Txn more,
                                  std::vector<model::SnapshotOrder> leaving);
  void LeaveMemory(Job* job, const model::SnapshotOrder& order);
  void ForgetSnapshot(Job* job, const model::SnapshotOrder& order);

  // backlog.cc, heirs.cc, repair.cc, rewrite.cc, drain.cc: copies that are lacking.
  Backlog CollectBacklog();
  void CollectMemory(Job* job, Committed* snapshot, uint32_t age, Backlog* backlog);
  void CollectRank(const RepairTask& shard, const std::vector<ServerId>& holders, Plan* plan,
                   Backlog* backlog);
  void CollectRecords(const Committed& snapshot, Backlog* backlog) const;
  void CollectDisks(Job* job, Committed* snapshot, Backlog* backlog);
  void CollectOpen(Backlog* backlog) const;
  void TellBlocked(const Backlog& backlog);
  uint64_t RoomAt(const MemberEntry& member) const;
  void RememberHomes(Job* job, const Attempt& attempt);
  std::optional<ServerId> HeirOf(Job* job, uint32_t rank, KnownHeirs* known);
  std::optional<ServerId> ChooseHeir(const Job& job, const ServerId& home) const;
  void RepairSoon();
  Task<void> RunRepairs();
  void IssueRepairs(Backlog* backlog);
  void IssueRepair(const RepairTask& task, Room* room, KnownHeirs* heirs, Backlog* backlog);
  model::RepairShard ShardOf(const RepairTask& task, const Plan& plan, Room* room,
                             std::set<std::string>* failures);
  void PullTo(const RepairTask& task, MemberEntry* target, const std::vector<ServerId>& sources,
              bool again);
  void PullDone(const RepairTask& task, MemberEntry* target, const HeldCopy& copy,
                const pb::DirectiveResult& result);
  void NoteFailure(Committed* snapshot, std::pair<uint32_t, ServerId> to, std::string why);
  bool IsBarred(const Committed& snapshot, std::pair<uint32_t, ServerId> to) const;
  void IssueRewrites(Backlog* backlog);
  static void LetPulledGo(Committed* snapshot, uint32_t rank);
  void IssueRewrite(const RewriteTask& task, Room* room, Backlog* backlog);
  MemberEntry* RewriteTarget(const RewriteTask& task, const Committed& snapshot, Room* room,
                             std::string* why);
  void WriteAgain(const RewriteTask& task, Committed* snapshot, MemberEntry* target);
  void WrittenAgain(const RewriteTask& task, const ServerId& server, const HeldCopy& copy,
                    const pb::DirectiveResult& result);
  bool MayComeBack() const;
  Task<absl::Status> LoadDrains();
  Task<absl::Status> WriteDrain(DrainRecord record, bool remove);
  Task<void> EndDrain(ServerId id);
  absl::StatusOr<MemberEntry*> MemberNamed(const std::string& name);
  absl::Status CheckDrain(const MemberEntry& member);
  absl::Status CheckDrainCopies(const MemberEntry& member, const Plan& plan,
                                const std::string& what);
  absl::Status CheckDrainRoom(const MemberEntry& member);
  absl::Status CheckDrainDisk(const MemberEntry& member);
  Answer<bool> BeginDrain(ServerId id, bool force);
  Answer<bool> CancelDrain(ServerId id);
  void FillDrain(const MemberEntry& member, pb::DrainReply* reply);

  // restore.cc, restore_reports.cc
  absl::Status CheckRestore(const Job& job, const pb::BeginRestoreRequest& request) const;

  struct Choice {
    bool wait = false;
    std::string progress;
    bool none = false;
    bool failed = false;
    std::optional<model::SnapshotOrder> order;
    std::vector<std::string> lost;
  };

  Choice Choose(Job* job, std::optional<model::SnapshotOrder> below);
  Choice Examine(Job* job, model::SnapshotOrder order);
  void FillSources(const Committed& snapshot,
                   google::protobuf::RepeatedPtrField<pb::ShardSources>* out);
  // Of a BeginReadReply or BeginRestoreReply. False while the manifest is not known.
  template <typename BeginReply>
  bool FillChosen(Committed* snapshot, BeginReply* reply);
  Task<absl::Status> WriteRestore(Job* job, RestoreRecord record);
  Answer<bool> BeginRecord(Job* job, const pb::BeginRestoreRequest* request, std::string* progress);
  absl::StatusOr<bool> FillRestore(Job* job, uint32_t world_size, pb::BeginRestoreReply* reply);
  absl::Status LostError(const Job& job, const RestoreRecord& record) const;
  Task<void> ReviewRestore(Job* job);
  void ReviewRestoreSoon(Job* job);
  Task<void> RecordVerified(Job* job, EpochId epoch, uint32_t round, uint32_t rank);
  void CheckUnreadable(Job* job, uint32_t rank);
  static uint32_t VerifiedCount(const RestoreRecord& record);
  static bool RestoreDone(const RestoreRecord& record);

  // read.cc
  Choice ChooseForRead(Job* job, const std::string& name);
  absl::StatusOr<bool> ReadOnce(Job* job, const pb::BeginReadRequest& request,
                                pb::BeginReadReply* reply);
  void Unpin(std::map<ReadId, ReadPin>::iterator read);
  void DropReadsOf(const ServerId& server, const Incarnation& incarnation);

  // persist.cc: bringing a committed snapshot to disk.
  void ConsiderPersist(Job* job, Committed* snapshot);
  void StartDue(Job* job);
  void BeginPersist(Job* job, Committed* snapshot);
  void PersistStep(Job* job, const model::SnapshotOrder& order);
  static bool IsBeingWritten(const PersistRun& run, uint32_t rank);
  bool PersistRank(Committed* snapshot, uint32_t rank, const std::vector<ServerId>& holders,
                   const std::vector<ServerId>& disks);
  void PersistShardAt(Committed* snapshot, uint32_t rank, MemberEntry* member);
  void PersistShardDone(const ShardId& shard, uint64_t run, const HeldCopy& copy,
                        const ServerId& server, const pb::DirectiveResult& result);
  void GiveUpPersist(Job* job, Committed* snapshot, const absl::Status& why);
  bool GiveUpPersistsFor(const MemberEntry& member, const SnapshotId& needed_for);
  static pb::PersistState PersistStateOf(const Committed& snapshot);
  void FillPersistProgress(const Committed& snapshot, pb::PersistSnapshotReply* reply) const;

  // persisted.cc: what is on disk.
  struct DiskInventory {
    std::map<SnapshotKey, std::map<uint32_t, HeldCopy>> shards;
    std::set<SnapshotKey> marked;
  };

  absl::StatusOr<DiskInventory> ReadDiskInventory(const pb::JoinRequest& request) const;
  Task<absl::Status> LoadPersisted();
  Task<void> RecordPersisted(Job* job, model::SnapshotOrder order, uint64_t run);
  bool IsOnDisk(const Committed& snapshot, uint32_t copies);
  Task<absl::Status> RetirePersisted(Job* job);
  void ForgetPersisted(Job* job, const model::SnapshotOrder& order);
  void MarkDisk(MemberEntry* member);
  void SweepDisks(Job* job);
  void MarkPersistedAt(MemberEntry* member, const SnapshotId& id);
  void DropPersistedAt(MemberEntry* member, const SnapshotId& id);
  void DropPersistedEverywhere(const SnapshotId& id);

  // admin.cc, verify.cc, explain.cc
  void FillSnapshotInfo(const Job& job, const Committed& snapshot, pb::SnapshotInfo* out) const;
  absl::StatusOr<Committed*> FindSnapshot(Job* job, const std::string& name);
  Task<absl::StatusOr<uint32_t>> Remove(Job* job, std::string name);
  static absl::Status CheckRemovable(const Job& job, const model::SnapshotOrder& order);
  void EndPersist(Job* job, const model::SnapshotOrder& order);
  Task<absl::Status> RemovePart(Job* job, JobRecord record, std::vector<model::SnapshotOrder> part);

  // recover.cc
  Task<absl::Status> TakeForRecovery(pb::JoinRequest request);
  std::set<ServerId> LastMembers() const;
  bool HeardEnough(std::string* waiting_for) const;
  Task<absl::Status> LoadRecovered();
  Task<absl::Status> FinishRecovery();
  Task<absl::Status> WriteAllRecovered(Txn all);
  Task<absl::Status> ForgetUnfinishedRecovery();
  Task<absl::Status> WriteRecovered(ClusterRecord record, Txn part);
  Task<void> SettleRecovery();
  bool IsUnknown(const SnapshotKey& key) const;
  bool KeepForLater(const SnapshotKey& unknown);
  void DropUnknownAt(MemberEntry* member);
  void DropUnknown();
  absl::Status CheckRecoverable(const pb::JoinRequest& request) const;
  struct Recovered;
  void Collect(const pb::JoinRequest& request, Recovered* known) const;
  void CollectDisk(const pb::JoinRequest& request, Recovered* known) const;
  void CollectMembers(Recovered* known) const;
  Task<absl::Status> TakeLate(const pb::JoinRequest* request);
  std::vector<Committed> LateOf(const Job& job, const Recovered& known, bool newest_only) const;
  Task<absl::Status> TakeLateOf(Job* job, const JobRecord* found, const Recovered* known,
                                bool newest_only);

  const PlacementOptions options_;
  const PlacementSeams seams_;
  Leadership* const leadership_;
  Loop* const loop_;
  ClusterRecord cluster_;
  uint64_t cluster_version_ = 0;
  ClusterRecord unfinished_;  // of a recovery under way
  std::map<ServerId, std::unique_ptr<MemberEntry>> members_;
  std::map<std::string, std::unique_ptr<Job>> jobs_;
  std::map<ReadId, ReadPin> reads_;
  uint64_t persist_runs_ = 0;
  uint64_t plans_made_ = 0;
  std::map<std::pair<uint32_t, StrategyChoice>, Plan> plans_;  // emptied when the members change
  std::map<ServerId, DrainRecord> draining_;
  bool repairing_ = false;
  bool repair_again_ = false;
  TimePoint repair_after_{};
  std::string repair_blocked_;  // as it was told last
  Semaphore map_lock_;
  WaitQueue map_changed_;
  Gate gate_;
  bool began_ = false;
  bool stopping_ = false;
  TimePoint started_{};
  TimePoint last_tick_{};

  // Recovery from servers.
  absl::Status store_trouble_;  // why the store cannot be read while an outcome is unknown
  bool recovering_ = false;
  bool finishing_ = false;
  bool unknown_kept_ = false;  // shards that a server not heard yet may name
  TimePoint recovery_began_{};
  ClusterId recovered_cluster_;
  std::string recovery_waits_for_;  // as it was told last
  std::map<ServerId, pb::JoinRequest> recovered_;

  Metric& commits_;
  Metric& aborts_;
  Metric& deaths_;
  Metric& data_losses_;
  Metric& manifest_bytes_;
  Metric& repairs_;
  Metric& repaired_bytes_;
  Metric& backlog_bytes_;
  Metric& store_errors_;
  Metric& receipts_refused_;
  Metric& persists_;
  Metric& persists_given_up_;
};

template <typename BeginReply>
bool PlacementCore::FillChosen(Committed* snapshot, BeginReply* reply) {
  if (!LearnManifest(snapshot)) {
    FetchManifest(snapshot);
    reply->set_progress("fetching the manifest of " + snapshot->record.snapshot.ToString());
    return false;
  }
  reply->set_decision(BeginReply::CHOSEN);
  reply->set_record(snapshot->encoded);
  reply->set_manifest(*snapshot->manifest);
  FillSources(*snapshot, reply->mutable_sources());
  return true;
}

}  // namespace gemel

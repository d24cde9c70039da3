// SPDX-License-Identifier: Apache-2.0
//
// The control contract (proto/gemel/v1/placement.proto): number, name and type of every field,
// which are its bytes. A number is never used again for another field. '*' means repeated.
#include <google/protobuf/descriptor.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include "gemel/v1/placement.pb.h"

namespace gemel {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::EnumDescriptor;
using google::protobuf::FieldDescriptor;

constexpr std::string_view kExpected = R"(
AbortSnapshotReply:
AbortSnapshotRequest: 1 caller Caller, 2 snapshot SnapshotId, 3 token bytes, 4 why string
AcquireEpochReply: 1 epoch EpochId
AcquireEpochRequest: 1 caller Caller, 2 job string, 3 token bytes
AwaitCommitReply: 1 state SnapshotState, 2 redundancy_full bool, 3 copies uint32, 4 root bytes, 5 why string, 6 code uint32, 7 holders* Member, 8 closed bool
AwaitCommitRequest: 1 caller Caller, 2 snapshot SnapshotId, 3 rank uint32, 4 wait_ms uint32, 5 unsent bool
AwaitRestoreReply.Outcome: 0 PENDING, 1 VERIFIED, 2 MOVED
AwaitRestoreReply: 1 outcome Outcome, 2 lost* string, 3 progress string
AwaitRestoreRequest: 1 caller Caller, 2 job string, 3 epoch EpochId, 4 round uint32, 5 wait_ms uint32, 6 rank uint32, 7 verified bool
BeginReadReply.Decision: 0 DECISION_UNKNOWN, 1 CHOSEN, 2 WAIT
BeginReadReply: 1 decision Decision, 2 record bytes, 3 manifest bytes, 4 sources* ShardSources, 5 progress string
BeginReadRequest: 1 caller Caller, 2 job string, 3 name string, 4 read_id bytes, 5 wait_ms uint32
BeginRestoreReply.Decision: 0 DECISION_UNKNOWN, 1 CHOSEN, 2 WAIT, 3 NEVER_COMMITTED
BeginRestoreReply: 1 decision Decision, 2 round uint32, 3 record bytes, 4 manifest bytes, 5 sources* ShardSources, 6 progress string, 7 lost* string
BeginRestoreRequest: 1 caller Caller, 2 job string, 3 epoch EpochId, 4 token bytes, 5 rank uint32, 6 world_size uint32, 7 wait_ms uint32
Caller: 1 protocol_version uint32, 2 cluster_id bytes, 3 server_id bytes, 4 incarnation bytes, 5 generation uint64, 6 term uint64, 7 leader bytes, 8 join uint64
ClusterMap: 1 version uint64, 2 members* Member
Directive: 1 id uint64, 2 store_commit StoreCommit, 3 drop_snapshot DropSnapshot, 4 drop_staging DropStaging, 5 see_epoch SeeEpoch, 6 pull_shard PullShard, 7 verify_shard VerifyShard, 8 fetch_manifest FetchManifest, 9 persist_shard PersistShard, 10 mark_persisted MarkPersisted, 11 drop_persisted DropPersisted
DirectiveResult: 1 id uint64, 2 code uint32, 3 message string, 4 manifest bytes
DirectivesReply: 1 directives* Directive, 2 rejoin bool, 3 generation uint64, 4 term uint64
DirectivesRequest: 1 caller Caller, 2 results* DirectiveResult, 3 wait_ms uint32
DrainReply: 1 server Member, 2 ready bool, 3 shards uint64, 4 bytes uint64, 5 persisted_shards uint64, 6 open_saves uint32, 7 blocked* string, 8 waiting* string
DrainRequest.Action: 0 STATUS, 1 BEGIN, 2 CANCEL
DrainRequest: 1 caller Caller, 2 server string, 3 action Action, 4 force bool
DropPersisted: 1 snapshot SnapshotId
DropSnapshot: 1 snapshot SnapshotId
DropStaging: 1 snapshot SnapshotId, 2 why string
EndReadReply:
EndReadRequest: 1 caller Caller, 2 read_id bytes
EpochId: 1 generation uint64, 2 counter uint64
EpochSeen: 1 job string, 2 epoch EpochId
ExplainReply: 1 lines* string
ExplainRequest: 1 caller Caller, 2 job string, 3 name string, 4 copies uint32, 5 strategy Strategy
FetchManifest: 1 snapshot SnapshotId, 2 root bytes
GetStatusReply: 1 cluster_id bytes, 2 generation uint64, 3 map ClusterMap, 4 jobs uint32, 5 open_snapshots uint32, 6 warnings* string, 7 leader string, 8 term uint64
GetStatusRequest: 1 caller Caller
HeartbeatReply: 1 map_version uint64, 2 rejoin bool
HeartbeatRequest: 1 caller Caller, 2 capacity_bytes uint64, 3 used_bytes uint64, 4 map_version uint64, 5 unreachable* bytes, 6 loop_lag_ms uint64, 7 tier TierState, 8 unanswered uint32
HeldObject: 1 shard ShardId, 2 root bytes, 3 bytes uint64, 4 layout_bytes uint64, 5 token bytes
JobInfo: 1 job string, 2 epoch EpochId, 3 snapshots uint32, 4 latest_name string, 5 latest_sequence uint64, 6 latest_bytes uint64, 7 world_size uint32, 8 persisted_name string
JoinReply: 1 cluster_id bytes, 2 generation uint64, 3 map_version uint64, 4 heartbeat_ms uint32, 5 last_members* bytes, 6 term uint64, 7 leader bytes, 8 again bool
JoinRequest: 1 caller Caller, 2 name string, 3 domain string, 4 data_address string, 5 capacity_bytes uint64, 6 commit_records* bytes, 7 objects* HeldObject, 8 epochs* EpochSeen, 9 generation uint64, 10 last_members* bytes, 11 persisted* PersistedShard, 12 persisted_records* bytes, 13 tier TierState, 14 join uint64, 15 leader bytes
ListJobsReply: 1 jobs* JobInfo
ListJobsRequest: 1 caller Caller
ListSnapshotsReply: 1 snapshots* SnapshotInfo
ListSnapshotsRequest: 1 caller Caller, 2 job string
MarkPersisted: 1 snapshot SnapshotId
Member: 1 server_id bytes, 2 incarnation bytes, 3 name string, 4 domain string, 5 data_address string, 6 capacity_bytes uint64, 7 used_bytes uint64, 8 state MemberState, 9 suspect_ms uint64, 10 draining bool
MemberState: 0 MEMBER_UNKNOWN, 1 MEMBER_ALIVE, 2 MEMBER_SUSPECT, 3 MEMBER_DEAD
OnBusy: 0 ON_BUSY_WAIT, 1 ON_BUSY_SKIP
OpenReply.Decision: 0 DECISION_UNKNOWN, 1 ACCEPT, 2 WAIT, 3 SKIP
OpenReply: 1 decision Decision, 2 snapshot SnapshotId, 3 map_version uint64, 4 holders* Member, 5 reason string
OpenRequest: 1 caller Caller, 2 job string, 3 epoch EpochId, 4 token bytes, 5 name string, 6 attempt uint32, 7 rank uint32, 8 world_size uint32, 9 layout_hash bytes, 10 shard_bytes uint64, 11 layout_bytes uint64, 12 copies uint32, 13 min_copies uint32, 14 keep_latest uint32, 15 on_busy OnBusy, 16 wait_ms uint32, 17 deadline_ms uint32, 18 persist PersistPolicy, 19 strategy Strategy
PersistPolicy: 1 every uint32, 2 interval_s uint32, 3 copies uint32, 4 keep uint32
PersistShard: 1 object HeldObject, 2 record bytes, 3 manifest bytes
PersistSnapshotReply: 1 snapshot SnapshotId, 2 state PersistState, 3 shards_done uint32, 4 shards uint32, 5 bytes_done uint64, 6 bytes uint64, 7 detail string
PersistSnapshotRequest: 1 caller Caller, 2 job string, 3 name string, 4 wait_ms uint32
PersistState: 0 PERSIST_NONE, 1 PERSIST_RUNNING, 2 PERSIST_DONE
PersistedShard: 1 object HeldObject, 2 complete bool
PullShard: 1 object HeldObject, 2 sources* Member, 3 urgent bool, 4 writer_gone bool
Receipt: 1 object HeldObject
RemoveSnapshotsReply: 1 removed uint32
RemoveSnapshotsRequest: 1 caller Caller, 2 job string, 3 name string
RepairReply: 1 shards uint64, 2 bytes uint64, 3 last_copy_shards uint64, 4 lost_shards uint64, 5 unknown_snapshots uint64, 6 pulls uint32, 7 repaired_bytes uint64, 8 blocked* string, 9 waiting* string, 10 persisted_shards uint64
RepairRequest: 1 caller Caller
ReportReceiptsReply.Retarget: 1 shard ShardId, 2 holders* Member
ReportReceiptsReply: 1 retargets* Retarget
ReportReceiptsRequest: 1 caller Caller, 2 receipts* Receipt
ReportRestoreReply:
ReportRestoreRequest: 1 caller Caller, 2 job string, 3 epoch EpochId, 4 round uint32, 5 rank uint32, 6 verified bool, 7 unreadable_ranks* uint32, 8 why string
SeeEpoch: 1 job string, 2 epoch EpochId
ShardId: 1 snapshot SnapshotId, 2 rank uint32
ShardSources: 1 rank uint32, 2 holders* Member
SnapshotId: 1 job string, 2 epoch EpochId, 3 sequence uint64, 4 name string, 5 attempt uint32
SnapshotInfo: 1 snapshot SnapshotId, 2 state SnapshotState, 3 world_size uint32, 4 bytes uint64, 5 copies_now uint32, 6 copies_wanted uint32, 7 root bytes, 8 latest bool, 9 pinned bool, 10 committed_unix_s int64, 11 detail string, 12 persisted PersistState, 13 in_memory bool
SnapshotState: 0 SNAPSHOT_UNKNOWN, 1 SNAPSHOT_OPEN, 2 SNAPSHOT_COMMITTED, 3 SNAPSHOT_ABORTED
StoreCommit: 1 record bytes, 2 manifest bytes, 3 members* bytes
Strategy: 0 STRATEGY_GROUP, 1 STRATEGY_RING
TierState: 1 trouble string, 2 used_bytes uint64, 3 free_bytes uint64, 4 unread bool
VerifyShard: 1 object HeldObject
VerifySnapshotReply.Copy: 1 rank uint32, 2 holder Member, 3 good bool, 4 why string
VerifySnapshotReply: 1 snapshot SnapshotId, 2 copies* Copy, 3 complete bool
VerifySnapshotRequest: 1 caller Caller, 2 job string, 3 name string, 4 wait_ms uint32
WatchMapReply: 1 map ClusterMap
WatchMapRequest: 1 caller Caller, 2 known_version uint64, 3 wait_ms uint32
)";

std::string TypeOf(const FieldDescriptor& field) {
  if (field.message_type() != nullptr) {
    return field.message_type()->name();
  }
  return field.enum_type() != nullptr ? field.enum_type()->name() : field.type_name();
}

std::string WithinPackage(const std::string& full_name) {
  return full_name.substr(std::string("gemel.v1.").size());
}

std::string LineOf(const EnumDescriptor& type) {
  std::string line;
  for (int i = 0; i < type.value_count(); ++i) {
    line += (i == 0 ? " " : ", ") + std::to_string(type.value(i)->number()) + " " +
            type.value(i)->name();
  }
  return WithinPackage(type.full_name()) + ":" + line;
}

std::string LineOf(const Descriptor& type) {
  std::vector<const FieldDescriptor*> fields;
  fields.reserve(type.field_count());
  for (int i = 0; i < type.field_count(); ++i) {
    fields.push_back(type.field(i));
  }
  std::sort(fields.begin(), fields.end(),
            [](const auto* left, const auto* right) { return left->number() < right->number(); });
  std::string line;
  for (const FieldDescriptor* field : fields) {
    line += (line.empty() ? " " : ", ") + std::to_string(field->number()) + " " + field->name() +
            (field->is_repeated() ? "* " : " ") + TypeOf(*field);
  }
  return WithinPackage(type.full_name()) + ":" + line;
}

void Append(const Descriptor& type, std::vector<std::string>* lines) {
  lines->push_back(LineOf(type));
  for (int i = 0; i < type.enum_type_count(); ++i) {
    lines->push_back(LineOf(*type.enum_type(i)));
  }
  for (int i = 0; i < type.nested_type_count(); ++i) {
    Append(*type.nested_type(i), lines);
  }
}

TEST(ControlGolden, FieldNumbersAndTypes) {
  const google::protobuf::FileDescriptor* file = v1::Caller::descriptor()->file();
  std::vector<std::string> lines;
  for (int i = 0; i < file->message_type_count(); ++i) {
    Append(*file->message_type(i), &lines);
  }
  for (int i = 0; i < file->enum_type_count(); ++i) {
    lines.push_back(LineOf(*file->enum_type(i)));
  }
  std::sort(lines.begin(), lines.end());
  std::string all = "\n";
  for (const std::string& line : lines) {
    all += line + "\n";
  }
  EXPECT_EQ(all, kExpected);
}

// The bytes of one message with nesting, a repeated field and bytes.
TEST(ControlGolden, BytesOfOneMessage) {
  v1::HeldObject object;
  object.mutable_shard()->mutable_snapshot()->set_job("gpt");
  object.mutable_shard()->mutable_snapshot()->mutable_epoch()->set_counter(7);
  object.mutable_shard()->set_rank(300);
  object.set_bytes(1);
  EXPECT_EQ(object.SerializeAsString(),
            std::string("\x0a\x0e\x0a\x09\x0a\x03gpt\x12\x02\x10\x07\x10\xac\x02\x18\x01", 18));
}

}  // namespace
}  // namespace gemel

// SPDX-License-Identifier: Apache-2.0
//
// FakePlacement: the least placement that a server needs, with every answer in the test's hand. It
// accepts each open, commits when every rank has its receipts, and tells what it is told to tell.
//
// Thread safety: one thread.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "common/control_protocol.h"
#include "common/loop.h"
#include "gemel/v1/placement.pb.h"
#include "placement/model/records.h"
#include "transport/control/rpc.h"

namespace gemel::testing {

namespace pb = ::gemel::v1;

class FakePlacement final : public RpcService {
 public:
  struct Joined {
    pb::Member member;
    pb::JoinRequest last_join;
    uint32_t joins = 0;
    uint32_t heartbeats = 0;
    pb::Caller caller;   // of the last heartbeat
    pb::TierState tier;  // of the last heartbeat
    std::set<std::string> unreachable;
    std::deque<pb::Directive> directives;  // not acknowledged
    std::map<uint64_t, pb::DirectiveResult> results;
    bool rejoin = false;                // told at the next heartbeat
    bool rejoin_by_directives = false;  // told at the next poll
    bool older_leader = false;          // its directives come from one that was deposed
  };

  struct Rank {
    uint64_t bytes = 0;
    uint64_t layout_bytes = 0;
    std::string root;
    std::set<std::string> holders;  // planned, by server id
    std::set<std::string> receipts;
  };

  struct Save {
    pb::SnapshotId id;
    pb::OpenRequest open;
    std::map<uint32_t, Rank> ranks;
    bool committed = false;
    bool dropped = false;
    std::string aborted;
    std::string record;
    std::string manifest;
  };

  explicit FakePlacement(Loop* loop) : loop_(loop) { cluster.bytes[0] = 0xc1; }

  Task<absl::StatusOr<std::string>> Handle(std::shared_ptr<RpcCall> call, std::string method,
                                           std::string request) override;

  // Appends a directive for a server; its id.
  uint64_t Direct(const std::string& server_name, pb::Directive directive);
  // Null while it is not answered.
  const pb::DirectiveResult* ResultOf(const std::string& server_name, uint64_t id) const;
  Joined& named(const std::string& server_name);
  Save* newest();
  // The shard of a save as an object that `server_name` holds.
  pb::HeldObject Held(const Save& save, uint32_t rank) const;

  ClusterId cluster;
  uint64_t generation = 1;
  uint64_t term = 1;
  uint32_t control_protocol = kControlProtocolVersion;  // at most
  EpochId epoch{1, 1};
  std::map<std::string, Joined> members;  // by server id
  std::map<uint64_t, Save> saves;
  std::map<std::string, std::deque<absl::Status>> failures;  // of the next calls, by method
  std::map<std::string, uint32_t> calls;
  std::set<std::string> no_holders;  // names that are not planned
  bool restore_names_all = false;    // every member is a source of every shard, by its disk
  pb::OpenReply::Decision decision = pb::OpenReply::ACCEPT;
  pb::BeginRestoreReply::Decision restore_decision = pb::BeginRestoreReply::CHOSEN;
  pb::BeginReadReply::Decision read_decision = pb::BeginReadReply::CHOSEN;
  std::map<std::string, uint64_t> reads;   // begun and not ended: the sequence each keeps
  Duration read_takes{};                   // before it is answered
  uint32_t lose_removals = 0;              // answers of removals that are lost
  Duration open_takes{};                   // before an open is answered
  Duration directives_take{};              // on their way to the server
  bool other_name = false;                 // a read is given the newest, whatever it asks for
  std::string corrupt_manifest;            // sent instead of the manifest when not empty
  pb::ReportReceiptsReply receipts_reply;  // to the next receipts
  std::set<std::string> unsent;            // ids of servers that said so in their last AwaitCommit
  bool commits_closed_low = false;         // they are told as kept no longer, below full redundancy
  std::vector<pb::ReportRestoreRequest> restore_reports;
  uint64_t map_version = 0;
  std::string leader;  // what joins are made for
  bool joins_change_map = true;
  bool map_is_empty = false;  // as while it recovers from its servers

 private:
  template <typename Message>
  static Message Parse(const std::string& raw) {
    Message message;
    GEMEL_CHECK(message.ParseFromString(raw));
    return message;
  }

  Task<absl::StatusOr<std::string>> HandleReads(std::string method, std::string request);
  pb::JoinReply Join(const pb::JoinRequest& request);
  Task<absl::StatusOr<std::string>> Directives(std::string raw);
  Task<absl::StatusOr<std::string>> WatchMap(std::string raw);
  pb::OpenReply Open(const pb::OpenRequest& request);
  pb::ReportReceiptsReply Receipts(const pb::ReportReceiptsRequest& request);
  Task<absl::StatusOr<std::string>> AwaitCommit(std::string raw);
  pb::BeginRestoreReply BeginRestore(const pb::BeginRestoreRequest& request);
  Task<absl::StatusOr<std::string>> BeginRead(std::string raw);
  absl::StatusOr<std::string> ListSnapshots(const pb::ListSnapshotsRequest& request) const;
  absl::StatusOr<std::string> RemoveSnapshots(const pb::RemoveSnapshotsRequest& request);
  // Record, manifest and sources of a save, as both kinds of reply have them.
  void Describe(const Save& save, auto* reply);
  void CommitWhenComplete(Save* save);
  bool RecordsStored(const Save& save) const;

  Loop* const loop_;
  uint64_t next_sequence_ = 1;
  uint64_t next_directive_ = 1;
};

}  // namespace gemel::testing

// SPDX-License-Identifier: Apache-2.0
//
// What placement keeps in its MetaStore: keys and values (docs/formats/records.md). Values begin
// with a format version byte; decoders are total.
//
//   leader                                LeaderRecord: who may change anything
//   leader-beat                           BeatRecord: the leader lives
//   cluster                               ClusterRecord
//   member/<server id>                    MemberRecord
//   job/<job>                             JobRecord
//   token/<job>/<token>                   TokenRecord: for ever, so that a superseded token stays
//                                         refused
//   open/<job>/<sequence>                 OpenRecord: an accepted open that is neither committed
//                                         nor aborted
//   snapshot/<job>/<epoch>/<sequence>     CommitRecord, as placement/model/records.h writes it
//   persisted/<job>/<epoch>/<sequence>    the same record: PERSISTED, every shard is on disk
//   restore/<job>                         RestoreRecord of the job's newest epoch
//   ended/<job>                           EndedRecord: how the last saves that are gone from the
//   two
//                                         above ended
//   drain/<server id>                     DrainRecord: a person wants the server empty
//
// Thread safety: values and pure functions.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

#include "common/digest.h"
#include "common/ids.h"
#include "common/strategy.h"
#include "placement/model/records.h"

namespace gemel {

inline constexpr uint8_t kStoredVersion = 3;
inline constexpr uint64_t kTermMax = 0xffffffff;  // of a leader; directive ids begin at term << 32
inline constexpr size_t kSupersededMax = 8;       // incarnations remembered of one server

struct LeaderRecord {
  static constexpr std::string_view kName = "leader record";
  uint64_t term = 0;    // grows with every claim
  Incarnation manager;  // drawn at each claim, so that an unknown outcome can be read
  std::string name;
  std::string address;    // where servers and people reach it
  bool resigned = false;  // it went in order: nobody leads

  static void Fields(auto& m, auto&& field) {
    field("term", m.term);
    field("manager", m.manager);
    field("name", m.name);
    field("address", m.address);
    field("resigned", m.resigned);
  }
};

struct BeatRecord {
  static constexpr std::string_view kName = "leader's beat";
  Incarnation manager;
  uint64_t beats = 0;

  static void Fields(auto& m, auto&& field) {
    field("manager", m.manager);
    field("beats", m.beats);
  }
};

struct ClusterRecord {
  static constexpr std::string_view kName = "cluster record";
  ClusterId cluster;
  uint64_t generation = 0;   // 0: a recovery that has not come to its end; `cluster` is its own
  uint64_t map_version = 0;  // grows with every change of the members
  uint64_t writes = 0;
  uint32_t recovery_majority =
      0;  // last members that must have the generation on disk first; 0: they have

  bool IsUnfinishedRecovery() const { return generation == 0; }

  static void Fields(auto& m, auto&& field) {
    field("cluster", m.cluster);
    field("generation", m.generation);
    field("map_version", m.map_version);
    field("writes", m.writes);
    field.Last("recovery_majority", m.recovery_majority);
  }
};

struct MemberRecord {
  static constexpr std::string_view kName = "member record";
  ServerId id;
  Incarnation incarnation;
  std::string name;
  std::string domain;
  std::string data_address;
  uint64_t capacity_bytes = 0;
  bool dead = false;
  std::vector<Incarnation> superseded;  // never let in again; newest last
  uint64_t recovered_generation = 0;    // of the recovery among whose last members it is

  static void Fields(auto& m, auto&& field) {
    field("id", m.id);
    field("incarnation", m.incarnation);
    field("name", m.name);
    field("domain", m.domain);
    field("data_address", m.data_address);
    field("capacity_bytes", m.capacity_bytes);
    field("dead", m.dead);
    field("superseded", m.superseded);
    field.Last("recovered_generation", m.recovered_generation);
  }
};

struct JobRecord {
  static constexpr std::string_view kName = "job record";
  EpochId epoch;
  EpochToken token;
  uint64_t next_sequence = 1;
  EpochId latest_epoch;  // `latest`: none when latest_sequence is 0
  uint64_t latest_sequence = 0;
  bool epoch_opened = false;  // an Open was accepted in `epoch`: no restore begins any more
  bool removed = false;       // by a person; an epoch brings it back
  EpochId persisted_epoch;    // `latest` on disk: none when persisted_sequence is 0
  uint64_t persisted_sequence = 0;
  uint32_t persist_copies = 0;  // as the newest commit's writer asked; 0: the default
  uint32_t persist_keep = 0;
  uint64_t writes = 0;  // makes every value differ, so that an unknown outcome can be read
  uint64_t removed_generation = 0;  // newest of what a person ever removed

  static void Fields(auto& m, auto&& field) {
    field("epoch", m.epoch);
    field("token", m.token);
    field("next_sequence", m.next_sequence);
    field("latest_epoch", m.latest_epoch);
    field("latest_sequence", m.latest_sequence);
    field("epoch_opened", m.epoch_opened);
    field("removed", m.removed);
    field("persisted_epoch", m.persisted_epoch);
    field("persisted_sequence", m.persisted_sequence);
    field("persist_copies", m.persist_copies);
    field("persist_keep", m.persist_keep);
    field("writes", m.writes);
    field.Last("removed_generation", m.removed_generation);
  }
};

struct TokenRecord {
  static constexpr std::string_view kName = "token record";
  EpochId epoch;

  static void Fields(auto& m, auto&& field) { field("epoch", m.epoch); }
};

struct OpenRecord {
  static constexpr std::string_view kName = "open record";
  SnapshotId snapshot;
  EpochToken token;
  uint32_t world_size = 0;
  Digest128 layout_hash;
  uint32_t copies = 0;
  uint32_t min_copies = 0;
  uint32_t keep_latest = 0;
  uint64_t deadline_ms = 0;
  uint64_t map_version = 0;
  uint32_t level = 1;          // at which domains are told apart (placement/model/receipts.h)
  uint32_t persist_every = 0;  // gemel.v1.PersistPolicy
  uint32_t persist_interval_s = 0;
  uint32_t persist_copies = 0;
  uint32_t persist_keep = 0;
  StrategyChoice strategy = StrategyChoice::kGroup;

  static void Fields(auto& m, auto&& field) {
    field("snapshot", m.snapshot);
    field("token", m.token);
    field("world_size", m.world_size);
    field("layout_hash", m.layout_hash);
    field("copies", m.copies);
    field("min_copies", m.min_copies);
    field("keep_latest", m.keep_latest);
    field("deadline_ms", m.deadline_ms);
    field("map_version", m.map_version);
    field("level", m.level);
    field("persist_every", m.persist_every);
    field("persist_interval_s", m.persist_interval_s);
    field("persist_copies", m.persist_copies);
    field("persist_keep", m.persist_keep);
    field.Last("strategy", m.strategy);
  }
};

struct RestoreRecord {
  static constexpr std::string_view kName = "restore record";
  EpochId epoch;  // that restores
  uint32_t round = 0;
  uint32_t world_size = 0;
  EpochId chosen_epoch;  // the snapshot's; chosen_sequence 0: none
  uint64_t chosen_sequence = 0;
  bool failed = false;  // everything that was committed is lost
  std::vector<std::string> lost;
  std::string verified;  // one byte a rank
  uint64_t writes = 0;

  static void Fields(auto& m, auto&& field) {
    field("epoch", m.epoch);
    field("round", m.round);
    field("world_size", m.world_size);
    field("chosen_epoch", m.chosen_epoch);
    field("chosen_sequence", m.chosen_sequence);
    field("failed", m.failed);
    field("lost", m.lost);
    field("verified", m.verified);
    field("writes", m.writes);
  }
};

// A save that was aborted, or whose snapshot was retired: a rank that asks is told, whoever leads.
struct EndedSave {
  static constexpr std::string_view kName = "ended save";
  EpochId epoch;
  uint64_t sequence = 0;
  std::string name;
  uint32_t attempt = 0;
  bool committed = false;
  uint32_t code = 0;  // of absl::StatusCode: why it was aborted
  std::string why;
  uint32_t copies = 0;
  bool full = false;
  Digest128 root;

  static void Fields(auto& m, auto&& field) {
    field("epoch", m.epoch);
    field("sequence", m.sequence);
    field("name", m.name);
    field("attempt", m.attempt);
    field("committed", m.committed);
    field("code", m.code);
    field("why", m.why);
    field("copies", m.copies);
    field("full", m.full);
    field("root", m.root);
  }
};

struct EndedRecord {
  static constexpr std::string_view kName = "ended record";
  std::vector<EndedSave> saves;  // newest last

  static void Fields(auto& m, auto&& field) { field("saves", m.saves); }
};

struct DrainRecord {
  static constexpr std::string_view kName = "drain record";
  ServerId server;
  bool forced = false;  // redundancy may suffer

  static void Fields(auto& m, auto&& field) {
    field("server", m.server);
    field("forced", m.forced);
  }
};

inline constexpr const char* kLeaderKey = "leader";
inline constexpr const char* kBeatKey = "leader-beat";
inline constexpr const char* kClusterKey = "cluster";
inline constexpr const char* kMemberPrefix = "member/";
inline constexpr const char* kJobPrefix = "job/";
inline constexpr const char* kTokenPrefix = "token/";
inline constexpr const char* kOpenPrefix = "open/";
inline constexpr const char* kSnapshotPrefix = "snapshot/";
inline constexpr const char* kPersistedPrefix = "persisted/";
inline constexpr const char* kRestorePrefix = "restore/";
inline constexpr const char* kEndedPrefix = "ended/";
inline constexpr const char* kDrainPrefix = "drain/";

std::string MemberKey(const ServerId& id);
std::string JobKey(const std::string& job);
std::string TokenKey(const std::string& job, const EpochToken& token);
std::string OpenKey(const std::string& job, uint64_t sequence);
std::string StoredSnapshotKey(const std::string& job, const EpochId& epoch, uint64_t sequence);
std::string PersistedKey(const std::string& job, const EpochId& epoch, uint64_t sequence);
std::string RestoreKey(const std::string& job);
std::string EndedKey(const std::string& job);
std::string DrainKey(const ServerId& id);

// Version byte and fields. DecodeStored: DataLoss naming the key; FailedPrecondition for another
// format version.
template <typename Record>
std::string EncodeStored(const Record& record);
template <typename Record>
absl::StatusOr<Record> DecodeStored(const std::string& key, const std::string& value);

}  // namespace gemel

// SPDX-License-Identifier: Apache-2.0
//
// Restores: the restores and reads of this host's clients (DESIGN section 4). One file an event:
// restore_begin.cc (placement's choice, record and manifest checked), restore_read.cc (the same for
// a read, and its end), restore_fetch.cc (chunks into memory of this host), restore_report.cc (how
// it went).
//
// A read is a restore of one client alone: no epoch, nothing to report; placement keeps its
// snapshot until it has heard of its end.
//
// Thread safety: one loop.
// Ownership: a restore keeps the objects that its client reads, until Release().
// Invariants:
//   (1) a client is given nothing of a snapshot whose record and manifest do not fit each other;
//   (2) each chunk of a local object is re-hashed once a restore before it is handed out; what
//   fails
//       is dropped and fetched from other holders;
//   (3) each read that placement may know of is ended there, until placement has heard.
// Errors: NotFound for a restore that does not exist; DataLoss and Unavailable name chunk, sources
// and reasons.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"

#include "placement/model/records.h"
#include "server/control.h"
#include "server/fetch.h"
#include "transport/local/messages.h"

namespace gemel {

class Restores {
 public:
  using Corrupt = std::function<void(const std::shared_ptr<Object>&, const absl::Status&)>;

  // Chunks of one shard, in order, readable as long as the restore lives.
  struct Chunks {
    std::shared_ptr<Object> object;
    uint64_t local_bytes = 0;
    uint64_t peer_bytes = 0;
  };

  Restores(const ServerSeams& seams, Control* control, Fetches* fetches);

  // `gate` is entered by the tasks that end reads; `random` draws their ids.
  void SetGate(Gate* gate, Random random) {
    gate_ = gate;
    random_ = random;
  }

  void OnCorrupt(Corrupt corrupt) { corrupt_ = std::move(corrupt); }

  Task<absl::StatusOr<BeginRestoreDone>> Begin(uint64_t client, BeginRestore request);
  Task<absl::StatusOr<BeginRestoreDone>> Begin(uint64_t client, BeginRead request);
  Task<absl::StatusOr<Chunks>> Fetch(uint64_t client, FetchChunks request);
  Task<absl::Status> Report(uint64_t client, ReportRestore request);
  Task<absl::StatusOr<AwaitRestoreDone>> Await(uint64_t client, AwaitRestore request);
  absl::Status Release(uint64_t client, uint64_t restore);
  void ReleaseClient(uint64_t client);

  size_t size() const { return restores_.size(); }

 private:
  struct Shard {
    std::shared_ptr<ShardFetch> fetch;
    std::vector<bool> checked;  // in this restore
    std::vector<std::shared_ptr<Object>> kept;
  };

  // Shared with the calls on it: they may outlive its release.
  struct Restore {
    uint64_t client = 0;
    EpochId epoch;
    uint32_t round = 0;
    uint32_t rank = 0;
    bool verified = false;  // reported so
    ReadId read;            // not zero: a read
    model::Manifest manifest;
    std::vector<std::vector<PeerMember>> sources;  // by rank of the saved world
    std::map<uint32_t, Shard> shards;
  };

  // What placement chose, of either kind.
  struct Choice {
    const std::string& job;
    const std::string& record;
    const std::string& manifest;
    const google::protobuf::RepeatedPtrField<pb::ShardSources>& sources;
  };

  absl::Status CheckRoom(uint64_t client) const;
  absl::StatusOr<BeginRestoreDone> Chosen(std::shared_ptr<Restore> restore, const Choice& choice);
  absl::Status CheckRecord(const std::string& job, const model::CommitRecord& record) const;
  absl::StatusOr<BeginRestoreDone> ReadChosen(uint64_t client, const ReadId& read,
                                              const BeginRead& request,
                                              const pb::BeginReadReply& reply);
  Task<void> EndRead(ReadId read);
  absl::Status CheckReported(const Restore& restore) const;
  absl::StatusOr<std::shared_ptr<Restore>> Find(uint64_t client, uint64_t restore) const;
  absl::StatusOr<Shard*> ShardOf(Restore* restore, const FetchChunks& request);
  Task<absl::Status> FetchOnce(Shard* shard, FetchChunks request, Chunks* chunks);
  Task<absl::Status> CheckLocal(Shard* shard, std::shared_ptr<Object> object, FetchChunks request);

  const ServerSeams seams_;
  Control* const control_;
  Fetches* const fetches_;
  Gate* gate_ = nullptr;
  Random random_{0};
  Corrupt corrupt_;
  uint64_t next_restore_ = 1;
  std::map<uint64_t, std::shared_ptr<Restore>> restores_;
};

}  // namespace gemel

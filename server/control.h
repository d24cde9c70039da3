// SPDX-License-Identifier: Apache-2.0
//
// Control: this server's calls to placement, and the translation between proto/gemel/v1 and our
// own types. Every call names the caller and has a deadline.
//
// Thread safety: one loop.
// Ownership: borrows the channel. Call()'s task may outlive nothing but the channel and this.
// Errors: as RpcChannel; InvalidArgument names the field of an answer that makes no sense.
#pragma once

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"

#include "common/control_protocol.h"
#include "common/digest.h"
#include "common/ids.h"
#include "gemel/v1/placement.pb.h"
#include "server/limits.h"
#include "server/objects.h"
#include "server/peer_member.h"
#include "server/retry_delay.h"
#include "server/seams.h"

namespace gemel {

namespace pb = ::gemel::v1;

// Between the contract and our types. Reading is total.
EpochId ReadEpochId(const pb::EpochId& epoch);
void WriteEpochId(const EpochId& epoch, pb::EpochId* out);
SnapshotId ReadSnapshotId(const pb::SnapshotId& snapshot);
void WriteSnapshotId(const SnapshotId& snapshot, pb::SnapshotId* out);
ShardId ReadShardId(const pb::ShardId& shard);
void WriteShardId(const ShardId& shard, pb::ShardId* out);
std::string DigestBytes(const Digest128& digest);
// Text from a client or a peer as the contract takes it: at most kEventTextMax bytes, and UTF-8,
// else placement refuses the whole request. Text beyond ASCII is escaped: nobody knows its
// encoding.
std::string TextField(std::string_view text);
absl::StatusOr<Digest128> ReadDigestField(const std::string& raw, std::string_view field);
// A member whose ids do not parse gives InvalidArgument.
absl::StatusOr<PeerMember> ReadPeerMember(const pb::Member& member);

template <typename Members>
absl::StatusOr<std::vector<PeerMember>> ReadPeerMembers(const Members& members) {
  std::vector<PeerMember> read;
  for (const pb::Member& member : members) {
    absl::StatusOr<PeerMember> one = ReadPeerMember(member);
    if (!one.ok()) {
      return one.status();
    }
    read.push_back(*std::move(one));
  }
  return read;
}

void WriteHeldObject(const Object& object, pb::HeldObject* out);

class Control {
 public:
  Control(const ServerSeams& seams, ServerId server, Incarnation incarnation,
          uint32_t protocol_max = kControlProtocolVersion)
      : seams_(seams),
        server_(server),
        incarnation_(incarnation),
        protocol_max_(protocol_max),
        protocol_(protocol_max) {}

  const ServerId& server() const { return server_; }

  const Incarnation& incarnation() const { return incarnation_; }

  // Zero before the first join.
  const ClusterId& cluster() const { return cluster_; }

  void SetCluster(const ClusterId& cluster) { cluster_ = cluster; }

  // The newest leader that this server has obeyed: told to placement with every call.
  void SetLeader(uint64_t generation, uint64_t term) {
    generation_ = generation;
    term_ = term;
  }

  // By this join, in this life. Told, too; a join without a number is 0.
  void SetJoined(std::string leader_claim, uint64_t join) {
    claim_ = std::move(leader_claim);
    join_ = join;
  }

  // Of the last answer, or the newest: every join begins there.
  uint32_t protocol() const { return protocol_; }

  void SpeakNewest() { protocol_ = protocol_max_; }

  void SetIncarnation(const Incarnation& incarnation) { incarnation_ = incarnation; }

  // One try. `held` is how long placement may hold the call.
  template <typename Response, typename RequestMessage>
  Task<absl::StatusOr<Response>> Call(std::string method, RequestMessage request, Duration held) {
    return CallWithin<Response>(std::move(method), std::move(request), held + kControlDeadline);
  }

  // One long poll of at most `wait_ms`.
  template <typename Response, typename RequestMessage>
  Task<absl::StatusOr<Response>> Poll(std::string method, RequestMessage request,
                                      uint32_t wait_ms) {
    request.set_wait_ms(wait_ms);
    return CallWithin<Response>(std::move(method), std::move(request),
                                std::chrono::milliseconds(wait_ms) + kPollLate);
  }

  // One try that ends within `limit`.
  template <typename Response, typename RequestMessage>
  Task<absl::StatusOr<Response>> CallWithin(std::string method, RequestMessage request,
                                            Duration limit) {
    const TimePoint deadline = Add(seams_.loop->Now(), limit);
    uint32_t spoken = protocol_;
    FillCaller(spoken, request.mutable_caller());
    absl::StatusOr<std::string> raw =
        co_await seams_.placement->Call(method, request.SerializeAsString(), deadline);
    // An older placement: one version down, as far as this release goes.
    while (raw.status().code() == absl::StatusCode::kUnimplemented &&
           spoken > kControlProtocolOldest) {
      spoken -= 1;
      FillCaller(spoken, request.mutable_caller());
      raw = co_await seams_.placement->Call(method, request.SerializeAsString(), deadline);
      protocol_ = raw.ok() ? std::min(protocol_, spoken) : protocol_;
    }
    if (!raw.ok()) {
      co_return raw.status();
    }
    Response response;
    if (!response.ParseFromString(*raw)) {
      co_return error::Internal("{} at {} answered {} bytes that do not parse: mixed versions?",
                                method, seams_.placement->address(), raw->size());
    }
    co_return response;
  }

  // An idempotent call, repeated while its outcome is unknown, at most kProxyPatience.
  template <typename Response, typename RequestMessage>
  Task<absl::StatusOr<Response>> CallPatiently(std::string method, RequestMessage request,
                                               Duration held) {
    const TimePoint give_up = Add(seams_.loop->Now(), held + kProxyPatience);
    RetryDelay delay;
    while (true) {
      absl::StatusOr<Response> response = co_await Call<Response>(method, request, held);
      const Duration pause = delay.Next();
      const bool again = IsUnknown(response.status()) && Add(seams_.loop->Now(), pause) < give_up;
      if (!again) {
        co_return response;
      }
      co_await seams_.loop->Sleep(pause);
    }
  }

  // Unavailable and DeadlineExceeded: the call may or may not have been executed.
  static bool IsUnknown(const absl::Status& status) {
    return status.code() == absl::StatusCode::kUnavailable ||
           status.code() == absl::StatusCode::kDeadlineExceeded;
  }

 private:
  void FillCaller(uint32_t protocol, pb::Caller* caller) const;

  const ServerSeams seams_;
  const ServerId server_;
  Incarnation incarnation_;
  const uint32_t protocol_max_;
  uint32_t protocol_;
  ClusterId cluster_;
  uint64_t generation_ = 0;
  uint64_t term_ = 0;
  std::string claim_;
  uint64_t join_ = 0;
};

}  // namespace gemel

// SPDX-License-Identifier: Apache-2.0
#include "server/control.h"

#include <algorithm>

#include "absl/strings/escaping.h"

#include "common/check.h"
#include "common/errors.h"
#include "common/status_macros.h"
#include "placement/model/protocol.h"

namespace gemel {

EpochId ReadEpochId(const pb::EpochId& epoch) { return {epoch.generation(), epoch.counter()}; }

void WriteEpochId(const EpochId& epoch, pb::EpochId* out) {
  out->set_generation(epoch.generation);
  out->set_counter(epoch.counter);
}

SnapshotId ReadSnapshotId(const pb::SnapshotId& snapshot) {
  SnapshotId id;
  id.job = snapshot.job();
  id.epoch = ReadEpochId(snapshot.epoch());
  id.sequence = snapshot.sequence();
  id.name = snapshot.name();
  id.attempt = snapshot.attempt();
  return id;
}

void WriteSnapshotId(const SnapshotId& snapshot, pb::SnapshotId* out) {
  out->set_job(snapshot.job);
  WriteEpochId(snapshot.epoch, out->mutable_epoch());
  out->set_sequence(snapshot.sequence);
  out->set_name(snapshot.name);
  out->set_attempt(snapshot.attempt);
}

ShardId ReadShardId(const pb::ShardId& shard) {
  return {ReadSnapshotId(shard.snapshot()), shard.rank()};
}

void WriteShardId(const ShardId& shard, pb::ShardId* out) {
  WriteSnapshotId(shard.snapshot, out->mutable_snapshot());
  out->set_rank(shard.rank);
}

std::string TextField(std::string_view text) {
  const bool ascii = std::all_of(text.begin(), text.end(), [](char c) { return (c & 0x80) == 0; });
  const std::string cut(text.substr(0, kEventTextMax));
  return ascii ? cut : absl::CEscape(cut).substr(0, kEventTextMax);
}

std::string DigestBytes(const Digest128& digest) {
  std::string raw(kDigestBytes, '\0');
  EncodeDigest(digest, raw.data());
  return raw;
}

absl::StatusOr<Digest128> ReadDigestField(const std::string& raw, std::string_view field) {
  if (raw.size() != kDigestBytes) {
    return error::InvalidArgument("{} has {} bytes where {} belong", field, raw.size(),
                                  kDigestBytes);
  }
  return DecodeDigest(raw.data());
}

absl::StatusOr<PeerMember> ReadPeerMember(const pb::Member& member) {
  PeerMember read;
  GEMEL_ASSIGN_OR_RETURN(read.server, ServerId::FromBytes(member.server_id()));
  GEMEL_ASSIGN_OR_RETURN(read.incarnation, Incarnation::FromBytes(member.incarnation()));
  read.name = member.name();
  read.data_address = member.data_address();
  read.dead = member.state() == pb::MEMBER_DEAD;
  return read;
}

void WriteHeldObject(const Object& object, pb::HeldObject* out) {
  GEMEL_CHECK(object.state() == ObjectState::kSealed) << object.shard().ToString();
  WriteShardId(object.shard(), out->mutable_shard());
  out->set_root(DigestBytes(object.root()));
  out->set_bytes(object.bytes());
  out->set_layout_bytes(object.layout_bytes());
  // A copy that was brought here for a restore does not know it.
  if (!object.token().IsZero()) {
    out->set_token(object.token().ToBytes());
  }
}

void Control::FillCaller(uint32_t protocol, pb::Caller* caller) const {
  GEMEL_CHECK(!server_.IsZero() && !incarnation_.IsZero());
  GEMEL_CHECK(protocol >= kControlProtocolOldest && protocol <= protocol_max_) << protocol;
  caller->set_protocol_version(protocol);
  caller->set_cluster_id(cluster_.IsZero() ? std::string() : cluster_.ToBytes());
  caller->set_server_id(server_.ToBytes());
  caller->set_incarnation(incarnation_.ToBytes());
  caller->set_generation(generation_);
  caller->set_term(term_);
  caller->set_leader(claim_);
  caller->set_join(join_);
}

}  // namespace gemel

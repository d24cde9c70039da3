// SPDX-License-Identifier: Apache-2.0
#include "placement/store/etcd_client.h"

#include <algorithm>

#include "common/check.h"
#include "common/errors.h"
#include "common/status_macros.h"

namespace gemel {
namespace {

using etcdserverpb::RangeRequest;
using etcdserverpb::RangeResponse;
using etcdserverpb::ResponseHeader;
using etcdserverpb::TxnRequest;
using etcdserverpb::TxnResponse;

constexpr Duration kPauseMin = 20ms;
constexpr Duration kPauseMax = 500ms;
// The only member of an etcd 3.5 answers reads before it has replayed its log, in the first moments
// after a crash: what it says is older only for so long.
constexpr Duration kReplayMax = 2s;
constexpr std::string_view kKvService = "etcdserverpb.KV";
constexpr std::string_view kMaintenanceService = "etcdserverpb.Maintenance";
// A member that knows of no leader says so at once, instead of waiting for one.
constexpr std::pair<std::string_view, std::string_view> kRequireLeader = {"hasleader", "true"};

GrpcPeer PeerAt(const EtcdClient::Options& options, size_t member, std::string_view service) {
  GrpcPeer peer;
  peer.address = options.members.at(member);
  peer.service = service;
  peer.tls = options.tls;
  peer.metadata.emplace_back(kRequireLeader);
  return peer;
}

}  // namespace

absl::StatusOr<std::shared_ptr<EtcdClient>> EtcdClient::Create(Loop* loop, Options options) {
  GEMEL_CHECK(!options.members.empty() && !options.probe_key.empty());
  GEMEL_CHECK(options.attempt_timeout > Duration::zero());
  GEMEL_CHECK(options.operation_timeout >= options.attempt_timeout);
  std::shared_ptr<EtcdClient> client(new EtcdClient(loop, std::move(options)));
  for (size_t i = 0; i < client->options_.members.size(); ++i) {
    absl::StatusOr<std::unique_ptr<GrpcChannel>> channel =
        GrpcChannel::Create(loop, PeerAt(client->options_, i, kKvService));
    if (channel.status().code() == absl::StatusCode::kPermissionDenied) {
      return error::PermissionDenied(
          "{}: member {} is beyond this machine and nothing would be encrypted: give "
          "--etcd-cacert, "
          "and --etcd-cert with --etcd-key",
          client->name(), client->options_.members[i]);
    }
    GEMEL_RETURN_IF_ERROR(channel.status());
    client->members_.push_back({.channel = *std::move(channel)});
  }
  return client;
}

void EtcdClient::Close() {
  closed_ = true;
  for (Member& member : members_) {
    member.channel.reset();
  }
}

absl::Status EtcdClient::Distrust(absl::Status why) {
  GEMEL_CHECK(!why.ok());
  if (trouble_.ok()) {
    trouble_ = std::move(why);
  }
  return trouble_;
}

std::string EtcdClient::Who(size_t member) const {
  return fmt::format("etcd at {}", options_.members.at(member));
}

absl::Status EtcdClient::CheckUsable() const {
  if (closed_) {
    return error::Cancelled("{} is closing", name());
  }
  return trouble_;
}

// What the header says of where the answer comes from (1, 2). `floor`: the revision seen before the
// call began; answers of calls that began earlier may be older.
absl::Status EtcdClient::Believe(const ResponseHeader& header, size_t member, int64_t floor) {
  if (cluster_id_ == 0) {
    cluster_id_ = header.cluster_id();
  }
  if (header.cluster_id() != cluster_id_) {
    return error::FailedPrecondition(
        "{} belongs to etcd cluster {:x}, not to {:x} as the others of {}: name the members of one "
        "cluster",
        Who(member), header.cluster_id(), cluster_id_, name());
  }
  if (header.revision() < floor) {
    return error::DataLoss(
        "{} answers from revision {} after {} was seen: it was put back to an older backup, or has "
        "lost what it acknowledged (as 3.5.0 to 3.5.2 may when they are killed); stop every "
        "gemel-placement, keep what is newer elsewhere, and start anew with --recover-from-servers "
        "under another name",
        Who(member), header.revision(), floor);
  }
  revision_ = std::max(revision_, header.revision());
  return absl::OkStatus();
}

void EtcdClient::Leave(size_t member) {
  members_.at(member).answers = false;
  if (preferred_ == member) {
    preferred_ = (member + 1) % members_.size();
  }
}

EtcdClient::Tries EtcdClient::Begin() const {
  return {.deadline = Add(loop_->Now(), options_.operation_timeout),
          .pause = kPauseMin,
          .wrong = std::vector<bool>(members_.size()),
          .last = absl::OkStatus()};
}

// Notes an answer that is not believed; not OK once no member is left that might be.
absl::Status EtcdClient::Failed(const absl::Status& why, size_t member, Tries* tries) {
  tries->last = why;
  tries->failures += 1;
  const bool wrong = why.code() == absl::StatusCode::kDataLoss ||
                     why.code() == absl::StatusCode::kFailedPrecondition;
  if (wrong) {
    tries->wrong.at(member) = true;
  }
  Leave(member);
  const bool all = std::all_of(tries->wrong.begin(), tries->wrong.end(), [](bool w) { return w; });
  if (!wrong || !all) {
    return absl::OkStatus();
  }
  tries->wrong_since = tries->wrong_since.value_or(loop_->Now());
  const bool lasts = loop_->Now() >= Add(*tries->wrong_since, kReplayMax);
  return lasts || why.code() != absl::StatusCode::kDataLoss ? Distrust(why) : absl::OkStatus();
}

Task<absl::StatusOr<std::string>> EtcdClient::Ask(std::shared_ptr<EtcdClient> self, size_t member,
                                                  std::string method, std::string request,
                                                  TimePoint deadline) {
  GEMEL_CO_RETURN_IF_ERROR(self->CheckUsable());
  const TimePoint attempt = Add(self->loop_->Now(), self->options_.attempt_timeout);
  GrpcChannel* channel = self->members_.at(member).channel.get();
  GEMEL_CHECK(channel != nullptr) << self->name();
  co_return co_await channel->Call(std::move(method), std::move(request),
                                   std::min(deadline, attempt));
}

Task<absl::Status> EtcdClient::NextTry(std::shared_ptr<EtcdClient> self, Tries* tries) {
  GEMEL_CO_RETURN_IF_ERROR(self->CheckUsable());
  const TimePoint now = self->loop_->Now();
  if (now >= tries->deadline) {
    const bool told = tries->last.code() == absl::StatusCode::kDataLoss ||
                      tries->last.code() == absl::StatusCode::kFailedPrecondition;
    co_return told ? tries->last
                   : error::Unavailable("{} does not answer within {:.0f} ms: {}", self->name(),
                                        Milliseconds(self->options_.operation_timeout),
                                        MessageOf(tries->last));
  }
  if (tries->failures % self->members_.size() == 0) {
    co_await self->loop_->SleepUntil(std::min(tries->deadline, Add(now, tries->pause)));
    tries->pause = std::min(2 * tries->pause, kPauseMax);
  }
  co_return absl::OkStatus();
}

Task<absl::StatusOr<RangeResponse>> EtcdClient::Range(std::shared_ptr<EtcdClient> self,
                                                      RangeRequest request) {
  Tries tries = self->Begin();
  const std::string bytes = request.SerializeAsString();
  while (true) {
    const size_t member = self->preferred_;
    const int64_t floor = self->revision_;
    const absl::StatusOr<std::string> answer =
        co_await Ask(self, member, "Range", bytes, tries.deadline);
    GEMEL_CO_RETURN_IF_ERROR(self->CheckUsable());
    absl::Status why = answer.status();
    RangeResponse response;
    if (answer.ok() && response.ParseFromString(*answer)) {
      why = self->Believe(response.header(), member, floor);
      if (why.ok()) {
        self->members_.at(member).answers = true;
        co_return response;
      }
    } else {
      const EtcdFailure failure = ConvertEtcdFailure(
          answer.ok() ? error::Internal("an answer that does not parse") : why, self->Who(member));
      why = failure.status;
      if (failure.verdict == EtcdVerdict::kTooLarge) {
        co_return error::ResourceExhausted("{}", MessageOf(why));
      }
      if (failure.verdict == EtcdVerdict::kRefused || failure.verdict == EtcdVerdict::kCompacted) {
        co_return why;
      }
    }
    GEMEL_CO_RETURN_IF_ERROR(self->Failed(why, member, &tries));
    const absl::Status next = co_await NextTry(self, &tries);
    GEMEL_CO_RETURN_IF_ERROR(next);
  }
}

Task<absl::StatusOr<size_t>> EtcdClient::Answering(std::shared_ptr<EtcdClient> self) {
  if (!self->members_.at(self->preferred_).answers) {
    RangeRequest probe;
    probe.set_key(self->options_.probe_key);
    const absl::StatusOr<RangeResponse> answer = co_await Range(self, std::move(probe));
    GEMEL_CO_RETURN_IF_ERROR(answer.status());
  }
  co_return self->preferred_;
}

Task<absl::StatusOr<TxnResponse>> EtcdClient::Txn(std::shared_ptr<EtcdClient> self,
                                                  TxnRequest request) {
  Tries tries = self->Begin();
  const std::string bytes = request.SerializeAsString();
  while (true) {
    const absl::StatusOr<size_t> answering = co_await Answering(self);
    GEMEL_CO_RETURN_IF_ERROR(answering.status());
    const size_t member = *answering;
    const int64_t floor = self->revision_;
    const absl::StatusOr<std::string> answer = co_await Ask(self, member, "Txn", bytes, kTimeNever);
    GEMEL_CO_RETURN_IF_ERROR(self->CheckUsable());
    TxnResponse response;
    if (answer.ok() && response.ParseFromString(*answer)) {
      const absl::Status believed = self->Believe(response.header(), member, floor);
      GEMEL_CO_RETURN_IF_ERROR(believed.ok() ? believed : self->Distrust(believed));
      co_return response;
    }
    const EtcdFailure failure = ConvertEtcdFailure(
        answer.ok() ? error::Internal("an answer that does not parse") : answer.status(),
        self->Who(member));
    if (failure.verdict != EtcdVerdict::kElsewhere) {
      if (failure.verdict == EtcdVerdict::kUnknown) {
        self->Leave(member);
        co_return error::Unknown("{}: whether a transaction is applied is not known: {}",
                                 self->name(), MessageOf(failure.status));
      }
      co_return failure.status;
    }
    GEMEL_CO_RETURN_IF_ERROR(self->Failed(failure.status, member, &tries));
    const absl::Status next = co_await NextTry(self, &tries);
    GEMEL_CO_RETURN_IF_ERROR(next);
  }
}

Task<absl::StatusOr<std::string>> EtcdClient::Version(std::shared_ptr<EtcdClient> self) {
  absl::Status last;
  for (size_t i = 0; i < self->members_.size(); ++i) {
    GEMEL_CO_RETURN_IF_ERROR(self->CheckUsable());
    GEMEL_CO_ASSIGN_OR_RETURN(
        const std::unique_ptr<GrpcChannel> channel,
        GrpcChannel::Create(self->loop_, PeerAt(self->options_, i, kMaintenanceService)));
    const TimePoint deadline = Add(self->loop_->Now(), self->options_.attempt_timeout);
    const absl::StatusOr<std::string> answer =
        co_await channel->Call("Status", std::string(), deadline);
    etcdserverpb::StatusResponse response;
    if (answer.ok() && response.ParseFromString(*answer)) {
      co_return response.version();
    }
    last = answer.ok() ? error::Internal("an answer that does not parse") : answer.status();
  }
  co_return ConvertEtcdFailure(last, self->name()).status;
}

}  // namespace gemel

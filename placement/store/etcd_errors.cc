// SPDX-License-Identifier: Apache-2.0
#include "placement/store/etcd_errors.h"

#include <array>
#include <charconv>
#include <optional>

#include "common/check.h"
#include "common/errors.h"
#include "transport/control/grpc_channel.h"

namespace gemel {
namespace {

struct Known {
  std::string_view text;  // etcd's message begins with it
  EtcdVerdict verdict;
  absl::StatusCode code;
  std::string_view way_out;
};

// Of a request that etcd looked at and did not propose to its members, except kFull: a transaction
// that was applied just as the quota ran out gets the same answer.
constexpr std::array<Known, 15> kKnown = {{
    {"etcdserver: no leader", EtcdVerdict::kElsewhere, absl::StatusCode::kUnavailable,
     "fewer than half of its members answer: start them"},
    {"etcdserver: too many requests", EtcdVerdict::kElsewhere, absl::StatusCode::kUnavailable,
     "it is slow: look at its disk"},
    {"etcdserver: not capable", EtcdVerdict::kElsewhere, absl::StatusCode::kUnavailable,
     "its members are starting"},
    {"etcdserver: rpc not supported for learner", EtcdVerdict::kElsewhere,
     absl::StatusCode::kUnavailable, "name its voting members"},
    {"etcdserver: mvcc: required revision is a future", EtcdVerdict::kElsewhere,
     absl::StatusCode::kUnavailable, "it lags behind"},
    {"etcdserver: mvcc: required revision has been compacted", EtcdVerdict::kCompacted,
     absl::StatusCode::kOutOfRange, ""},
    {"etcdserver: mvcc: database space exceeded", EtcdVerdict::kFull,
     absl::StatusCode::kResourceExhausted,
     "compact and defragment it, raise its --quota-backend-bytes, then `etcdctl alarm disarm`"},
    {"etcdserver: request is too large", EtcdVerdict::kRefused, absl::StatusCode::kInvalidArgument,
     "its --max-request-bytes must not be below the default of 1.5 MiB"},
    {"etcdserver: too many operations in txn", EtcdVerdict::kRefused,
     absl::StatusCode::kInvalidArgument, "its --max-txn-ops must not be below the default of 128"},
    {"etcdserver: user name is empty", EtcdVerdict::kRefused, absl::StatusCode::kPermissionDenied,
     "its authentication is on: give --etcd-cert and --etcd-key of a user who may write the keys"},
    {"etcdserver: permission denied", EtcdVerdict::kRefused, absl::StatusCode::kPermissionDenied,
     "let the user of --etcd-cert read and write the keys below /gemel/NAME/"},
    {"etcdserver: invalid auth token", EtcdVerdict::kRefused, absl::StatusCode::kPermissionDenied,
     "its authentication is on: give --etcd-cert and --etcd-key of a user who may write the keys"},
    {"etcdserver: corrupt cluster", EtcdVerdict::kRefused, absl::StatusCode::kDataLoss,
     "its members differ (alarm CORRUPT): replace the damaged one, then `etcdctl alarm disarm`"},
    {"grpc: received message larger than max", EtcdVerdict::kTooLarge,
     absl::StatusCode::kInvalidArgument,
     "its --max-request-bytes must not be below the default of 1.5 MiB"},
    {"Received message larger than max", EtcdVerdict::kTooLarge, absl::StatusCode::kInvalidArgument,
     ""},
}};

EtcdFailure Make(EtcdVerdict verdict, absl::StatusCode code, std::string_view who,
                 std::string_view text, std::string_view way_out) {
  const std::string_view colon = way_out.empty() ? "" : ": ";
  return {verdict, MakeStatus(code, fmt::format("{}: {}{}{}", who, text, colon, way_out))};
}

// "3.4.23" and "3.5.28-rc.0".
std::optional<std::array<int, 3>> ParseVersion(std::string_view text) {
  std::array<int, 3> version{};
  for (int& number : version) {
    const auto [end, failed] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (failed != std::errc() || number < 0) {
      return std::nullopt;
    }
    text.remove_prefix(static_cast<size_t>(end - text.data()));
    if (text.starts_with('.')) {
      text.remove_prefix(1);
    }
  }
  return version;
}

}  // namespace

EtcdFailure ConvertEtcdFailure(const absl::Status& failed, std::string_view who) {
  GEMEL_CHECK(!failed.ok()) << who;
  const std::string_view text = MessageOf(failed);
  for (const Known& known : kKnown) {
    if (text.starts_with(known.text)) {
      return Make(known.verdict, known.code, who, text, known.way_out);
    }
  }
  if (WasNeverSent(failed)) {
    return Make(EtcdVerdict::kElsewhere, absl::StatusCode::kUnavailable, who, "does not answer",
                text);
  }
  switch (failed.code()) {
    case absl::StatusCode::kInvalidArgument:
      return Make(EtcdVerdict::kRefused, failed.code(), who, text, "");
    case absl::StatusCode::kPermissionDenied:
    case absl::StatusCode::kUnauthenticated:
      return Make(EtcdVerdict::kRefused, absl::StatusCode::kPermissionDenied, who, text,
                  "look at its users and at --etcd-cert and --etcd-key");
    case absl::StatusCode::kUnimplemented:
      return Make(EtcdVerdict::kRefused, absl::StatusCode::kFailedPrecondition, who, text,
                  "no etcd with the v3 API answers there");
    default:
      return Make(EtcdVerdict::kUnknown, absl::StatusCode::kUnknown, who, text, "");
  }
}

std::string EtcdVersionWarning(std::string_view version) {
  const std::optional<std::array<int, 3>> parsed = ParseVersion(version);
  if (!parsed.has_value()) {
    return fmt::format("etcd says version '{}', which is none", version);
  }
  const bool old = *parsed < std::array<int, 3>{3, 4, 45} ||
                   (parsed->at(0) == 3 && parsed->at(1) == 5 && parsed->at(2) < 28) ||
                   (parsed->at(0) == 3 && parsed->at(1) == 6 && parsed->at(2) < 9);
  if (!old) {
    return {};
  }
  return fmt::format(
      "etcd {} has bugs that later releases mend (data inconsistency after a crash or a "
      "defragment, "
      "stale reads after a pause, bypassed authentication): go to 3.5.28, 3.6.9 or later",
      version);
}

}  // namespace gemel

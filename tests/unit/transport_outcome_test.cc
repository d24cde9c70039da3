// SPDX-License-Identifier: Apache-2.0
//
// The table of errors, every value.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <map>
#include <set>
#include <string>

#include "common/errors.h"
#include "transport/outcome.h"

namespace gemel {
namespace {

constexpr int kErrnoMax = 133;  // EHWPOISON
constexpr int kStatusCodeMax = 16;

// Written out again, by outcome: a row that moves in the table fails here.
const std::map<Outcome, std::set<int>>& ExpectedErrnos() {
  static const std::map<Outcome, std::set<int>> kExpected = {
      {Outcome::kOk, {0}},
      {Outcome::kRetryLane, {EAGAIN, EINTR, EINPROGRESS, EALREADY}},
      {Outcome::kRetryPeer, {ECONNABORTED, ENETRESET, EIO, EPROTO}},
      {Outcome::kFenced, {ESTALE}},
      {Outcome::kCorrupt, {EBADMSG}},
      {Outcome::kNoCredit, {ENOMEM, ENOBUFS, ENOSPC, EMFILE, ENFILE, ETOOMANYREFS, EADDRNOTAVAIL}},
      {Outcome::kInvalid,
       {EINVAL, EBADF, EFAULT, ENOTSOCK, EMSGSIZE, EDESTADDRREQ, EISCONN, EOPNOTSUPP, EPROTOTYPE,
        ENOPROTOOPT, EPROTONOSUPPORT, EAFNOSUPPORT, EADDRINUSE, EACCES, EPERM, ENAMETOOLONG,
        ENOTDIR, EROFS, ELOOP}},
      {Outcome::kPeerGone,
       {ECONNRESET, EPIPE, ETIMEDOUT, ECONNREFUSED, ENOENT, ENOTCONN, ESHUTDOWN, EHOSTUNREACH,
        EHOSTDOWN, ENETUNREACH, ENETDOWN, ESRCH}},
  };
  return kExpected;
}

Outcome ExpectedOf(int error) {
  for (const auto& [outcome, errors] : ExpectedErrnos()) {
    if (errors.contains(error)) {
      return outcome;
    }
  }
  return Outcome::kUnknown;
}

TEST(Outcome, EveryErrnoHasTheOutcomeExpected) {
  for (int error = 0; error <= kErrnoMax; ++error) {
    EXPECT_EQ(OutcomeOfErrno(error).outcome, ExpectedOf(error)) << error;
  }
}

TEST(Outcome, AValueWithoutARowIsUnknownAndCareful) {
  for (int error : {-1, kErrnoMax + 1, 100000, EUCLEAN}) {
    const OutcomeFacts facts = OutcomeOfErrno(error);
    EXPECT_EQ(facts.outcome, Outcome::kUnknown);
    EXPECT_TRUE(facts.bytes_may_have_landed);
    EXPECT_FALSE(facts.source_reusable);
    EXPECT_EQ(facts.retry, Retry::kNobody);
  }
}

TEST(Outcome, AConnectionThatBrokeMayHaveDeliveredBytes) {
  for (int error : {ECONNRESET, EPIPE, ETIMEDOUT, EIO}) {
    EXPECT_TRUE(OutcomeOfErrno(error).bytes_may_have_landed) << error;
    EXPECT_EQ(OutcomeOfErrno(error).retry, Retry::kCaller);
  }
  for (int error : {ECONNREFUSED, EAGAIN, EMFILE, EINVAL}) {
    EXPECT_FALSE(OutcomeOfErrno(error).bytes_may_have_landed) << error;
  }
}

Retry RetryOf(Outcome outcome) {
  switch (outcome) {
    case Outcome::kRetryLane:
      return Retry::kLane;
    case Outcome::kRetryPeer:
    case Outcome::kCorrupt:
    case Outcome::kNoCredit:
    case Outcome::kPeerGone:
      return Retry::kCaller;
    default:
      return Retry::kNobody;
  }
}

TEST(Outcome, EveryErrnoHasItsThreeFacts) {
  const std::set<int> died = {ECONNRESET, EPIPE, ETIMEDOUT};
  const std::set<Outcome> landed = {Outcome::kOk, Outcome::kRetryPeer, Outcome::kCorrupt,
                                    Outcome::kUnknown};
  for (int error = 0; error <= kErrnoMax; ++error) {
    const OutcomeFacts facts = OutcomeOfErrno(error);
    EXPECT_EQ(facts.bytes_may_have_landed, landed.contains(facts.outcome) || died.contains(error))
        << error;
    EXPECT_EQ(facts.source_reusable, facts.outcome != Outcome::kUnknown) << error;
    EXPECT_EQ(facts.retry, RetryOf(facts.outcome)) << error;
  }
}

TEST(Outcome, EveryStatusCodeHasItsThreeFacts) {
  using absl::StatusCode;
  const std::set<StatusCode> landed = {
      StatusCode::kOk,       StatusCode::kAlreadyExists,    StatusCode::kAborted,
      StatusCode::kDataLoss, StatusCode::kUnavailable,      StatusCode::kCancelled,
      StatusCode::kUnknown,  StatusCode::kDeadlineExceeded, StatusCode::kInternal};
  for (int value = 0; value <= kStatusCodeMax; ++value) {
    const auto code = static_cast<StatusCode>(value);
    const OutcomeFacts facts = OutcomeOfStatus(code);
    const bool timed_out = code == StatusCode::kCancelled || code == StatusCode::kDeadlineExceeded;
    EXPECT_EQ(facts.bytes_may_have_landed, landed.contains(code)) << value;
    EXPECT_EQ(facts.source_reusable, facts.outcome != Outcome::kUnknown || timed_out) << value;
    EXPECT_EQ(facts.retry, timed_out ? Retry::kCaller : RetryOf(facts.outcome)) << value;
  }
}

TEST(Outcome, EveryErrnoBecomesAStatusThatNamesWhatFailed) {
  for (int error = 1; error <= kErrnoMax; ++error) {
    const absl::Status status = StatusOfErrno(error, "receiving from tcp://127.0.0.1:9");
    EXPECT_FALSE(status.ok());
    EXPECT_THAT(std::string(MessageOf(status)), ::testing::HasSubstr("tcp://127.0.0.1:9"));
  }
  EXPECT_EQ(StatusOfErrno(ECONNRESET, "x").code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(StatusOfErrno(EPIPE, "x").code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(StatusOfErrno(EADDRINUSE, "x").code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(StatusOfErrno(EACCES, "x").code(), absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(StatusOfErrno(ESTALE, "x").code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(StatusOfErrno(EBADMSG, "x").code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(StatusOfErrno(EUCLEAN, "x").code(), absl::StatusCode::kUnknown);
  EXPECT_EQ(StatusOfErrno(EMFILE, "x").code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(MessageOf(StatusOfErrno(EMFILE, "x"))),
              ::testing::HasSubstr("ulimit -n"));
}

TEST(Outcome, EveryStatusCodeHasTheOutcomeExpected) {
  const std::map<absl::StatusCode, Outcome> expected = {
      {absl::StatusCode::kOk, Outcome::kOk},
      {absl::StatusCode::kCancelled, Outcome::kUnknown},
      {absl::StatusCode::kUnknown, Outcome::kUnknown},
      {absl::StatusCode::kInvalidArgument, Outcome::kInvalid},
      {absl::StatusCode::kDeadlineExceeded, Outcome::kUnknown},
      {absl::StatusCode::kNotFound, Outcome::kInvalid},
      {absl::StatusCode::kAlreadyExists, Outcome::kOk},
      {absl::StatusCode::kPermissionDenied, Outcome::kInvalid},
      {absl::StatusCode::kResourceExhausted, Outcome::kNoCredit},
      {absl::StatusCode::kFailedPrecondition, Outcome::kFenced},
      {absl::StatusCode::kAborted, Outcome::kRetryPeer},
      {absl::StatusCode::kOutOfRange, Outcome::kInvalid},
      {absl::StatusCode::kUnimplemented, Outcome::kInvalid},
      {absl::StatusCode::kInternal, Outcome::kUnknown},
      {absl::StatusCode::kUnavailable, Outcome::kPeerGone},
      {absl::StatusCode::kDataLoss, Outcome::kCorrupt},
      {absl::StatusCode::kUnauthenticated, Outcome::kInvalid},
  };
  ASSERT_EQ(expected.size(), static_cast<size_t>(kStatusCodeMax) + 1);
  for (const auto& [code, outcome] : expected) {
    EXPECT_EQ(OutcomeOfStatus(code).outcome, outcome) << static_cast<int>(code);
  }
  // NOLINTNEXTLINE(clang-analyzer-optin.core.EnumCastOutOfRange): what the test is about
  EXPECT_EQ(OutcomeOfStatus(static_cast<absl::StatusCode>(99)).outcome, Outcome::kUnknown);
}

TEST(Outcome, OnlyATimeOutOrALossLeavesTheOutcomeOpen) {
  EXPECT_TRUE(OutcomeOfStatus(absl::StatusCode::kDeadlineExceeded).bytes_may_have_landed);
  EXPECT_TRUE(OutcomeOfStatus(absl::StatusCode::kDeadlineExceeded).source_reusable);
  EXPECT_TRUE(OutcomeOfStatus(absl::StatusCode::kUnavailable).bytes_may_have_landed);
  EXPECT_FALSE(OutcomeOfStatus(absl::StatusCode::kResourceExhausted).bytes_may_have_landed);
  EXPECT_FALSE(OutcomeOfStatus(absl::StatusCode::kFailedPrecondition).bytes_may_have_landed);
}

TEST(Outcome, NamesAreThoseOfTheDesign) {
  const std::vector<std::string> names = {"ok",      "retry_lane", "retry_peer",
                                          "fenced",  "corrupt",    "no_credit",
                                          "invalid", "peer_gone",  "unknown"};
  for (size_t i = 0; i < names.size(); ++i) {
    EXPECT_EQ(OutcomeName(static_cast<Outcome>(i)), names[i]);
  }
}

}  // namespace
}  // namespace gemel

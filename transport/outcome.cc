// SPDX-License-Identifier: Apache-2.0
#include "transport/outcome.h"

#include <array>
#include <cerrno>
#include <cstring>

#include "common/check.h"
#include "common/errors.h"

namespace gemel {
namespace {

constexpr OutcomeFacts kDone = {Outcome::kOk, true, true, Retry::kNobody};
constexpr OutcomeFacts kBlocked = {Outcome::kRetryLane, false, true, Retry::kLane};
constexpr OutcomeFacts kBroken = {Outcome::kRetryPeer, true, true, Retry::kCaller};
constexpr OutcomeFacts kAbsent = {Outcome::kPeerGone, false, true, Retry::kCaller};
constexpr OutcomeFacts kDied = {Outcome::kPeerGone, true, true, Retry::kCaller};
constexpr OutcomeFacts kFull = {Outcome::kNoCredit, false, true, Retry::kCaller};
constexpr OutcomeFacts kWrong = {Outcome::kInvalid, false, true, Retry::kNobody};
constexpr OutcomeFacts kBad = {Outcome::kCorrupt, true, true, Retry::kCaller};
constexpr OutcomeFacts kStale = {Outcome::kFenced, false, true, Retry::kNobody};
constexpr OutcomeFacts kTimedOut = {Outcome::kUnknown, true, true, Retry::kCaller};
constexpr OutcomeFacts kNoRow = {Outcome::kUnknown, true, false, Retry::kNobody};

struct ErrnoRow {
  int error;
  OutcomeFacts facts;
};

constexpr std::array kErrnoTable = {
    ErrnoRow{0, kDone},
    ErrnoRow{EAGAIN, kBlocked},
    ErrnoRow{EINTR, kBlocked},
    ErrnoRow{EINPROGRESS, kBlocked},
    ErrnoRow{EALREADY, kBlocked},
    ErrnoRow{ECONNRESET, kDied},
    ErrnoRow{EPIPE, kDied},
    ErrnoRow{ETIMEDOUT, kDied},
    ErrnoRow{ECONNABORTED, kBroken},
    ErrnoRow{ENETRESET, kBroken},
    ErrnoRow{EIO, kBroken},
    ErrnoRow{EPROTO, kBroken},
    ErrnoRow{ECONNREFUSED, kAbsent},
    ErrnoRow{ENOENT, kAbsent},
    ErrnoRow{ENOTCONN, kAbsent},
    ErrnoRow{ESHUTDOWN, kAbsent},
    ErrnoRow{EHOSTUNREACH, kAbsent},
    ErrnoRow{EHOSTDOWN, kAbsent},
    ErrnoRow{ENETUNREACH, kAbsent},
    ErrnoRow{ENETDOWN, kAbsent},
    ErrnoRow{ESRCH, kAbsent},
    ErrnoRow{ENOMEM, kFull},
    ErrnoRow{ENOBUFS, kFull},
    ErrnoRow{ENOSPC, kFull},
    ErrnoRow{EMFILE, kFull},
    ErrnoRow{ENFILE, kFull},
    ErrnoRow{ETOOMANYREFS, kFull},
    ErrnoRow{EADDRNOTAVAIL, kFull},
    ErrnoRow{EINVAL, kWrong},
    ErrnoRow{EBADF, kWrong},
    ErrnoRow{EFAULT, kWrong},
    ErrnoRow{ENOTSOCK, kWrong},
    ErrnoRow{EMSGSIZE, kWrong},
    ErrnoRow{EDESTADDRREQ, kWrong},
    ErrnoRow{EISCONN, kWrong},
    ErrnoRow{EOPNOTSUPP, kWrong},
    ErrnoRow{EPROTOTYPE, kWrong},
    ErrnoRow{ENOPROTOOPT, kWrong},
    ErrnoRow{EPROTONOSUPPORT, kWrong},
    ErrnoRow{EAFNOSUPPORT, kWrong},
    ErrnoRow{EADDRINUSE, kWrong},
    ErrnoRow{EACCES, kWrong},
    ErrnoRow{EPERM, kWrong},
    ErrnoRow{ENAMETOOLONG, kWrong},
    ErrnoRow{ENOTDIR, kWrong},
    ErrnoRow{EROFS, kWrong},
    ErrnoRow{ELOOP, kWrong},
    ErrnoRow{EBADMSG, kBad},
    ErrnoRow{ESTALE, kStale},
};

absl::StatusCode CodeOfErrno(int error) {
  switch (error) {
    case EACCES:
    case EPERM:
      return absl::StatusCode::kPermissionDenied;
    case EADDRINUSE:
      return absl::StatusCode::kAlreadyExists;
    default:
      break;
  }
  return CodeOfOutcome(OutcomeOfErrno(error).outcome);
}

std::string_view WayOut(int error) {
  switch (error) {
    case EMFILE:
    case ENFILE:
      return "; raise the limit of open files (ulimit -n)";
    case ENOMEM:
    case ENOBUFS:
    case ENOSPC:
      return "; free memory or raise the memory limit of this process";
    case EACCES:
    case EPERM:
      return "; run as the same user as the server, or correct the permissions";
    default:
      return "";
  }
}

}  // namespace

std::string_view OutcomeName(Outcome outcome) {
  constexpr std::array<std::string_view, 9> kNames = {"ok",      "retry_lane", "retry_peer",
                                                      "fenced",  "corrupt",    "no_credit",
                                                      "invalid", "peer_gone",  "unknown"};
  const auto index = static_cast<size_t>(outcome);
  GEMEL_CHECK_LT(index, kNames.size());
  return kNames[index];
}

absl::StatusCode CodeOfOutcome(Outcome outcome) {
  switch (outcome) {
    case Outcome::kOk:
      return absl::StatusCode::kOk;
    case Outcome::kRetryLane:
    case Outcome::kRetryPeer:
    case Outcome::kPeerGone:
      return absl::StatusCode::kUnavailable;
    case Outcome::kFenced:
      return absl::StatusCode::kFailedPrecondition;
    case Outcome::kCorrupt:
      return absl::StatusCode::kDataLoss;
    case Outcome::kNoCredit:
      return absl::StatusCode::kResourceExhausted;
    case Outcome::kInvalid:
      return absl::StatusCode::kInvalidArgument;
    case Outcome::kUnknown:
      break;
  }
  return absl::StatusCode::kUnknown;
}

OutcomeFacts OutcomeOfErrno(int error) {
  for (const ErrnoRow& row : kErrnoTable) {
    if (row.error == error) {
      return row.facts;
    }
  }
  return kNoRow;
}

OutcomeFacts OutcomeOfStatus(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kOk:
    case absl::StatusCode::kAlreadyExists:  // a duplicate: the bytes are there, verified by the
                                            // first
      return kDone;
    case absl::StatusCode::kAborted:
      return kBroken;
    case absl::StatusCode::kFailedPrecondition:
      return kStale;
    case absl::StatusCode::kDataLoss:
      return kBad;
    case absl::StatusCode::kResourceExhausted:
      return kFull;
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kOutOfRange:
    case absl::StatusCode::kPermissionDenied:
    case absl::StatusCode::kUnauthenticated:
    case absl::StatusCode::kUnimplemented:
      return kWrong;
    case absl::StatusCode::kUnavailable:
      return kDied;
    case absl::StatusCode::kCancelled:
    case absl::StatusCode::kDeadlineExceeded:
      return kTimedOut;
    case absl::StatusCode::kInternal:
    case absl::StatusCode::kUnknown:
    default:
      return kNoRow;
  }
}

absl::Status StatusOfErrno(int error, std::string_view what) {
  GEMEL_CHECK_NE(error, 0) << what;
  return MakeStatus(CodeOfErrno(error),
                    fmt::format("{}: {}{}", what, std::strerror(error), WayOut(error)));
}

}  // namespace gemel

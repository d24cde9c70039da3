// SPDX-License-Identifier: Apache-2.0
#include "transport/verbs/verbs_outcome.h"

#include <array>

#include "common/check.h"
#include "common/errors.h"

namespace gemel {
namespace {

struct Row {
  ibv_wc_status status;
  std::string_view name;
  OutcomeFacts facts;
};

constexpr OutcomeFacts kDone = {Outcome::kOk, true, true, Retry::kNobody};
// Found wrong by this device before the first packet left.
constexpr OutcomeFacts kUnsent = {Outcome::kInvalid, false, true, Retry::kNobody};
// Found wrong after some packets may have left: of several pieces the first ones were right.
constexpr OutcomeFacts kWrong = {Outcome::kInvalid, true, true, Retry::kNobody};
constexpr OutcomeFacts kFenced = {Outcome::kFenced, true, true, Retry::kNobody};
constexpr OutcomeFacts kFull = {Outcome::kNoCredit, true, true, Retry::kCaller};
constexpr OutcomeFacts kBroken = {Outcome::kRetryPeer, true, true, Retry::kCaller};
constexpr OutcomeFacts kGone = {Outcome::kPeerGone, true, true, Retry::kCaller};
constexpr OutcomeFacts kUnclear = {Outcome::kUnknown, true, true, Retry::kCaller};

// In the order of the enumeration: the index is the status.
constexpr std::array kTable = {
    Row{IBV_WC_SUCCESS, "success", kDone},
    Row{IBV_WC_LOC_LEN_ERR, "local length error", kWrong},
    Row{IBV_WC_LOC_QP_OP_ERR, "local queue pair operation error", kWrong},
    Row{IBV_WC_LOC_EEC_OP_ERR, "local end-to-end context operation error", kWrong},
    Row{IBV_WC_LOC_PROT_ERR, "local protection error", kWrong},
    Row{IBV_WC_WR_FLUSH_ERR, "flushed", kBroken},
    Row{IBV_WC_MW_BIND_ERR, "memory window bind error", kUnsent},
    Row{IBV_WC_BAD_RESP_ERR, "bad response", kBroken},
    Row{IBV_WC_LOC_ACCESS_ERR, "local access error", kWrong},
    Row{IBV_WC_REM_INV_REQ_ERR, "remote invalid request", kWrong},
    // A grant that was revoked looks like this: its key is no more.
    Row{IBV_WC_REM_ACCESS_ERR, "remote access error", kFenced},
    Row{IBV_WC_REM_OP_ERR, "remote operation error", kBroken},
    Row{IBV_WC_RETRY_EXC_ERR, "no answer after all retries", kGone},
    Row{IBV_WC_RNR_RETRY_EXC_ERR, "receiver not ready after all retries", kFull},
    Row{IBV_WC_LOC_RDD_VIOL_ERR, "local reliable datagram domain violation", kWrong},
    Row{IBV_WC_REM_INV_RD_REQ_ERR, "remote invalid reliable datagram request", kWrong},
    Row{IBV_WC_REM_ABORT_ERR, "aborted by the peer", kBroken},
    Row{IBV_WC_INV_EECN_ERR, "invalid end-to-end context number", kWrong},
    Row{IBV_WC_INV_EEC_STATE_ERR, "invalid end-to-end context state", kWrong},
    Row{IBV_WC_FATAL_ERR, "fatal error of the device", kGone},
    Row{IBV_WC_RESP_TIMEOUT_ERR, "response timed out", kUnclear},
    Row{IBV_WC_GENERAL_ERR, "general error", kUnclear},
    Row{IBV_WC_TM_ERR, "tag matching error", kWrong},
    Row{IBV_WC_TM_RNDV_INCOMPLETE, "tag matching rendezvous incomplete", kWrong},
};

constexpr bool IsInOrder() {
  for (size_t i = 0; i < kTable.size(); ++i) {
    if (static_cast<size_t>(kTable.at(i).status) != i) {
      return false;
    }
  }
  return true;
}

static_assert(IsInOrder());

// Null for a status that a newer rdma-core has.
const Row* RowOf(ibv_wc_status status) {
  const auto index = static_cast<size_t>(status);
  return index < kTable.size() ? &kTable.at(index) : nullptr;
}

}  // namespace

OutcomeFacts OutcomeOfCompletion(ibv_wc_status status) {
  const Row* row = RowOf(status);
  return row == nullptr ? OutcomeFacts{} : row->facts;
}

std::string_view CompletionName(ibv_wc_status status) {
  const Row* row = RowOf(status);
  return row == nullptr ? "a status that is not known to this release" : row->name;
}

absl::Status StatusOfCompletion(ibv_wc_status status, std::string_view what) {
  GEMEL_CHECK_NE(static_cast<int>(status), static_cast<int>(IBV_WC_SUCCESS)) << what;
  return MakeStatus(
      CodeOfOutcome(OutcomeOfCompletion(status).outcome),
      fmt::format("{}: {} (status {})", what, CompletionName(status), static_cast<int>(status)));
}

}  // namespace gemel

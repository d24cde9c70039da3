// SPDX-License-Identifier: Apache-2.0
//
// What of verbs needs no device: the rows of the error table, every value, and the table of
// functions. tests/lab runs the statuses themselves on soft-RoCE.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <set>

#include "common/errors.h"
#include "transport/verbs/verbs_calls.h"
#include "transport/verbs/verbs_outcome.h"

namespace gemel {
namespace {

using ::testing::HasSubstr;

constexpr int kLastStatus = IBV_WC_TM_RNDV_INCOMPLETE;

// Written out again, by outcome: a row that moves in the table fails here.
const std::map<Outcome, std::set<int>>& ExpectedStatuses() {
  static const std::map<Outcome, std::set<int>> kExpected = {
      {Outcome::kOk, {IBV_WC_SUCCESS}},
      {Outcome::kRetryPeer,
       {IBV_WC_WR_FLUSH_ERR, IBV_WC_BAD_RESP_ERR, IBV_WC_REM_OP_ERR, IBV_WC_REM_ABORT_ERR}},
      {Outcome::kFenced, {IBV_WC_REM_ACCESS_ERR}},
      {Outcome::kNoCredit, {IBV_WC_RNR_RETRY_EXC_ERR}},
      {Outcome::kPeerGone, {IBV_WC_RETRY_EXC_ERR, IBV_WC_FATAL_ERR}},
      {Outcome::kUnknown, {IBV_WC_RESP_TIMEOUT_ERR, IBV_WC_GENERAL_ERR}},
      {Outcome::kInvalid,
       {IBV_WC_LOC_LEN_ERR, IBV_WC_LOC_QP_OP_ERR, IBV_WC_LOC_EEC_OP_ERR, IBV_WC_LOC_PROT_ERR,
        IBV_WC_MW_BIND_ERR, IBV_WC_LOC_ACCESS_ERR, IBV_WC_REM_INV_REQ_ERR, IBV_WC_LOC_RDD_VIOL_ERR,
        IBV_WC_REM_INV_RD_REQ_ERR, IBV_WC_INV_EECN_ERR, IBV_WC_INV_EEC_STATE_ERR, IBV_WC_TM_ERR,
        IBV_WC_TM_RNDV_INCOMPLETE}},
  };
  return kExpected;
}

TEST(VerbsOutcome, EveryStatusHasTheOutcomeExpected) {
  std::set<int> seen;
  for (const auto& [outcome, statuses] : ExpectedStatuses()) {
    for (const int status : statuses) {
      EXPECT_EQ(OutcomeOfCompletion(static_cast<ibv_wc_status>(status)).outcome, outcome) << status;
      EXPECT_TRUE(seen.insert(status).second) << status;
    }
  }
  EXPECT_EQ(seen.size(), kLastStatus + 1U);
}

// On verbs only a bind fails before anything leaves, and nobody goes on over the same queue pair.
TEST(VerbsOutcome, EveryStatusHasItsThreeFacts) {
  for (int value = 0; value <= kLastStatus; ++value) {
    const auto status = static_cast<ibv_wc_status>(value);
    const OutcomeFacts facts = OutcomeOfCompletion(status);
    EXPECT_EQ(facts.bytes_may_have_landed, status != IBV_WC_MW_BIND_ERR) << value;
    EXPECT_TRUE(facts.source_reusable) << value;
    const bool nobody = facts.outcome == Outcome::kOk || facts.outcome == Outcome::kInvalid ||
                        facts.outcome == Outcome::kFenced;
    EXPECT_EQ(facts.retry, nobody ? Retry::kNobody : Retry::kCaller) << value;
  }
}

TEST(VerbsOutcome, AStatusWithoutARowIsUnknownAndCareful) {
  // NOLINTNEXTLINE(clang-analyzer-optin.core.EnumCastOutOfRange): what the test is about
  const auto status = static_cast<ibv_wc_status>(kLastStatus + 1);
  EXPECT_EQ(OutcomeOfCompletion(status), OutcomeFacts());
  EXPECT_EQ(StatusOfCompletion(status, "x").code(), absl::StatusCode::kUnknown);
}

TEST(VerbsOutcome, EveryStatusBecomesOneThatNamesWhatFailed) {
  std::set<std::string_view> names;
  for (int value = 0; value <= kLastStatus; ++value) {
    const auto status = static_cast<ibv_wc_status>(value);
    EXPECT_TRUE(names.insert(CompletionName(status)).second) << value;
    if (status != IBV_WC_SUCCESS) {
      const std::string text(MessageOf(StatusOfCompletion(status, "writing chunk 3")));
      EXPECT_THAT(text, HasSubstr("writing chunk 3: " + std::string(CompletionName(status))));
    }
  }
  EXPECT_EQ(StatusOfCompletion(IBV_WC_REM_ACCESS_ERR, "x").code(),
            absl::StatusCode::kFailedPrecondition);
}

TEST(VerbsCalls, WhatIsNotInstalledIsNamedWithItsPackages) {
  const absl::Status none = LoadVerbsFrom("libibverbs-of-nobody.so.1").status();
  EXPECT_EQ(none.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(MessageOf(none)),
              AllOf(HasSubstr("libibverbs-of-nobody.so.1"), HasSubstr("libibverbs1")));
  const absl::Status other = LoadVerbsFrom("libc.so.6").status();
  EXPECT_EQ(other.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(MessageOf(other)), HasSubstr("lacks ibv_get_device_list"));
}

// A machine with two devices, one of which cannot be opened.
struct FakeDevices {
  static inline ibv_device first{};
  static inline ibv_device second{};
  static inline ibv_device* list[3] = {&first, &second, nullptr};
  static inline ibv_context context{};
  static inline int opened = 0;

  static VerbsCalls Calls() {
    VerbsCalls calls;
    calls.get_device_list = [](int* count) {
      *count = 2;
      return static_cast<ibv_device**>(list);
    };
    calls.free_device_list = [](ibv_device**) {};
    calls.get_device_name = [](ibv_device* device) -> const char* {
      return device == &first ? "mlx5_1" : "mlx5_0";
    };
    calls.open_device = [](ibv_device* device) {
      opened += device == &first ? 1 : 0;
      return device == &first ? &context : nullptr;
    };
    calls.close_device = [](ibv_context*) {
      opened -= 1;
      return 0;
    };
    calls.query_device = [](ibv_context*, ibv_device_attr* facts) {
      facts->phys_port_cnt = 2;
      facts->device_cap_flags = IBV_DEVICE_MEM_WINDOW_TYPE_2B;
      return 0;
    };
    calls.query_port = [](ibv_context*, uint8_t port, _compat_ibv_port_attr* facts) {
      auto* found = reinterpret_cast<ibv_port_attr*>(facts);
      found->state = port == 1 ? IBV_PORT_ACTIVE : IBV_PORT_DOWN;
      found->active_mtu = IBV_MTU_4096;
      found->link_layer = IBV_LINK_LAYER_ETHERNET;
      return 0;
    };
    return calls;
  }
};

TEST(VerbsCalls, ListsThePortsOfDevicesThatOpen) {
  const absl::StatusOr<std::vector<RdmaPort>> ports = ListRdmaPorts(FakeDevices::Calls());
  ASSERT_TRUE(ports.ok()) << ports.status();
  ASSERT_EQ(ports->size(), 2U);
  EXPECT_EQ(Describe(ports->at(0)),
            "mlx5_1 port 1: active, RoCE, packets of 4096 bytes, with memory windows of type 2B");
  EXPECT_FALSE(ports->at(1).active);
  EXPECT_EQ(FakeDevices::opened, 0);
}

TEST(VerbsCalls, SaysThatTheKernelHasNoRdma) {
  VerbsCalls calls = FakeDevices::Calls();
  calls.get_device_list = [](int*) {
    errno = ENOSYS;
    return static_cast<ibv_device**>(nullptr);
  };
  const absl::Status none = ListRdmaPorts(calls).status();
  EXPECT_EQ(none.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(MessageOf(none)), HasSubstr("ib_uverbs"));
}

}  // namespace
}  // namespace gemel

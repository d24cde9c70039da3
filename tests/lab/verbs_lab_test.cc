// SPDX-License-Identifier: Apache-2.0
//
// Work completions of a real device against the error table: two reliable queue pairs on soft-RoCE,
// and what goes wrong between them. Runs in the guest (tests/lab/run.sh); without a device every
// test is skipped.
#include <gtest/gtest.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "transport/verbs/verbs_calls.h"
#include "transport/verbs/verbs_outcome.h"

namespace gemel {
namespace {

constexpr size_t kBytes = size_t{64} << 10;
constexpr uint32_t kPollsMax = 20'000'000;  // some tens of seconds in the guest
constexpr int kAccess =
    IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ | IBV_ACCESS_MW_BIND;

// One end: a queue pair, its completions, 64 KiB that the other may write.
struct End {
  const VerbsCalls* calls = nullptr;
  ibv_cq* cq = nullptr;
  ibv_qp* qp = nullptr;
  ibv_mr* mr = nullptr;
  std::vector<std::byte> memory = std::vector<std::byte>(kBytes);

  void Destroy() {
    if (qp != nullptr) {
      calls->destroy_qp(std::exchange(qp, nullptr));
    }
  }

  void Close() {
    Destroy();
    if (mr != nullptr) {
      EXPECT_EQ(calls->dereg_mr(mr), 0);
    }
    if (cq != nullptr) {
      EXPECT_EQ(calls->destroy_cq(cq), 0);
    }
  }

  ibv_wc Next() const {
    ibv_wc done{};
    int found = 0;
    for (uint32_t i = 0; found == 0 && i < kPollsMax; ++i) {
      found = ibv_poll_cq(cq, 1, &done);
    }
    EXPECT_EQ(found, 1) << "no completion";
    return done;
  }

  void Post(ibv_send_wr* request) const {
    ibv_send_wr* bad = nullptr;
    request->send_flags |= IBV_SEND_SIGNALED;
    ASSERT_EQ(ibv_post_send(qp, request, &bad), 0);
  }

  void PostReceive(uint32_t bytes) const {
    ibv_sge piece{reinterpret_cast<uintptr_t>(memory.data()), bytes, mr->lkey};
    ibv_recv_wr request{};
    request.sg_list = &piece;
    request.num_sge = 1;
    ibv_recv_wr* bad = nullptr;
    ASSERT_EQ(ibv_post_recv(qp, &request, &bad), 0);
  }
};

class VerbsLab : public ::testing::Test {
 protected:
  void SetUp() override {
    const absl::StatusOr<const VerbsCalls*> loaded = LoadVerbs();
    if (!loaded.ok() || !ListRdmaPorts(**loaded).ok() || ListRdmaPorts(**loaded)->empty()) {
      GTEST_SKIP() << "no RDMA device here: run it by tests/lab/run.sh";
    }
    calls_ = *loaded;
    int count = 0;
    ibv_device** list = calls_->get_device_list(&count);
    ASSERT_GT(count, 0);
    context_ = calls_->open_device(list[0]);
    calls_->free_device_list(list);
    ASSERT_NE(context_, nullptr);
    pd_ = calls_->alloc_pd(context_);
    ASSERT_NE(pd_, nullptr);
    for (End* end : {&a_, &b_}) {
      Make(end);
    }
    Connect(a_, b_);
    Connect(b_, a_);
  }

  void TearDown() override {
    a_.Close();
    b_.Close();
    if (pd_ != nullptr) {
      EXPECT_EQ(calls_->dealloc_pd(pd_), 0) << "something of it is left";
    }
    if (context_ != nullptr) {
      calls_->close_device(context_);
    }
  }

  void Make(End* end) {
    end->calls = calls_;
    end->cq = calls_->create_cq(context_, 64, nullptr, nullptr, 0);
    ASSERT_NE(end->cq, nullptr);
    end->mr = calls_->reg_mr(pd_, end->memory.data(), end->memory.size(), kAccess);
    ASSERT_NE(end->mr, nullptr);
    ibv_qp_init_attr wanted{};
    wanted.send_cq = wanted.recv_cq = end->cq;
    wanted.qp_type = IBV_QPT_RC;
    wanted.cap = {.max_send_wr = 32,
                  .max_recv_wr = 32,
                  .max_send_sge = 1,
                  .max_recv_sge = 1,
                  .max_inline_data = 0};
    end->qp = calls_->create_qp(pd_, &wanted);
    ASSERT_NE(end->qp, nullptr);
  }

  // Few retries, so that what does not answer is told soon.
  void Connect(const End& own, const End& other) {
    ibv_qp_attr wanted{};
    wanted.qp_state = IBV_QPS_INIT;
    wanted.port_num = 1;
    wanted.qp_access_flags = kAccess;
    ASSERT_EQ(
        calls_->modify_qp(own.qp, &wanted,
                          IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS),
        0);
    wanted = {};
    wanted.qp_state = IBV_QPS_RTR;
    wanted.path_mtu = IBV_MTU_1024;
    wanted.dest_qp_num = other.qp->qp_num;
    wanted.max_dest_rd_atomic = 1;
    wanted.min_rnr_timer = 1;
    wanted.ah_attr.is_global = 1;
    wanted.ah_attr.port_num = 1;
    wanted.ah_attr.grh.hop_limit = 1;
    wanted.ah_attr.grh.sgid_index = 1;  // of the IPv4 address
    ASSERT_EQ(calls_->query_gid(context_, 1, 1, &wanted.ah_attr.grh.dgid), 0);
    ASSERT_EQ(
        calls_->modify_qp(own.qp, &wanted,
                          IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN |
                              IBV_QP_RQ_PSN | IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER),
        0);
    wanted = {};
    wanted.qp_state = IBV_QPS_RTS;
    wanted.timeout = 14;  // 67 ms
    wanted.retry_cnt = 2;
    wanted.rnr_retry = 0;
    wanted.max_rd_atomic = 1;
    ASSERT_EQ(calls_->modify_qp(own.qp, &wanted,
                                IBV_QP_STATE | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT |
                                    IBV_QP_RNR_RETRY | IBV_QP_SQ_PSN | IBV_QP_MAX_QP_RD_ATOMIC),
              0);
  }

  // From the first bytes of a's memory to those of b's.
  ibv_send_wr Write(ibv_sge* piece, uint32_t bytes, uint32_t key) {
    *piece = {reinterpret_cast<uintptr_t>(a_.memory.data()), bytes, a_.mr->lkey};
    ibv_send_wr request{};
    request.opcode = IBV_WR_RDMA_WRITE;
    request.sg_list = piece;
    request.num_sge = 1;
    request.wr.rdma.remote_addr = reinterpret_cast<uintptr_t>(b_.memory.data());
    request.wr.rdma.rkey = key;
    return request;
  }

  // Of b's whole memory.
  ibv_mw* Window() {
    ibv_mw* window = ibv_alloc_mw(pd_, IBV_MW_TYPE_2);
    EXPECT_NE(window, nullptr);
    ibv_send_wr bind{};
    bind.opcode = IBV_WR_BIND_MW;
    bind.bind_mw.mw = window;
    bind.bind_mw.rkey = ibv_inc_rkey(window->rkey);
    bind.bind_mw.bind_info.mr = b_.mr;
    bind.bind_mw.bind_info.addr = reinterpret_cast<uintptr_t>(b_.memory.data());
    bind.bind_mw.bind_info.length = kBytes;
    bind.bind_mw.bind_info.mw_access_flags = IBV_ACCESS_REMOTE_WRITE;
    b_.Post(&bind);
    EXPECT_EQ(b_.Next().status, IBV_WC_SUCCESS);
    window->rkey = bind.bind_mw.rkey;
    return window;
  }

  static void ExpectOutcome(const ibv_wc& done, ibv_wc_status status, Outcome outcome) {
    EXPECT_EQ(done.status, status) << CompletionName(done.status);
    EXPECT_EQ(OutcomeOfCompletion(done.status).outcome, outcome);
  }

  bool Landed() const {
    return std::any_of(b_.memory.begin(), b_.memory.end(),
                       [](std::byte b) { return b != std::byte(0); });
  }

  const VerbsCalls* calls_ = nullptr;
  ibv_context* context_ = nullptr;
  ibv_pd* pd_ = nullptr;
  End a_;
  End b_;
};

TEST_F(VerbsLab, AWriteWithImmediateDataLandsAndIsTold) {
  std::fill(a_.memory.begin(), a_.memory.end(), std::byte(7));
  b_.PostReceive(0);
  ibv_sge piece;
  ibv_send_wr write = Write(&piece, kBytes, b_.mr->rkey);
  write.opcode = IBV_WR_RDMA_WRITE_WITH_IMM;
  write.imm_data = 42;
  a_.Post(&write);
  ExpectOutcome(a_.Next(), IBV_WC_SUCCESS, Outcome::kOk);
  const ibv_wc told = b_.Next();
  EXPECT_EQ(told.opcode, IBV_WC_RECV_RDMA_WITH_IMM);
  EXPECT_EQ(told.imm_data, 42U);
  EXPECT_EQ(a_.memory, b_.memory);
}

// The fence of DESIGN section 7.
TEST_F(VerbsLab, AWindowThatIsInvalidatedLetsNobodyWriteAnyMore) {
  ibv_mw* window = Window();
  std::fill(a_.memory.begin(), a_.memory.end(), std::byte(7));
  ibv_sge piece;
  ibv_send_wr write = Write(&piece, 100, window->rkey);
  a_.Post(&write);
  ExpectOutcome(a_.Next(), IBV_WC_SUCCESS, Outcome::kOk);
  EXPECT_TRUE(Landed());
  ibv_send_wr invalidate{};
  invalidate.opcode = IBV_WR_LOCAL_INV;
  invalidate.invalidate_rkey = window->rkey;
  b_.Post(&invalidate);
  ASSERT_EQ(b_.Next().status, IBV_WC_SUCCESS);
  std::fill(b_.memory.begin(), b_.memory.end(), std::byte(0));
  a_.Post(&write);
  ExpectOutcome(a_.Next(), IBV_WC_REM_ACCESS_ERR, Outcome::kFenced);
  EXPECT_FALSE(Landed());
  a_.Destroy();
  b_.Destroy();
  EXPECT_EQ(ibv_dealloc_mw(window), 0);
}

TEST_F(VerbsLab, WhatComesAfterAnErrorIsFlushed) {
  ibv_sge piece;
  ibv_send_wr write = Write(&piece, 100, b_.mr->rkey ^ 0xFF);
  a_.Post(&write);
  a_.Post(&write);
  ExpectOutcome(a_.Next(), IBV_WC_REM_ACCESS_ERR, Outcome::kFenced);
  ExpectOutcome(a_.Next(), IBV_WC_WR_FLUSH_ERR, Outcome::kRetryPeer);
  EXPECT_FALSE(Landed());
}

TEST_F(VerbsLab, ASourceThatIsNotRegisteredIsRefusedHere) {
  ibv_sge piece;
  ibv_send_wr write = Write(&piece, 100, b_.mr->rkey);
  piece.lkey ^= 0xFF;
  a_.Post(&write);
  const ibv_wc done = a_.Next();  // soft-RoCE has another status for it than the specification
  EXPECT_TRUE(done.status == IBV_WC_LOC_PROT_ERR || done.status == IBV_WC_LOC_QP_OP_ERR);
  EXPECT_EQ(OutcomeOfCompletion(done.status).outcome, Outcome::kInvalid);
  EXPECT_FALSE(Landed());
}

TEST_F(VerbsLab, AReceiverWithoutABufferIsOutOfCredit) {
  ibv_sge piece;
  ibv_send_wr send = Write(&piece, 100, 0);
  send.opcode = IBV_WR_SEND;
  a_.Post(&send);
  ExpectOutcome(a_.Next(), IBV_WC_RNR_RETRY_EXC_ERR, Outcome::kNoCredit);
}

TEST_F(VerbsLab, AMessageThatIsTooLongIsNotTaken) {
  b_.PostReceive(100);
  ibv_sge piece;
  ibv_send_wr send = Write(&piece, 101, 0);
  send.opcode = IBV_WR_SEND;
  a_.Post(&send);
  const ibv_wc done = a_.Next();  // soft-RoCE: as if the peer could not
  EXPECT_TRUE(done.status == IBV_WC_REM_INV_REQ_ERR || done.status == IBV_WC_REM_OP_ERR)
      << CompletionName(done.status);
  EXPECT_NE(OutcomeOfCompletion(done.status).outcome, Outcome::kOk);
}

TEST_F(VerbsLab, AQueuePairThatIsGoneDoesNotAnswer) {
  b_.Destroy();
  ibv_sge piece;
  ibv_send_wr write = Write(&piece, 100, b_.mr->rkey);
  a_.Post(&write);
  ExpectOutcome(a_.Next(), IBV_WC_RETRY_EXC_ERR, Outcome::kPeerGone);
  EXPECT_FALSE(Landed());
}

}  // namespace
}  // namespace gemel

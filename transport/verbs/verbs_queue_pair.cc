// SPDX-License-Identifier: Apache-2.0
#include "transport/verbs/verbs_queue_pair.h"

#include <fcntl.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

#include "common/check.h"
#include "common/errors.h"
#include "transport/outcome.h"

namespace gemel {
namespace {

constexpr uint64_t kDrain = uint64_t{1} << 62;
constexpr uint32_t kPacketMask = 0xFFFFFF;
constexpr uint8_t kHopLimit = 64;
constexpr uint8_t kReceiverWait = 12;  // 0.64 ms (InfiniBand Architecture 1.5, table 45)
constexpr int kPollBatch = 16;

ibv_sge PieceOf(ByteSpan bytes, const VerbsRegion& region) {
  return {reinterpret_cast<uintptr_t>(bytes.data()), static_cast<uint32_t>(bytes.size()),
          region.local_key()};
}

absl::Status CheckInside(ByteSpan bytes, const VerbsRegion& region) {
  return bytes.empty() || region.Holds(bytes)
             ? absl::OkStatus()
             : error::InvalidArgument("{} bytes that lie outside of their region", bytes.size());
}

WorkKind KindOfArrival(const ibv_wc& completion) {
  return completion.status == IBV_WC_SUCCESS && completion.opcode == IBV_WC_RECV_RDMA_WITH_IMM
             ? WorkKind::kTold
             : WorkKind::kReceived;
}

}  // namespace

VerbsQueuePair::VerbsQueuePair(VerbsDevice* device, const Options& options)
    : device_(device), options_(options), slots_(options.depth) {
  GEMEL_CHECK(options.depth > 0 && options.chain_max > 0 && options.signal_every > 0);
  options_.chain_max = std::min(options_.chain_max, options_.depth);
  chain_.reserve(options_.chain_max);
  pieces_.resize(options_.chain_max);
}

VerbsQueuePair::~VerbsQueuePair() {
  DestroyQueuePair();
  if (completions_ != nullptr) {
    CheckFreed(device_->calls().destroy_cq(completions_), "ibv_destroy_cq");
  }
  if (events_ != nullptr) {
    CheckFreed(device_->calls().destroy_comp_channel(events_), "ibv_destroy_comp_channel");
  }
}

absl::StatusOr<std::unique_ptr<VerbsQueuePair>> VerbsQueuePair::Make(VerbsDevice* device,
                                                                     const Options& options) {
  std::unique_ptr<VerbsQueuePair> made(new VerbsQueuePair(device, options));
  absl::Status status = made->MakeQueues();
  if (status.ok()) {
    status = made->Initialise();
  }
  if (!status.ok()) {
    return status;
  }
  return made;
}

absl::Status VerbsQueuePair::MakeQueues() {
  const VerbsCalls& calls = device_->calls();
  if (options_.with_events) {
    events_ = calls.create_comp_channel(device_->context());
    if (events_ == nullptr) {
      return StatusOfErrno(errno, "a completion channel of " + device_->name());
    }
    GEMEL_CHECK_EQ(fcntl(events_->fd, F_SETFL, O_NONBLOCK), 0);
  }
  const auto entries = static_cast<int>(2 * options_.depth + 1);
  completions_ = calls.create_cq(device_->context(), entries, nullptr, events_, 0);
  if (completions_ == nullptr) {
    return StatusOfErrno(errno, "a completion queue of " + device_->name());
  }
  ibv_qp_init_attr wanted{};
  wanted.send_cq = wanted.recv_cq = completions_;
  wanted.srq = options_.receives;
  wanted.qp_type = IBV_QPT_RC;
  wanted.cap = {.max_send_wr = options_.depth + 1,  // and the one that drains
                .max_recv_wr = options_.receives == nullptr ? options_.depth : 0,
                .max_send_sge = 1,
                .max_recv_sge = 1,
                .max_inline_data = options_.inline_bytes};
  queue_pair_ = calls.create_qp(device_->domain(), &wanted);
  if (queue_pair_ == nullptr && options_.inline_bytes > 0) {  // a device that copies nothing inline
    options_.inline_bytes = wanted.cap.max_inline_data = 0;
    queue_pair_ = calls.create_qp(device_->domain(), &wanted);
  }
  return queue_pair_ != nullptr ? absl::OkStatus()
                                : StatusOfErrno(errno, "a queue pair of " + device_->name());
}

absl::Status VerbsQueuePair::Initialise() {
  GEMEL_CHECK(queue_pair_ != nullptr && completions_ != nullptr);
  ibv_qp_attr wanted{};
  wanted.qp_state = IBV_QPS_INIT;
  wanted.port_num = device_->port();
  // What a peer may really do is said by windows alone.
  wanted.qp_access_flags = IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ;
  const int error = device_->calls().modify_qp(
      queue_pair_, &wanted, IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS);
  if (error != 0) {
    return StatusOfErrno(error, "initialising a queue pair of " + device_->name());
  }
  address_ = {.gid = device_->gid().gid,
              .lid = device_->lid(),
              .mtu = device_->mtu(),
              .queue_pair = queue_pair_->qp_num,
              .first_packet = options_.first_packet & kPacketMask};
  return absl::OkStatus();
}

absl::Status VerbsQueuePair::Connect(const VerbsAddress& peer) {
  GEMEL_CHECK(!connected_);
  if (broken_) {
    return error::Unavailable("this queue pair of {} is broken", device_->name());
  }
  ibv_qp_attr wanted{};
  wanted.qp_state = IBV_QPS_RTR;
  wanted.path_mtu = std::min(device_->mtu(), peer.mtu);
  wanted.dest_qp_num = peer.queue_pair;
  wanted.rq_psn = peer.first_packet & kPacketMask;
  wanted.max_dest_rd_atomic = options_.reads_at_once;
  wanted.min_rnr_timer = kReceiverWait;
  wanted.ah_attr.is_global = 1;
  wanted.ah_attr.dlid = peer.lid;
  wanted.ah_attr.port_num = device_->port();
  wanted.ah_attr.grh.dgid = peer.gid;
  wanted.ah_attr.grh.hop_limit = kHopLimit;
  wanted.ah_attr.grh.sgid_index = static_cast<uint8_t>(device_->gid().gid_index);
  int error = device_->calls().modify_qp(queue_pair_, &wanted,
                                         IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU |
                                             IBV_QP_DEST_QPN | IBV_QP_RQ_PSN |
                                             IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER);
  if (error == 0) {
    wanted = {};
    wanted.qp_state = IBV_QPS_RTS;
    wanted.timeout = options_.timeout_exponent;
    wanted.retry_cnt = options_.retries;
    wanted.rnr_retry = options_.receiver_retries;
    wanted.sq_psn = address_.first_packet;
    wanted.max_rd_atomic = options_.reads_at_once;
    error =
        device_->calls().modify_qp(queue_pair_, &wanted,
                                   IBV_QP_STATE | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT |
                                       IBV_QP_RNR_RETRY | IBV_QP_SQ_PSN | IBV_QP_MAX_QP_RD_ATOMIC);
  }
  connected_ = error == 0;
  return connected_ ? absl::OkStatus()
                    : StatusOfErrno(error, fmt::format("connecting a queue pair of {} to {}",
                                                       device_->name(), peer.queue_pair));
}

absl::Status VerbsQueuePair::MayTake() const {
  if (broken_ || !connected_) {
    return error::Unavailable("this queue pair of {} is {}", device_->name(),
                              broken_ ? "broken" : "not connected");
  }
  return under_way() < options_.depth
             ? absl::OkStatus()
             : error::ResourceExhausted("{} requests are under way on this queue pair of {}",
                                        under_way(), device_->name());
}

ibv_send_wr* VerbsQueuePair::Take(uint64_t id, WorkKind kind, ibv_wr_opcode opcode) {
  GEMEL_CHECK(chain_.size() < options_.chain_max && under_way() < options_.depth);
  GEMEL_CHECK(next_ < kDrain);
  slots_[next_ % options_.depth] = {.id = id, .kind = kind};
  ibv_send_wr& request = chain_.emplace_back();
  request.wr_id = next_++;
  request.opcode = opcode;
  request.send_flags = next_ % options_.signal_every == 0 ? IBV_SEND_SIGNALED : 0;
  ++counts_.requests;
  return &request;
}

void VerbsQueuePair::SetPiece(ibv_send_wr* request, ByteSpan bytes, const VerbsRegion& region) {
  ibv_sge& piece = pieces_[chain_.size() - 1];
  piece = PieceOf(bytes, region);
  request->sg_list = &piece;
  request->num_sge = bytes.empty() ? 0 : 1;
  if (request->opcode != IBV_WR_RDMA_READ && bytes.size() <= options_.inline_bytes) {
    request->send_flags |= IBV_SEND_INLINE;
    ++counts_.inlined;
  }
}

void VerbsQueuePair::RingIfFull() {
  if (chain_.size() == options_.chain_max) {
    Ring();
  }
}

absl::Status VerbsQueuePair::Write(uint64_t id, ByteSpan source, const VerbsRegion& region,
                                   VerbsPlace to, std::optional<uint32_t> number) {
  absl::Status status = MayTake();
  status.Update(CheckInside(source, region));
  if (status.ok()) {
    ibv_send_wr* request =
        Take(id, WorkKind::kWrite, number ? IBV_WR_RDMA_WRITE_WITH_IMM : IBV_WR_RDMA_WRITE);
    SetPiece(request, source, region);
    request->imm_data = htobe32(number.value_or(0));
    request->wr.rdma.remote_addr = to.address;
    request->wr.rdma.rkey = to.key;
    RingIfFull();
  }
  return status;
}

absl::Status VerbsQueuePair::Read(uint64_t id, MutableByteSpan into, const VerbsRegion& region,
                                  VerbsPlace from) {
  absl::Status status = MayTake();
  status.Update(CheckInside(into, region));
  if (status.ok()) {
    ibv_send_wr* request = Take(id, WorkKind::kRead, IBV_WR_RDMA_READ);
    SetPiece(request, into, region);
    request->wr.rdma.remote_addr = from.address;
    request->wr.rdma.rkey = from.key;
    RingIfFull();
  }
  return status;
}

absl::Status VerbsQueuePair::Send(uint64_t id, ByteSpan source, const VerbsRegion& region) {
  absl::Status status = MayTake();
  status.Update(CheckInside(source, region));
  if (status.ok()) {
    SetPiece(Take(id, WorkKind::kSend, IBV_WR_SEND), source, region);
    RingIfFull();
  }
  return status;
}

absl::Status VerbsQueuePair::Bind(uint64_t id, VerbsWindow* window, const VerbsRegion& region,
                                  MutableByteSpan bytes, bool may_write) {
  absl::Status status = MayTake();
  status.Update(CheckInside(bytes, region));
  if (status.ok()) {
    GEMEL_CHECK(!bytes.empty());
    GEMEL_CHECK(!std::exchange(window->binding_, true));
    ibv_send_wr* request = Take(id, WorkKind::kBind, IBV_WR_BIND_MW);
    slots_[request->wr_id % options_.depth].window = window;
    window->key_ = ibv_inc_rkey(window->window_->rkey);
    request->bind_mw.mw = window->window_;
    request->bind_mw.rkey = window->key_;
    request->bind_mw.bind_info = {
        .mr = region.handle(),
        .addr = reinterpret_cast<uintptr_t>(bytes.data()),
        .length = bytes.size(),
        .mw_access_flags =
            static_cast<unsigned>(may_write ? IBV_ACCESS_REMOTE_WRITE : IBV_ACCESS_REMOTE_READ)};
    RingIfFull();
  }
  return status;
}

absl::Status VerbsQueuePair::Invalidate(uint64_t id, const VerbsWindow& window) {
  absl::Status status = MayTake();
  if (status.ok()) {
    Take(id, WorkKind::kInvalidate, IBV_WR_LOCAL_INV)->invalidate_rkey = window.key();
    RingIfFull();
  }
  return status;
}

absl::Status VerbsQueuePair::PostReceive(uint64_t id, MutableByteSpan into,
                                         const VerbsRegion& region) {
  GEMEL_CHECK(id < kVerbsReceive && options_.receives == nullptr);
  if (broken_) {
    return error::Unavailable("this queue pair of {} is broken", device_->name());
  }
  if (absl::Status inside = CheckInside(into, region); !inside.ok()) {
    return inside;
  }
  ibv_sge piece = PieceOf(into, region);
  ibv_recv_wr request{};
  request.wr_id = kVerbsReceive | id;
  request.sg_list = &piece;
  request.num_sge = into.empty() ? 0 : 1;
  ibv_recv_wr* refused = nullptr;
  const int error = ibv_post_recv(queue_pair_, &request, &refused);
  if (error == ENOMEM) {
    return error::ResourceExhausted("{} receives are posted on this queue pair of {}",
                                    options_.depth, device_->name());
  }
  return error == 0 ? absl::OkStatus() : StatusOfErrno(error, "posting a receive");
}

void VerbsQueuePair::Ring() {
  if (chain_.empty() || broken_) {
    return;
  }
  GEMEL_CHECK(posted_ + chain_.size() == next_);
  for (size_t i = 0; i + 1 < chain_.size(); ++i) {
    chain_[i].next = &chain_[i + 1];
  }
  chain_.back().send_flags |= IBV_SEND_SIGNALED;
  ++counts_.doorbells;
  ibv_send_wr* refused = nullptr;
  if (ibv_post_send(queue_pair_, chain_.data(), &refused) != 0) {
    // What precedes the refused one is with the device, and nobody would tell of it.
    posted_ += refused == nullptr ? 0 : static_cast<uint64_t>(refused - chain_.data());
    chain_.clear();
    Break();
    return;
  }
  counts_.signalled += static_cast<uint64_t>(std::count_if(
      chain_.begin(), chain_.end(),
      [](const ibv_send_wr& request) { return (request.send_flags & IBV_SEND_SIGNALED) != 0; }));
  posted_ = next_;
  chain_.clear();
}

void VerbsQueuePair::Break() {
  if (std::exchange(broken_, true)) {
    return;
  }
  chain_.clear();
  ibv_qp_attr wanted{};
  wanted.qp_state = IBV_QPS_ERR;
  bool drains = device_->calls().modify_qp(queue_pair_, &wanted, IBV_QP_STATE) == 0;
  if (drains && oldest_ != posted_) {
    // Flushed behind all the others, so that those which had ended unsignalled are told as well.
    ibv_send_wr drain{};
    drain.wr_id = kDrain;
    drain.opcode = IBV_WR_SEND;
    drain.send_flags = IBV_SEND_SIGNALED;
    ibv_send_wr* refused = nullptr;
    drains = ibv_post_send(queue_pair_, &drain, &refused) == 0;
  }
  if (!drains) {
    Drain();
    DestroyQueuePair();  // then the device touches no memory of a request any more
  }
}

void VerbsQueuePair::Fence() {
  broken_ = true;
  chain_.clear();
  Drain();
  DestroyQueuePair();
}

// Invariant (5).
void VerbsQueuePair::Drain() {
  if (queue_pair_ == nullptr || options_.receives == nullptr) {
    return;
  }
  ibv_qp_attr wanted{};
  wanted.qp_state = IBV_QPS_ERR;
  // Refused by a device that is gone, or where nothing can arrive any more.
  (void)device_->calls().modify_qp(queue_pair_, &wanted, IBV_QP_STATE);
  std::array<ibv_wc, kPollBatch> batch{};
  for (int found = kPollBatch; found == kPollBatch;) {
    found = ibv_poll_cq(completions_, kPollBatch, batch.data());
    for (int i = 0; i < found; ++i) {
      OnCompletion(batch.at(static_cast<size_t>(i)), &drained_);
    }
  }
}

void VerbsQueuePair::DestroyQueuePair() {
  if (queue_pair_ != nullptr) {
    CheckFreed(device_->calls().destroy_qp(std::exchange(queue_pair_, nullptr)), "ibv_destroy_qp");
  }
}

void VerbsQueuePair::Tell(const Slot& slot, ibv_wc_status status, std::vector<WorkDone>* done) {
  if (slot.window != nullptr) {
    slot.window->binding_ = false;
    if (status == IBV_WC_SUCCESS && slot.window->window_ != nullptr) {
      slot.window->window_->rkey = slot.window->key_;
    }
  }
  done->push_back({.id = slot.id, .kind = slot.kind, .status = status});
}

void VerbsQueuePair::TellThrough(uint64_t sequence, ibv_wc_status last,
                                 std::vector<WorkDone>* done) {
  GEMEL_CHECK(sequence < next_) << "a completion of request " << sequence << " of " << next_;
  for (; oldest_ <= sequence; ++oldest_) {
    ibv_wc_status status = oldest_ == sequence ? last : IBV_WC_SUCCESS;
    if (status == IBV_WC_SUCCESS && failed_ != IBV_WC_SUCCESS) {
      status = IBV_WC_WR_FLUSH_ERR;
    }
    failed_ = failed_ == IBV_WC_SUCCESS ? status : failed_;
    Tell(slots_[oldest_ % options_.depth], status, done);
  }
}

void VerbsQueuePair::OnCompletion(const ibv_wc& completion, std::vector<WorkDone>* done) {
  if (completion.status != IBV_WC_SUCCESS) {
    broken_ = true;
  }
  if ((completion.wr_id & kVerbsReceive) != 0) {
    const WorkKind kind = KindOfArrival(completion);
    done->push_back({.id = completion.wr_id & ~kVerbsReceive,
                     .kind = kind,
                     .status = completion.status,
                     .bytes = kind == WorkKind::kReceived ? completion.byte_len : 0,
                     .number = kind == WorkKind::kTold ? be32toh(completion.imm_data) : 0});
  } else if (completion.wr_id == kDrain) {
    GEMEL_CHECK(broken_);
    if (posted_ > oldest_) {
      TellThrough(posted_ - 1, IBV_WC_SUCCESS, done);
    }
  } else if (completion.wr_id >= oldest_) {
    TellThrough(completion.wr_id, completion.status, done);
  }
}

void VerbsQueuePair::GiveUp(std::vector<WorkDone>* done) {
  GEMEL_CHECK(broken_);
  if (next_ > oldest_) {
    failed_ = failed_ == IBV_WC_SUCCESS ? IBV_WC_WR_FLUSH_ERR : failed_;
    TellThrough(next_ - 1, IBV_WC_WR_FLUSH_ERR, done);
  }
  posted_ = next_;
}

void VerbsQueuePair::Arm() {
  GEMEL_CHECK(events_ != nullptr);
  ibv_cq* told = nullptr;
  void* user = nullptr;
  while (device_->calls().get_cq_event(events_, &told, &user) == 0) {
    device_->calls().ack_cq_events(told, 1);
  }
  // On a device that is gone it fails, and so does the Poll() that follows.
  ibv_req_notify_cq(completions_, 0);
}

void VerbsQueuePair::Poll(std::vector<WorkDone>* done) {
  Ring();
  std::array<ibv_wc, kPollBatch> batch{};
  int found = queue_pair_ == nullptr ? 0 : kPollBatch;
  while (found == kPollBatch) {
    found = ibv_poll_cq(completions_, kPollBatch, batch.data());
    if (found < 0) {  // the device is gone
      broken_ = true;
      DestroyQueuePair();
    }
    for (int i = 0; i < found; ++i) {
      OnCompletion(batch.at(static_cast<size_t>(i)), done);
    }
  }
  done->insert(done->end(), drained_.begin(), drained_.end());
  drained_.clear();
  GEMEL_CHECK(oldest_ <= posted_ && posted_ <= next_);
  if (broken_ && (queue_pair_ == nullptr || oldest_ == posted_)) {
    GiveUp(done);  // never handed to the device, or it will tell no more
  }
}

}  // namespace gemel

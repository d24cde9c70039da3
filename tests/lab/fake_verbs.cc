// SPDX-License-Identifier: Apache-2.0
#include "tests/lab/fake_verbs.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "common/check.h"

namespace gemel {
namespace {

FakeVerbs* present = nullptr;

// NOLINTNEXTLINE(performance-no-int-to-ptr): verbs name memory by numbers
std::byte* At(uint64_t address) { return reinterpret_cast<std::byte*>(address); }

uint64_t BytesOf(const ibv_send_wr& work) { return work.num_sge == 0 ? 0 : work.sg_list->length; }

}  // namespace

FakeVerbs::FakeVerbs(uint64_t seed) : random_(seed) {
  GEMEL_CHECK(present == nullptr);
  present = this;
  list_[0] = &device_;
  context_.device = &device_;
  context_.ops.alloc_mw = AllocateWindow;
  context_.ops.dealloc_mw = FreeWindow;
  context_.ops.post_send = PostSend;
  context_.ops.post_recv = PostReceive;
  context_.ops.post_srq_recv = PostSharedReceive;
  context_.ops.poll_cq = Poll;
  calls_.get_device_list = GetDeviceList;
  calls_.free_device_list = [](ibv_device**) {};
  calls_.get_device_name = [](ibv_device*) { return "fake0"; };
  calls_.open_device = [](ibv_device*) { return &present->context_; };
  calls_.close_device = [](ibv_context*) { return 0; };
  calls_.query_device = [](ibv_context*, ibv_device_attr* facts) {
    *facts = {};
    facts->phys_port_cnt = 1;
    facts->device_cap_flags = IBV_DEVICE_MEM_WINDOW_TYPE_2B;
    facts->max_srq = present->shared_max_;
    facts->max_srq_wr = present->shared_receives_max_;
    return 0;
  };
  calls_.query_port = QueryPort;
  calls_.query_gid_entry = QueryGidEntry;
  calls_.alloc_pd = [](ibv_context* context) {
    auto domain = std::make_unique<ibv_pd>();
    domain->context = context;
    ibv_pd* handle = domain.get();
    present->domains_[handle] = std::move(domain);
    return handle;
  };
  calls_.dealloc_pd = FreeDomain;
  calls_.reg_mr = RegisterRegion;
  calls_.dereg_mr = DeregisterRegion;
  context_.ops.req_notify_cq = Arm;
  calls_.create_comp_channel = CreateChannel;
  calls_.destroy_comp_channel = DestroyChannel;
  calls_.get_cq_event = GetEvent;
  calls_.ack_cq_events = [](ibv_cq*, unsigned) {};
  calls_.create_cq = CreateCompletionQueue;
  calls_.destroy_cq = DestroyCompletionQueue;
  calls_.create_srq = CreateSharedQueue;
  calls_.destroy_srq = DestroySharedQueue;
  calls_.create_qp = CreateQueuePair;
  calls_.modify_qp = ModifyQueuePair;
  calls_.destroy_qp = DestroyQueuePair;
}

FakeVerbs::~FakeVerbs() {
  for (const auto& [handle, channel] : channels_) {
    close(handle->fd);
  }
  present = nullptr;
}

void FakeVerbs::FailNext(uint32_t queue_pair, ibv_wc_status status, uint64_t landing_bytes) {
  if (QueuePair* pair = Find(queue_pair)) {
    pair->fault = Fault{.status = status, .landing_bytes = landing_bytes};
  }
}

void FakeVerbs::RefuseNext(uint32_t queue_pair, size_t taken) {
  if (QueuePair* pair = Find(queue_pair)) {
    pair->refuse_after = taken;
  }
}

ibv_device** FakeVerbs::GetDeviceList(int* count) {
  *count = 1;
  return present->list_;
}

int FakeVerbs::QueryPort(ibv_context* /*context*/, uint8_t /*port*/, _compat_ibv_port_attr* facts) {
  auto* found = reinterpret_cast<ibv_port_attr*>(facts);
  *found = {};
  found->state = IBV_PORT_ACTIVE;
  found->active_mtu = IBV_MTU_4096;
  found->gid_tbl_len = 1;
  found->link_layer = IBV_LINK_LAYER_ETHERNET;
  return 0;
}

// NOLINTNEXTLINE(readability-function-size): the parameters are libibverbs'
int FakeVerbs::QueryGidEntry(ibv_context* /*context*/, uint32_t port, uint32_t index,
                             ibv_gid_entry* entry, uint32_t /*flags*/, size_t /*entry_bytes*/) {
  *entry = {};
  entry->port_num = port;
  entry->gid_index = index;
  entry->gid_type = IBV_GID_TYPE_ROCE_V2;
  // ::ffff:127.0.0.1
  entry->gid.raw[10] = entry->gid.raw[11] = 0xFF;
  entry->gid.raw[12] = 127;
  entry->gid.raw[15] = 1;
  return 0;
}

int FakeVerbs::FreeDomain(ibv_pd* pd) {
  const auto is_of_it = [pd](const auto& entry) { return entry.second->handle.pd == pd; };
  if (std::any_of(present->regions_.begin(), present->regions_.end(), is_of_it) ||
      std::any_of(present->shared_.begin(), present->shared_.end(), is_of_it) ||
      std::any_of(present->pairs_.begin(), present->pairs_.end(), is_of_it) ||
      std::any_of(present->windows_.begin(), present->windows_.end(), is_of_it)) {
    return EBUSY;
  }
  return present->domains_.erase(pd) == 1 ? 0 : EINVAL;
}

ibv_mr* FakeVerbs::RegisterRegion(ibv_pd* pd, void* address, size_t bytes, int access) {
  if (!present->pins_) {
    errno = ENOMEM;
    return nullptr;
  }
  auto region = std::make_unique<Region>();
  region->handle = {.context = pd->context, .pd = pd, .addr = address, .length = bytes};
  region->handle.lkey = region->handle.rkey = present->next_key_ += 0x100;
  region->access = access;
  ibv_mr* handle = &region->handle;
  present->regions_[handle->lkey] = std::move(region);
  return handle;
}

int FakeVerbs::DeregisterRegion(ibv_mr* mr) {
  for (const auto& [handle, window] : present->windows_) {
    if (window->bound.mr == mr) {
      return EBUSY;
    }
  }
  present->regions_.erase(mr->lkey);
  return present->dead_ ? EIO : 0;
}

ibv_cq* FakeVerbs::CreateCompletionQueue(ibv_context* context, int entries, void* /*user*/,
                                         ibv_comp_channel* channel, int /*vector*/) {
  auto queue = std::make_unique<CompletionQueue>();
  queue->handle.context = context;
  queue->handle.cqe = entries;
  queue->handle.channel = channel;
  ibv_cq* handle = &queue->handle;
  present->completions_[handle] = std::move(queue);
  return handle;
}

int FakeVerbs::DestroyCompletionQueue(ibv_cq* cq) {
  return present->completions_.erase(cq) == 1 ? 0 : EINVAL;
}

ibv_comp_channel* FakeVerbs::CreateChannel(ibv_context* context) {
  auto channel = std::make_unique<ibv_comp_channel>();
  channel->context = context;
  channel->fd = eventfd(0, EFD_CLOEXEC);
  ibv_comp_channel* handle = channel.get();
  present->channels_[handle] = std::move(channel);
  return handle;
}

int FakeVerbs::DestroyChannel(ibv_comp_channel* channel) {
  for (const auto& [handle, queue] : present->completions_) {
    if (handle->channel == channel) {
      return EBUSY;
    }
  }
  close(channel->fd);
  return present->channels_.erase(channel) == 1 ? 0 : EINVAL;
}

int FakeVerbs::GetEvent(ibv_comp_channel* channel, ibv_cq** cq, void** user) {
  uint64_t count = 0;
  if (read(channel->fd, &count, sizeof(count)) != sizeof(count)) {
    return -1;
  }
  for (const auto& [handle, queue] : present->completions_) {
    *cq = handle->channel == channel ? handle : *cq;
  }
  *user = nullptr;
  return 0;
}

int FakeVerbs::Arm(ibv_cq* cq, int /*solicited_only*/) {
  present->completions_.at(cq)->armed = true;
  present->Wake();
  return present->dead_ ? EIO : 0;
}

// One event for an arming, and none for what is in the queue already.
void FakeVerbs::TellEvent(CompletionQueue* queue) {
  if (std::exchange(queue->armed, false)) {
    const uint64_t one = 1;
    GEMEL_CHECK(write(queue->handle.channel->fd, &one, sizeof(one)) == sizeof(one));
  }
}

void FakeVerbs::Push(CompletionQueue* queue, const ibv_wc& entry) {
  queue->entries.push_back(entry);
  TellEvent(queue);
}

void FakeVerbs::Wake() {
  const bool busy = std::any_of(pairs_.begin(), pairs_.end(),
                                [this](const auto& entry) { return MayGoOn(*entry.second); });
  for (const auto& [handle, queue] : completions_) {
    if (busy) {
      TellEvent(queue.get());
    }
  }
}

ibv_srq* FakeVerbs::CreateSharedQueue(ibv_pd* pd, ibv_srq_init_attr* wanted) {
  if (present->shared_.size() >= static_cast<size_t>(present->shared_max_) ||
      wanted->attr.max_wr > static_cast<uint32_t>(present->shared_receives_max_)) {
    errno = ENOMEM;
    return nullptr;
  }
  auto shared = std::make_unique<SharedQueue>();
  shared->handle.context = pd->context;
  shared->handle.pd = pd;
  shared->room = wanted->attr.max_wr;
  ibv_srq* handle = &shared->handle;
  present->shared_[handle] = std::move(shared);
  return handle;
}

int FakeVerbs::DestroySharedQueue(ibv_srq* srq) {
  for (const auto& [number, pair] : present->pairs_) {
    if (pair->handle.srq == srq) {
      return EBUSY;
    }
  }
  return present->shared_.erase(srq) == 0 ? EINVAL : present->dead_ ? EIO : 0;
}

int FakeVerbs::PostSharedReceive(ibv_srq* srq, ibv_recv_wr* work, ibv_recv_wr** refused) {
  SharedQueue& shared = *present->shared_.at(srq);
  for (; work != nullptr; work = work->next) {
    *refused = work;
    std::optional<uint64_t>& refuse_after = present->refuse_shared_after_;
    const bool refuse = refuse_after == 0;
    if (refuse) {
      refuse_after.reset();
    } else if (refuse_after.has_value()) {
      *refuse_after -= 1;
    }
    if (refuse || present->dead_) {
      return EIO;
    }
    if (shared.receives.size() >= shared.room) {
      return ENOMEM;
    }
    shared.receives.emplace_back(work->wr_id, work->num_sge == 0 ? ibv_sge{} : *work->sg_list);
  }
  present->Wake();
  return 0;
}

size_t FakeVerbs::shared_receives() const {
  size_t posted = 0;
  for (const auto& [handle, shared] : shared_) {
    posted += shared->receives.size();
  }
  return posted;
}

size_t FakeVerbs::pinned_bytes() const {
  size_t bytes = 0;
  for (const auto& [key, region] : regions_) {
    bytes += region->handle.length;
  }
  return bytes;
}

ibv_qp* FakeVerbs::CreateQueuePair(ibv_pd* pd, ibv_qp_init_attr* wanted) {
  auto pair = std::make_unique<QueuePair>();
  pair->handle.context = pd->context;
  pair->handle.pd = pd;
  pair->handle.send_cq = wanted->send_cq;
  pair->handle.recv_cq = wanted->recv_cq;
  pair->handle.qp_num = present->next_number_++;
  pair->handle.srq = wanted->srq;
  pair->shared = wanted->srq == nullptr ? nullptr : present->shared_.at(wanted->srq).get();
  pair->room = wanted->cap;
  ibv_qp* handle = &pair->handle;
  present->pairs_[handle->qp_num] = std::move(pair);
  return handle;
}

int FakeVerbs::ModifyQueuePair(ibv_qp* qp, ibv_qp_attr* wanted, int mask) {
  if (present->dead_) {
    return EIO;
  }
  present->GoOn();
  QueuePair* pair = present->Find(qp->qp_num);
  const ibv_qp_state from = pair->state;
  const ibv_qp_state to = wanted->qp_state;
  if (to != IBV_QPS_ERR && static_cast<int>(to) != static_cast<int>(from) + 1) {
    return EINVAL;
  }
  if ((mask & IBV_QP_DEST_QPN) != 0) {
    pair->peer = wanted->dest_qp_num;
  }
  if ((mask & IBV_QP_RNR_RETRY) != 0) {
    constexpr uint8_t kForEver = 7;
    pair->waits_for_receives = wanted->rnr_retry == kForEver;
  }
  if (to == IBV_QPS_ERR) {
    present->Fail(pair);
  } else {
    pair->state = to;
  }
  return 0;
}

int FakeVerbs::DestroyQueuePair(ibv_qp* qp) {
  for (const auto& [handle, window] : present->windows_) {
    if (window->bound.length > 0 && window->queue_pair == qp->qp_num && !present->dead_) {
      return EBUSY;  // soft-RoCE waits instead
    }
  }
  CompletionQueue& queue = *present->completions_.at(qp->send_cq);
  std::erase_if(queue.entries, [qp](const ibv_wc& entry) { return entry.qp_num == qp->qp_num; });
  present->pairs_.erase(qp->qp_num);
  return present->dead_ ? EIO : 0;
}

ibv_mw* FakeVerbs::AllocateWindow(ibv_pd* pd, ibv_mw_type type) {
  auto window = std::make_unique<Window>();
  window->handle.context = pd->context;
  window->handle.pd = pd;
  window->handle.type = type;
  window->handle.rkey = window->key = present->next_key_ += 0x100;
  ibv_mw* handle = &window->handle;
  present->windows_[handle] = std::move(window);
  return handle;
}

int FakeVerbs::FreeWindow(ibv_mw* mw) { return present->windows_.erase(mw) == 1 ? 0 : EINVAL; }

int FakeVerbs::PostSend(ibv_qp* qp, ibv_send_wr* work, ibv_send_wr** refused) {
  QueuePair* pair = present->Find(qp->qp_num);
  for (size_t taken = 0; work != nullptr; work = work->next, ++taken) {
    *refused = work;
    const bool refuse = pair->refuse_after == taken;
    if (refuse) {
      pair->refuse_after.reset();
    }
    const int error = refuse || present->dead_ ? EIO : Accept(pair, *work);
    if (error != 0) {
      return error;
    }
  }
  *refused = nullptr;
  present->Wake();
  return 0;
}

int FakeVerbs::Accept(QueuePair* pair, const ibv_send_wr& work) {
  if (pair->state != IBV_QPS_RTS && pair->state != IBV_QPS_ERR) {
    return EINVAL;
  }
  if (pair->requests.size() >= pair->room.max_send_wr) {
    return ENOMEM;
  }
  const bool inlined = (work.send_flags & IBV_SEND_INLINE) != 0;
  if (inlined && BytesOf(work) > pair->room.max_inline_data) {
    return EINVAL;
  }
  Request& request = pair->requests.emplace_back();
  request.work = work;
  request.work.next = nullptr;
  request.window_key = work.opcode == IBV_WR_BIND_MW ? work.bind_mw.mw->rkey : 0;
  if (work.num_sge > 0) {
    request.piece = *work.sg_list;
    request.work.sg_list = &request.piece;
  }
  if (inlined && BytesOf(work) > 0) {
    request.inlined.assign(At(request.piece.addr), At(request.piece.addr) + request.piece.length);
  }
  return 0;
}

int FakeVerbs::PostReceive(ibv_qp* qp, ibv_recv_wr* work, ibv_recv_wr** refused) {
  QueuePair* pair = present->Find(qp->qp_num);
  *refused = work;
  if (present->dead_) {
    return EIO;
  }
  if (pair->shared != nullptr) {
    return EINVAL;
  }
  if (pair->receives.size() >= pair->room.max_recv_wr) {
    return ENOMEM;
  }
  pair->receives.emplace_back(work->wr_id, work->num_sge == 0 ? ibv_sge{} : *work->sg_list);
  if (pair->state == IBV_QPS_ERR) {
    present->Fail(pair);
  }
  present->Wake();
  return 0;
}

int FakeVerbs::Poll(ibv_cq* cq, int count, ibv_wc* done) {
  if (present->dead_) {
    return -EIO;
  }
  present->Step();
  std::deque<ibv_wc>& entries = present->completions_.at(cq)->entries;
  int found = 0;
  for (; found < count && !entries.empty(); ++found) {
    done[found] = entries.front();
    entries.pop_front();
  }
  present->Wake();
  return found;
}

FakeVerbs::QueuePair* FakeVerbs::Find(uint32_t number) {
  const auto found = pairs_.find(number);
  return found == pairs_.end() ? nullptr : found->second.get();
}

bool FakeVerbs::Step() {
  std::vector<QueuePair*> busy;
  for (const auto& [number, pair] : pairs_) {
    if (MayGoOn(*pair)) {
      busy.push_back(pair.get());
    }
  }
  if (busy.empty()) {
    return false;
  }
  CarryOut(busy[random_.Below(busy.size())]);
  return true;
}

// It has a request, which does not wait for a receive of its peer.
bool FakeVerbs::MayGoOn(const QueuePair& pair) {
  if (pair.requests.empty()) {
    return false;
  }
  const ibv_wr_opcode opcode = pair.requests.front().work.opcode;
  QueuePair* responder = Find(pair.peer);
  const bool delivers = opcode == IBV_WR_SEND || opcode == IBV_WR_RDMA_WRITE_WITH_IMM;
  return !delivers || !pair.waits_for_receives || pair.fault.has_value() ||
         pair.state != IBV_QPS_RTS || responder == nullptr ||
         responder->peer != pair.handle.qp_num || responder->state == IBV_QPS_ERR ||
         !ReceivesOf(responder).empty();
}

std::deque<std::pair<uint64_t, ibv_sge>>& FakeVerbs::ReceivesOf(QueuePair* pair) {
  return pair->shared != nullptr ? pair->shared->receives : pair->receives;
}

// The first bytes of a message that does not come in whole.
void FakeVerbs::Arrive(QueuePair* responder, const Request& request, uint64_t bytes) {
  if (responder->shared == nullptr || responder->arriving.has_value() ||
      responder->shared->receives.empty() || responder->state == IBV_QPS_ERR) {
    return;
  }
  const auto [id, buffer] = responder->shared->receives.front();
  responder->shared->receives.pop_front();
  responder->arriving = id;
  const bool inlined = (request.work.send_flags & IBV_SEND_INLINE) != 0;
  std::memcpy(At(buffer.addr), inlined ? request.inlined.data() : At(request.piece.addr),
              std::min<uint64_t>(bytes, buffer.length));
}

void FakeVerbs::GoOn() {
  while (random_.Chance(1, 2) && Step()) {
  }
}

size_t FakeVerbs::Held(uint32_t queue_pair) const {
  const auto found = pairs_.find(queue_pair);
  return found == pairs_.end() ? 0 : found->second->requests.size();
}

void FakeVerbs::CarryOut(QueuePair* pair) {
  Request& request = pair->requests.front();
  const ibv_wc_status status =
      pair->state == IBV_QPS_ERR ? IBV_WC_WR_FLUSH_ERR : Execute(pair, &request);
  Tell(*pair, request, status);
  pair->requests.pop_front();
  if (status != IBV_WC_SUCCESS && pair->state != IBV_QPS_ERR) {
    Fail(pair);
  }
}

ibv_wc_status FakeVerbs::Execute(QueuePair* pair, Request* request) {
  if (pair->fault) {
    const Fault fault = *std::exchange(pair->fault, std::nullopt);
    const bool reads = request->work.opcode == IBV_WR_RDMA_READ;
    const bool writes = request->work.opcode == IBV_WR_RDMA_WRITE ||
                        request->work.opcode == IBV_WR_RDMA_WRITE_WITH_IMM;
    const uint64_t bytes = std::min<uint64_t>(fault.landing_bytes, BytesOf(request->work));
    QueuePair* responder = Find(pair->peer);
    if ((reads || writes) && bytes > 0 && responder != nullptr &&
        MayReach(*responder, request->work.wr.rdma.rkey, request->work.wr.rdma.remote_addr, bytes,
                 reads ? IBV_ACCESS_REMOTE_READ : IBV_ACCESS_REMOTE_WRITE)) {
      std::byte* there = At(request->work.wr.rdma.remote_addr);
      std::byte* here = At(request->piece.addr);
      std::memcpy(reads ? here : there, reads ? there : here, bytes);
    }
    if (request->work.opcode == IBV_WR_SEND && bytes > 0 && responder != nullptr) {
      Arrive(responder, *request, bytes);
    }
    return fault.status;
  }
  if (request->work.opcode == IBV_WR_BIND_MW) {
    return BindWindow(*pair, *request);
  }
  if (request->work.opcode == IBV_WR_LOCAL_INV) {
    return InvalidateWindow(*pair, request->work.invalidate_rkey);
  }
  return Transfer(pair, request);
}

ibv_wc_status FakeVerbs::Transfer(QueuePair* pair, Request* request) {
  const ibv_send_wr& work = request->work;
  const uint64_t bytes = BytesOf(work);
  const bool inlined = (work.send_flags & IBV_SEND_INLINE) != 0;
  if (bytes > 0 && !inlined &&
      RegionOf(pair->handle.pd, request->piece.lkey, request->piece.addr, bytes) == nullptr) {
    return IBV_WC_LOC_PROT_ERR;
  }
  QueuePair* responder = Find(pair->peer);
  if (responder == nullptr || responder->peer != pair->handle.qp_num ||
      (responder->state != IBV_QPS_RTR && responder->state != IBV_QPS_RTS)) {
    return IBV_WC_RETRY_EXC_ERR;
  }
  const std::byte* source = inlined ? request->inlined.data() : At(request->piece.addr);
  if (work.opcode != IBV_WR_SEND && bytes > 0) {
    const bool reads = work.opcode == IBV_WR_RDMA_READ;
    if (!MayReach(*responder, work.wr.rdma.rkey, work.wr.rdma.remote_addr, bytes,
                  reads ? IBV_ACCESS_REMOTE_READ : IBV_ACCESS_REMOTE_WRITE)) {
      Fail(responder);
      return IBV_WC_REM_ACCESS_ERR;
    }
    std::byte* there = At(work.wr.rdma.remote_addr);
    std::memmove(reads ? At(request->piece.addr) : there, reads ? there : source, bytes);
  }
  return work.opcode == IBV_WR_SEND || work.opcode == IBV_WR_RDMA_WRITE_WITH_IMM
             ? Deliver(responder, work, source)
             : IBV_WC_SUCCESS;
}

ibv_wc_status FakeVerbs::Deliver(QueuePair* responder, const ibv_send_wr& work,
                                 const std::byte* source) {
  std::deque<std::pair<uint64_t, ibv_sge>>& receives = ReceivesOf(responder);
  if (receives.empty()) {
    return IBV_WC_RNR_RETRY_EXC_ERR;
  }
  const auto [id, buffer] = receives.front();
  const uint64_t bytes = BytesOf(work);
  ibv_wc told{};
  told.wr_id = id;
  told.qp_num = responder->handle.qp_num;
  told.opcode = work.opcode == IBV_WR_SEND ? IBV_WC_RECV : IBV_WC_RECV_RDMA_WITH_IMM;
  told.byte_len = static_cast<uint32_t>(bytes);
  told.imm_data = work.imm_data;
  if (work.opcode == IBV_WR_SEND && bytes > buffer.length) {
    told.status = IBV_WC_LOC_LEN_ERR;
  } else if (work.opcode == IBV_WR_SEND && bytes > 0) {
    if (RegionOf(responder->handle.pd, buffer.lkey, buffer.addr, bytes) == nullptr) {
      told.status = IBV_WC_LOC_PROT_ERR;
    } else {
      std::memcpy(At(buffer.addr), source, bytes);
    }
  }
  receives.pop_front();
  Push(&CompletionsOf(*responder), told);
  if (told.status != IBV_WC_SUCCESS) {
    Fail(responder);
    return told.status == IBV_WC_LOC_LEN_ERR ? IBV_WC_REM_INV_REQ_ERR : IBV_WC_REM_OP_ERR;
  }
  return IBV_WC_SUCCESS;
}

FakeVerbs::CompletionQueue& FakeVerbs::CompletionsOf(const QueuePair& pair) {
  return *completions_.at(pair.handle.send_cq);
}

const FakeVerbs::Region* FakeVerbs::RegionOf(const ibv_pd* domain, uint32_t local_key,
                                             uint64_t address, uint64_t bytes) const {
  const auto found = regions_.find(local_key);
  if (found == regions_.end() || found->second->handle.pd != domain) {
    return nullptr;
  }
  const auto begin = reinterpret_cast<uintptr_t>(found->second->handle.addr);
  return address >= begin && address + bytes <= begin + found->second->handle.length
             ? found->second.get()
             : nullptr;
}

// By a window that this queue pair bound; the key of a region itself is for nobody but its owner.
bool FakeVerbs::MayReach(const QueuePair& responder, uint32_t key, uint64_t address, uint64_t bytes,
                         unsigned access) const {
  return std::any_of(windows_.begin(), windows_.end(), [&](const auto& entry) {
    const Window& window = *entry.second;
    return window.bound.length > 0 && window.key == key &&
           window.queue_pair == responder.handle.qp_num &&
           (window.bound.mw_access_flags & access) != 0 && address >= window.bound.addr &&
           address + bytes <= window.bound.addr + window.bound.length;
  });
}

ibv_wc_status FakeVerbs::BindWindow(const QueuePair& pair, const Request& request) {
  const auto found = windows_.find(request.work.bind_mw.mw);
  const ibv_mw_bind_info& wanted = request.work.bind_mw.bind_info;
  const uint32_t key = request.work.bind_mw.rkey;
  if (found == windows_.end() || found->second->bound.length > 0 || wanted.length == 0 ||
      request.window_key != found->second->key || key == found->second->key) {
    return IBV_WC_MW_BIND_ERR;
  }
  const Region* region = RegionOf(pair.handle.pd, wanted.mr->lkey, wanted.addr, wanted.length);
  if (region == nullptr || (region->access & IBV_ACCESS_MW_BIND) == 0) {
    return IBV_WC_MW_BIND_ERR;
  }
  found->second->bound = wanted;
  found->second->queue_pair = pair.handle.qp_num;
  found->second->key = key;
  return IBV_WC_SUCCESS;
}

ibv_wc_status FakeVerbs::InvalidateWindow(const QueuePair& pair, uint32_t key) {
  for (const auto& [handle, window] : windows_) {
    if (window->bound.length > 0 && window->key == key &&
        window->queue_pair == pair.handle.qp_num) {
      window->bound = {};
      return IBV_WC_SUCCESS;
    }
  }
  return IBV_WC_MW_BIND_ERR;
}

// The error state: what is under way is flushed, one Step() each; receives at once, its own alone.
void FakeVerbs::Fail(QueuePair* pair) {
  pair->state = IBV_QPS_ERR;
  if (pair->arriving.has_value() && random_.Chance(1, 2)) {
    pair->receives.emplace_back(*pair->arriving, ibv_sge{});
  } else if (pair->arriving.has_value()) {
    lost_receives_ += 1;
  }
  pair->arriving.reset();
  while (!pair->receives.empty()) {
    ibv_wc told{};
    told.wr_id = pair->receives.front().first;
    told.qp_num = pair->handle.qp_num;
    told.status = IBV_WC_WR_FLUSH_ERR;
    Push(&CompletionsOf(*pair), told);
    pair->receives.pop_front();
  }
}

// A success that was not signalled is not told; an error always is.
void FakeVerbs::Tell(const QueuePair& pair, const Request& request, ibv_wc_status status) {
  if (status == IBV_WC_SUCCESS && (request.work.send_flags & IBV_SEND_SIGNALED) == 0) {
    return;
  }
  ibv_wc told{};
  told.wr_id = request.work.wr_id;
  told.qp_num = pair.handle.qp_num;
  told.status = status;
  Push(&CompletionsOf(pair), told);
}

}  // namespace gemel

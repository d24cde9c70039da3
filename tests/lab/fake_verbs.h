// SPDX-License-Identifier: Apache-2.0
//
// FakeVerbs: an RDMA device of this process, behind the table of functions that the real one has
// (transport/verbs/verbs_calls.h). Its queue pairs keep the rules that the fabric relies on: keys
// and bounds of regions, windows of type 2B that work on the queue pair that bound them, requests
// of one queue pair in order, the error state that flushes the rest. Shared receive queues are
// taken from in the order of posting, whoever's message it is, and belong to no queue pair: none is
// flushed, but for one that a message had taken which failed half way (FailNext() of a Send() with
// landing bytes), and that only perhaps: else it is lost.
//
// Scriptable: Step() carries out one request of a queue pair that the seed chooses (polling does
// one Step(), too, and while requests are under way every queue that is armed tells of an event, so
// that a loop goes on); FailNext() gives the next request of a queue pair any status, with or
// without its bytes at their place.
//
// Thread safety: one thread. One at a time: ibv_get_device_list() has no argument to tell two
// apart.
#pragma once

#include <infiniband/verbs.h>

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "common/random.h"
#include "transport/verbs/verbs_calls.h"

namespace gemel {

class FakeVerbs {
 public:
  explicit FakeVerbs(uint64_t seed);
  FakeVerbs(const FakeVerbs&) = delete;
  FakeVerbs& operator=(const FakeVerbs&) = delete;
  ~FakeVerbs();

  const VerbsCalls& calls() const { return calls_; }

  // The next request of that queue pair that is carried out ends so, if it is still there; of a
  // write or a read the first `landing_bytes` are at their place then.
  void FailNext(uint32_t queue_pair, ibv_wc_status status, uint64_t landing_bytes);
  // The next doorbell of that queue pair takes only `taken` requests of the chain.
  void RefuseNext(uint32_t queue_pair, size_t taken);

  // So many shared receive queues may be made from now on, of `receives` at most.
  void LimitSharedQueues(int count, int receives) {
    shared_max_ = count;
    shared_receives_max_ = receives;
  }

  // The shared receive queues take so many more receives, then one is refused.
  void RefuseSharedReceiveAfter(uint64_t taken) { refuse_shared_after_ = taken; }

  // Of all shared receive queues together: posted, and taken by no message.
  size_t shared_receives() const;

  // Taken by messages that failed half way, and told by nobody.
  uint64_t lost_receives() const { return lost_receives_; }

  // In the regions that are registered.
  size_t pinned_bytes() const;

  // From now on no more memory may be pinned.
  void PinNoMore() { pins_ = false; }

  // From now on the device takes and tells nothing: every call of it fails with EIO.
  void Die() { dead_ = true; }

  // False when no request is under way, or each waits for a receive of the peer.
  bool Step();
  // Requests of that queue pair that the device has not ended, and whose memory it may still use.
  size_t Held(uint32_t queue_pair) const;

 private:
  struct Request {
    ibv_send_wr work{};
    std::vector<std::byte> inlined;
    ibv_sge piece{};
    uint32_t window_key = 0;  // of the window to bind, as it was at the doorbell
  };

  struct Fault {
    ibv_wc_status status;
    uint64_t landing_bytes;
  };

  struct SharedQueue {
    ibv_srq handle{};
    uint32_t room = 0;
    std::deque<std::pair<uint64_t, ibv_sge>> receives;
  };

  struct QueuePair {
    ibv_qp handle{};
    ibv_qp_cap room{};
    ibv_qp_state state = IBV_QPS_RESET;
    uint32_t peer = 0;
    std::deque<Request> requests;
    bool waits_for_receives = false;   // for ever, where the peer has none
    SharedQueue* shared = nullptr;     // then `receives` is empty
    std::optional<uint64_t> arriving;  // a receive that a message has taken and not filled
    std::deque<std::pair<uint64_t, ibv_sge>> receives;
    std::optional<Fault> fault;
    std::optional<size_t> refuse_after;
  };

  struct CompletionQueue {
    ibv_cq handle{};
    std::deque<ibv_wc> entries;
    bool armed = false;
  };

  struct Region {
    ibv_mr handle{};
    int access = 0;
  };

  struct Window {
    ibv_mw handle{};
    ibv_mw_bind_info bound{};  // length 0: not bound
    uint32_t queue_pair = 0;
    uint32_t key = 0;  // the device's own word
  };

  static ibv_device** GetDeviceList(int* count);
  static int QueryPort(ibv_context* context, uint8_t port, _compat_ibv_port_attr* facts);
  static int QueryGidEntry(ibv_context* context, uint32_t port, uint32_t index,
                           ibv_gid_entry* entry, uint32_t flags, size_t entry_bytes);
  static int FreeDomain(ibv_pd* pd);
  static ibv_mr* RegisterRegion(ibv_pd* pd, void* address, size_t bytes, int access);
  static int DeregisterRegion(ibv_mr* mr);
  static ibv_cq* CreateCompletionQueue(ibv_context* context, int entries, void* user,
                                       ibv_comp_channel* channel, int vector);
  static int DestroyCompletionQueue(ibv_cq* cq);
  static ibv_comp_channel* CreateChannel(ibv_context* context);
  static int DestroyChannel(ibv_comp_channel* channel);
  static int GetEvent(ibv_comp_channel* channel, ibv_cq** cq, void** user);
  static int Arm(ibv_cq* cq, int solicited_only);
  static ibv_srq* CreateSharedQueue(ibv_pd* pd, ibv_srq_init_attr* wanted);
  static int DestroySharedQueue(ibv_srq* srq);
  static int PostSharedReceive(ibv_srq* srq, ibv_recv_wr* work, ibv_recv_wr** refused);
  static ibv_qp* CreateQueuePair(ibv_pd* pd, ibv_qp_init_attr* wanted);
  static int ModifyQueuePair(ibv_qp* qp, ibv_qp_attr* wanted, int mask);
  static int DestroyQueuePair(ibv_qp* qp);
  static ibv_mw* AllocateWindow(ibv_pd* pd, ibv_mw_type type);
  static int FreeWindow(ibv_mw* mw);
  static int PostSend(ibv_qp* qp, ibv_send_wr* work, ibv_send_wr** refused);
  static int Accept(QueuePair* pair, const ibv_send_wr& work);
  static int PostReceive(ibv_qp* qp, ibv_recv_wr* work, ibv_recv_wr** refused);
  static int Poll(ibv_cq* cq, int count, ibv_wc* done);

  void GoOn();
  static void TellEvent(CompletionQueue* queue);
  static void Push(CompletionQueue* queue, const ibv_wc& entry);
  void Wake();
  QueuePair* Find(uint32_t number);
  bool MayGoOn(const QueuePair& pair);
  static std::deque<std::pair<uint64_t, ibv_sge>>& ReceivesOf(QueuePair* pair);
  void Arrive(QueuePair* responder, const Request& request, uint64_t bytes);
  CompletionQueue& CompletionsOf(const QueuePair& pair);
  const Region* RegionOf(const ibv_pd* domain, uint32_t local_key, uint64_t address,
                         uint64_t bytes) const;
  bool MayReach(const QueuePair& responder, uint32_t key, uint64_t address, uint64_t bytes,
                unsigned access) const;
  void CarryOut(QueuePair* pair);
  ibv_wc_status Execute(QueuePair* pair, Request* request);
  ibv_wc_status Transfer(QueuePair* pair, Request* request);
  ibv_wc_status Deliver(QueuePair* responder, const ibv_send_wr& work, const std::byte* source);
  ibv_wc_status BindWindow(const QueuePair& pair, const Request& request);
  ibv_wc_status InvalidateWindow(const QueuePair& pair, uint32_t key);
  void Fail(QueuePair* pair);
  void Tell(const QueuePair& pair, const Request& request, ibv_wc_status status);

  VerbsCalls calls_;
  Random random_;
  bool dead_ = false;
  bool pins_ = true;
  int shared_max_ = 1024;
  int shared_receives_max_ = 1 << 15;
  std::optional<uint64_t> refuse_shared_after_;
  uint64_t lost_receives_ = 0;
  ibv_device device_{};
  ibv_device* list_[2] = {};
  ibv_context context_{};
  std::map<ibv_pd*, std::unique_ptr<ibv_pd>> domains_;
  uint32_t next_key_ = 0x100;
  uint32_t next_number_ = 17;
  std::map<ibv_srq*, std::unique_ptr<SharedQueue>> shared_;
  std::map<uint32_t, std::unique_ptr<QueuePair>> pairs_;  // by number
  std::map<ibv_cq*, std::unique_ptr<CompletionQueue>> completions_;
  std::map<ibv_comp_channel*, std::unique_ptr<ibv_comp_channel>> channels_;
  std::map<uint32_t, std::unique_ptr<Region>> regions_;  // by local key
  std::map<ibv_mw*, std::unique_ptr<Window>> windows_;
};

}  // namespace gemel

// SPDX-License-Identifier: Apache-2.0
//
// What of etcd needs no etcd: addresses, failures, versions. The store itself: tests/etcd.
#include <gmock/gmock.h>

#include "common/epoll_loop.h"
#include "common/errors.h"
#include "common/random.h"
#include "placement/store/etcd_address.h"
#include "placement/store/etcd_client.h"
#include "placement/store/etcd_errors.h"

namespace gemel {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

TEST(EtcdAddress, NamesMembersAndTheClustersOwnName) {
  const auto address = ParseEtcdAddress("etcd://127.0.0.1:2379,[::1]:2381/prod-7");
  ASSERT_TRUE(address.ok()) << address.status();
  EXPECT_THAT(address->members, ElementsAre("127.0.0.1:2379", "[::1]:2381"));
  EXPECT_EQ(address->Prefix(), "/gemel/prod-7/");
  EXPECT_EQ(ParseEtcdAddress("etcd://127.0.0.1:2379")->Prefix(), "/gemel/default/");
}

TEST(EtcdAddress, RefusesWhatIsNoneAndSaysWhatItLooksLike) {
  for (const char* wrong :
       {"", "127.0.0.1:2379", "http://127.0.0.1:2379", "etcd://", "etcd:///name", "etcd://a:1,",
        "etcd://,a:1", "etcd://a:1,b:1,a:1", "etcd://a:1/", "etcd://a:1/x/y", "etcd://a:1/a b",
        "etcd://1:1,2:1,3:1,4:1,5:1,6:1,7:1,8:1,9:1,10:1,11:1,12:1,13:1,14:1,15:1,16:1,17:1"}) {
    const auto refused = ParseEtcdAddress(wrong);
    EXPECT_TRUE(absl::IsInvalidArgument(refused.status())) << wrong;
    EXPECT_THAT(ToText(refused.status()), HasSubstr("etcd://HOST:PORT")) << wrong;
  }
}

TEST(EtcdClient, AMemberBeyondThisMachineNeedsCertificates) {
  const auto loop = *EpollLoop::Create();
  EtcdClient::Options options{.members = {"127.0.0.1:2379", "192.0.2.1:2379"},
                              .probe_key = "k",
                              .name = "the store",
                              .attempt_timeout = 1s,
                              .operation_timeout = 1s};
  const auto refused = EtcdClient::Create(loop.get(), options);
  EXPECT_TRUE(absl::IsPermissionDenied(refused.status())) << refused.status();
  EXPECT_THAT(ToText(refused.status()), HasSubstr("--etcd-cacert"));
  options.tls = GrpcTls{};
  EXPECT_TRUE(EtcdClient::Create(loop.get(), options).ok());
  for (const char* wrong : {"192.0.2.1", "192.0.2.1:", ":2379", "a/b:1", "host:port"}) {
    options.members = {wrong};
    EXPECT_TRUE(absl::IsInvalidArgument(EtcdClient::Create(loop.get(), options).status())) << wrong;
  }
  loop->Shutdown();
}

struct Case {
  absl::StatusCode code;
  const char* text;
  EtcdVerdict verdict;
  absl::StatusCode becomes;
};

TEST(EtcdFailure, OnlyWhatWasCertainlyNotAppliedIsToldSo) {
  using C = absl::StatusCode;
  using V = EtcdVerdict;
  const Case cases[] = {
      {C::kUnavailable, "failed to connect to all addresses; last error: …", V::kElsewhere,
       C::kUnavailable},
      {C::kUnavailable, "etcdserver: no leader", V::kElsewhere, C::kUnavailable},
      {C::kResourceExhausted, "etcdserver: too many requests", V::kElsewhere, C::kUnavailable},
      {C::kUnavailable, "etcdserver: rpc not supported for learner", V::kElsewhere,
       C::kUnavailable},
      {C::kResourceExhausted, "etcdserver: mvcc: database space exceeded", V::kFull,
       C::kResourceExhausted},
      {C::kInvalidArgument, "etcdserver: request is too large", V::kRefused, C::kInvalidArgument},
      {C::kInvalidArgument, "etcdserver: too many operations in txn request", V::kRefused,
       C::kInvalidArgument},
      {C::kInvalidArgument, "etcdserver: user name is empty", V::kRefused, C::kPermissionDenied},
      {C::kPermissionDenied, "etcdserver: permission denied", V::kRefused, C::kPermissionDenied},
      {C::kUnauthenticated, "anything", V::kRefused, C::kPermissionDenied},
      {C::kDataLoss, "etcdserver: corrupt cluster", V::kRefused, C::kDataLoss},
      {C::kUnimplemented, "unknown service etcdserverpb.KV", V::kRefused, C::kFailedPrecondition},
      {C::kOutOfRange, "etcdserver: mvcc: required revision has been compacted", V::kCompacted,
       C::kOutOfRange},
      {C::kResourceExhausted, "Received message larger than max (5 vs. 4)", V::kTooLarge,
       C::kInvalidArgument},
      {C::kResourceExhausted, "grpc: received message larger than max (5 vs. 4)", V::kTooLarge,
       C::kInvalidArgument},
      {C::kUnavailable, "etcdserver: request timed out", V::kUnknown, C::kUnknown},
      {C::kUnavailable, "etcdserver: request timed out, possibly due to previous leader failure",
       V::kUnknown, C::kUnknown},
      {C::kUnavailable, "etcdserver: leader changed", V::kUnknown, C::kUnknown},
      {C::kUnavailable, "etcdserver: server stopped", V::kUnknown, C::kUnknown},
      {C::kUnavailable, "Socket closed", V::kUnknown, C::kUnknown},
      {C::kDeadlineExceeded, "Deadline Exceeded", V::kUnknown, C::kUnknown},
      {C::kInternal, "failed to connect", V::kUnknown, C::kUnknown},
      {C::kCancelled, "", V::kUnknown, C::kUnknown},
  };
  for (const Case& c : cases) {
    const EtcdFailure failure = ConvertEtcdFailure(MakeStatus(c.code, c.text), "etcd at here");
    EXPECT_EQ(failure.verdict, c.verdict) << c.text;
    EXPECT_EQ(failure.status.code(), c.becomes) << failure.status;
    EXPECT_THAT(ToText(failure.status), HasSubstr("etcd at here"));
  }
}

TEST(EtcdVersion, ReleasesWithKnownBugsAreNamedAndLaterOnesAreNot) {
  for (const char* old : {"3.3.27", "3.4.23", "3.4.44", "3.5.1", "3.5.27", "3.6.0", "3.6.8"}) {
    EXPECT_THAT(EtcdVersionWarning(old), HasSubstr(old));
    EXPECT_THAT(EtcdVersionWarning(old), HasSubstr("3.5.28"));
  }
  for (const char* good : {"3.4.45", "3.5.28", "3.5.28-rc.0", "3.6.9", "3.7.0", "4.0.0"}) {
    EXPECT_THAT(EtcdVersionWarning(good), IsEmpty()) << good;
  }
  for (const char* none : {"", "x", "3", "3.", "3.5", "-1.2.3"}) {
    EXPECT_THAT(EtcdVersionWarning(none), HasSubstr("which is none")) << none;
  }
}

}  // namespace
}  // namespace gemel

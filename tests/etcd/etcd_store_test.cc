// SPDX-License-Identifier: Apache-2.0
//
// EtcdStore on a real etcd, which etcd_test.py starts, breaks and mends:
//   etcd_store_test --etcd=etcd://127.0.0.1:2379 --gtest_filter=…
// runs the conformance suite (Etcd/*) or one scenario. A scenario that needs something done to etcd
// says a word on standard output and goes on when it gets a line on standard input.
#include "placement/store/etcd_store.h"

#include <gmock/gmock.h>

#include <chrono>
#include <iostream>
#include <numeric>

#include "absl/strings/str_split.h"

#include "common/epoll_loop.h"
#include "common/real_process.h"
#include "placement/store/etcd_client.h"
#include "placement/store/rocksdb_store.h"
#include "tests/unit/placement_store_backends.h"

namespace gemel {
namespace {

using ::testing::HasSubstr;

struct Flags {
  std::string etcd;
  int64_t seconds = 5;
  bool hasty = false;
  GrpcTls tls;
};

Flags flags;

// Patient: a loaded machine is no failure of the store.
EtcdStore::Options Patient(const std::string& name) {
  EtcdStore::Options options;
  options.address = *ParseEtcdAddress(flags.etcd + "/" + name);
  options.attempt_timeout = flags.hasty ? 1s : 10s;
  options.operation_timeout = flags.hasty ? 2s : 30s;
  if (!flags.tls.authorities.empty()) {
    options.tls = flags.tls;
  }
  return options;
}

EtcdStore::Options Usual(const std::string& name) {
  EtcdStore::Options options = Patient(name);
  options.attempt_timeout = EtcdStore::Options().attempt_timeout;
  options.operation_timeout = EtcdStore::Options().operation_timeout;
  return options;
}

class EtcdBackend final : public Backend {
 public:
  explicit EtcdBackend(bool patient = true) : patient_(patient) {
    RealProcess process;
    random_ = std::make_unique<Random>(process.Entropy64());
    name_ = fmt::format("t{:x}", random_->Next());
    loop_ = *EpollLoop::Create();
    Reopen();
  }

  ~EtcdBackend() override {
    store_.reset();
    second_.reset();
    loop_->Shutdown();
  }

  MetaStore* store() override { return store_.get(); }

  MetaStore* second() override {
    if (second_ == nullptr) {
      second_ = Open();
    }
    return second_.get();
  }

  void Reopen() override {
    store_.reset();
    second_.reset();
    store_ = Open();
  }

  void Close() override { store_.reset(); }

  Loop* loop() override { return loop_.get(); }

  void RunUntil(const std::function<bool()>& done) override {
    loop_->RunUntil(done, Add(loop_->Now(), 120s));
  }

  void RunFor(Duration time) {
    loop_->RunUntil([] { return false; }, Add(loop_->Now(), time));
  }

  absl::StatusOr<std::unique_ptr<EtcdStore>> TryOpen(EtcdStore::Options options) {
    return Await(EtcdStore::Open(loop_.get(), random_.get(), std::move(options)));
  }

  std::unique_ptr<EtcdStore> Open() {
    auto opened = TryOpen(patient_ ? Patient(name_) : Usual(name_));
    GEMEL_CHECK(opened.ok()) << ToText(opened.status());
    return *std::move(opened);
  }

  const std::string& name() const { return name_; }

  EpollLoop* epoll() { return loop_.get(); }

 private:
  const bool patient_;
  std::string name_;
  std::unique_ptr<Random> random_;
  std::unique_ptr<EpollLoop> loop_;
  std::unique_ptr<EtcdStore> store_;
  std::unique_ptr<EtcdStore> second_;
};

INSTANTIATE_TEST_SUITE_P(Etcd, MetaStoreConformance, ::testing::Values("etcd"),
                         [](const auto& info) { return std::string(info.param); });

// Until the other side has done what `word` asks for.
void Ask(const std::string& word) {
  std::cout << "ASK " << word << std::endl;
  std::string line;
  GEMEL_CHECK(static_cast<bool>(std::getline(std::cin, line))) << word;
}

// A stream of transactions through whatever happens to etcd. Each puts its number at a counter, by
// compare-and-set, and a key of its own; so nothing may be missing, double or out of order.
struct Stream {
  int64_t applied = 0;
  int64_t unknown = 0;
  int64_t unknown_applied = 0;
  int64_t unavailable = 0;
  Duration longest_gap{};
  absl::Status failed;

  Task<bool> Run(MetaStore* store, Loop* loop, std::string writer, TimePoint until) {
    std::optional<uint64_t> version;
    TimePoint last = loop->Now();
    while (loop->Now() < until) {
      const std::string number = std::to_string(applied + 1);
      Txn txn = PutIf("count/" + writer, number, version);
      txn.puts.emplace_back(fmt::format("n/{}/{:08}", writer, applied + 1), number);
      const absl::StatusOr<CommitResult> result = co_await store->Commit(std::move(txn));
      if (result.ok() && result->applied) {
        version = result->version;
      } else if (result.ok() || absl::IsUnknown(result.status())) {
        // Refused by an own one that was applied late, or not known: the counter tells.
        unknown += result.ok() ? 0 : 1;
        const absl::StatusOr<std::optional<Versioned>> found =
            co_await store->Get("count/" + writer);
        const bool ours = found.ok() && found->has_value() && (*found)->value == number;
        if (!ours) {
          unavailable += found.ok() ? 0 : 1;
          continue;
        }
        unknown_applied += 1;
        version = (*found)->version;
      } else if (absl::IsUnavailable(result.status())) {
        unavailable += 1;
        co_await loop->Sleep(20ms);
        continue;
      } else {
        failed = result.status();
        co_return false;
      }
      applied += 1;
      longest_gap = std::max(longest_gap, loop->Now() - last);
      last = loop->Now();
    }
    co_return true;
  }
};

TEST(EtcdStream, NothingAcknowledgedIsLostAndNothingIsDouble) {
  EtcdBackend backend(false);
  std::array<Stream, 2> streams;
  std::array<std::optional<bool>, 2> ended;
  Ask("started");
  const TimePoint until = Add(backend.loop()->Now(), std::chrono::seconds(flags.seconds));
  backend.Start(streams[0].Run(backend.store(), backend.loop(), "0", until), &ended[0]);
  backend.Start(streams[1].Run(backend.second(), backend.loop(), "1", until), &ended[1]);
  backend.RunUntil([&] { return ended[0].has_value() && ended[1].has_value(); });
  for (size_t i = 0; i < streams.size(); ++i) {
    const Stream& stream = streams[i];
    ASSERT_TRUE(stream.failed.ok()) << stream.failed;
    std::cout << fmt::format("STREAM applied {} unknown {} found {} unavailable {} gap_ms {:.0f}",
                             stream.applied, stream.unknown, stream.unknown_applied,
                             stream.unavailable, Milliseconds(stream.longest_gap))
              << std::endl;
  }
  Ask("mended");
  backend.Reopen();
  for (size_t i = 0; i < streams.size(); ++i) {
    const auto listed = backend.List(fmt::format("n/{}/", i));
    // The last one may have been under way when the time was over.
    const auto found = static_cast<int64_t>(listed.size());
    EXPECT_GE(found, streams[i].applied);
    EXPECT_LE(found, streams[i].applied + 1);
    EXPECT_EQ(backend.Get(fmt::format("count/{}", i))->value, std::to_string(found));
    for (size_t n = 0; n < listed.size(); ++n) {
      ASSERT_EQ(listed[n].second.value, std::to_string(n + 1));
    }
  }
}

// Overwrites one key until etcd has no space; what was told must be what is there.
Task<absl::Status> Fill(MetaStore* store, std::string key, int64_t* refused) {
  std::string before;
  for (int i = 0; i < 1000; ++i) {
    std::string value = fmt::format("{:06}", i);
    value.resize(200'000, 'x');
    Txn txn = Put(key, value);
    const absl::StatusOr<CommitResult> result = co_await store->Commit(std::move(txn));
    if (result.ok()) {
      before = value;
      continue;
    }
    if (!absl::IsResourceExhausted(result.status())) {
      co_return result.status();
    }
    const absl::StatusOr<std::optional<Versioned>> found = co_await store->Get(key);
    const std::string there = found.ok() && found->has_value() ? (*found)->value : "";
    if (there != before) {
      co_return error::Internal("'{}' was told refused, and {} is there after {}",
                                value.substr(0, 6), there.substr(0, 6), before.substr(0, 6));
    }
    *refused += 1;
    co_return result.status();
  }
  co_return absl::OkStatus();
}

TEST(EtcdFull, WhatIsToldRefusedIsNotThereAndSpaceBringsItBack) {
  EtcdBackend backend;
  constexpr size_t kWriters = 8;
  std::array<std::optional<absl::Status>, kWriters> ended;
  int64_t refused = 0;
  for (size_t i = 0; i < kWriters; ++i) {
    backend.Start(Fill(backend.store(), fmt::format("fill/{}", i), &refused), &ended[i]);
  }
  backend.RunUntil([&] {
    return std::all_of(ended.begin(), ended.end(), [](const auto& e) { return e.has_value(); });
  });
  for (const auto& status : ended) {
    ASSERT_TRUE(status.has_value());
    EXPECT_TRUE(absl::IsResourceExhausted(*status)) << *status;
    EXPECT_THAT(ToText(*status), HasSubstr("etcdctl alarm disarm"));
  }
  EXPECT_EQ(refused, static_cast<int64_t>(kWriters));
  EXPECT_EQ(backend.List("fill/").size(), kWriters);  // it is read all the same
  Ask("space");
  EXPECT_TRUE(backend.Commit(Put("after", "1"))->applied);
}

TEST(EtcdBackup, OneThatWasRestoredIsRefusedAndNotChanged) {
  EtcdBackend backend(false);
  ASSERT_TRUE(backend.Commit(Put("a", "in the backup"))->applied);
  MetaStore* reader = backend.second();
  Ask("backup");
  ASSERT_TRUE(backend.Commit(Put("a", "after the backup"))->applied);
  ASSERT_TRUE(backend.Commit(Put("a", "long after the backup"))->applied);
  ASSERT_TRUE(backend.Await(reader->Get("a")).ok());
  Ask("restore");
  const absl::Status read = backend.Await(reader->Get("a")).status();
  EXPECT_TRUE(absl::IsDataLoss(read)) << read;
  EXPECT_THAT(ToText(read), HasSubstr("older backup"));
  const absl::Status refused = backend.Commit(Put("a", "on the backup")).status();
  EXPECT_TRUE(absl::IsDataLoss(refused)) << refused;
  EXPECT_THAT(ToText(refused), HasSubstr("--recover-from-servers"));
  EXPECT_TRUE(absl::IsDataLoss(backend.Await(backend.store()->Get("a")).status()));
  EXPECT_TRUE(absl::IsDataLoss(backend.Await(backend.store()->List("a")).status()));
  EXPECT_TRUE(absl::IsDataLoss(backend.Commit(Put("a", "again")).status()));
  backend.Reopen();  // one that has seen nothing cannot know
  EXPECT_EQ(backend.Get("a")->value, "in the backup");
}

TEST(EtcdBackup, KeysThatAPersonDeletedAreNoticed) {
  EtcdBackend backend(false);
  ASSERT_TRUE(backend.Commit(Put("a", "1"))->applied);
  Ask("delete /gemel/" + backend.name() + "/");
  const absl::Status refused = backend.Commit(Put("a", "2")).status();
  EXPECT_TRUE(absl::IsDataLoss(refused)) << refused;
  EXPECT_TRUE(absl::IsDataLoss(backend.Commit(Put("a", "2")).status()));
}

TEST(EtcdForeign, AnotherEtcdAtTheSameAddressIsRefusedAndNotWritten) {
  EtcdBackend backend(false);
  ASSERT_TRUE(backend.Commit(Put("a", "1"))->applied);
  Ask("another");
  const absl::Status refused = backend.Commit(Put("a", "2")).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(refused)) << refused;
  EXPECT_THAT(ToText(refused), HasSubstr("etcd cluster"));
  EXPECT_FALSE(backend.Await(backend.store()->Get("a")).ok());
}

TEST(EtcdGone, APausedMemberMakesOutcomesUnknownAndReadsUnavailableInBoundedTime) {
  EtcdBackend backend(false);
  ASSERT_TRUE(backend.Commit(Put("a", "1"))->applied);
  Ask("pause");
  const TimePoint begun = backend.loop()->Now();
  EXPECT_TRUE(absl::IsUnknown(backend.Commit(Put("a", "2")).status()));
  EXPECT_TRUE(absl::IsUnavailable(backend.Commit(Put("a", "3")).status()));
  EXPECT_TRUE(absl::IsUnavailable(backend.Await(backend.store()->Get("a")).status()));
  EXPECT_LT(backend.loop()->Now() - begun, 15s);
  Ask("resume");
  const std::string value = backend.Get("a")->value;
  EXPECT_TRUE(value == "1" || value == "2") << value;
  EXPECT_TRUE(backend.Commit(Put("a", "4"))->applied);
}

TEST(EtcdGone, AKilledMemberMakesEverythingUnavailableUntilItIsBack) {
  EtcdBackend backend(false);
  const auto first = backend.Commit(Put("a", "1"));
  ASSERT_TRUE(first.ok() && first->applied);
  Ask("kill");
  // What was sent into the broken connection, at most once; then nothing is sent any more.
  absl::Status refused = backend.Commit(Put("a", "2")).status();
  if (absl::IsUnknown(refused)) {
    refused = backend.Commit(Put("a", "2")).status();
  }
  EXPECT_TRUE(absl::IsUnavailable(refused)) << refused;
  EXPECT_THAT(ToText(refused), HasSubstr("127.0.0.1:"));
  Ask("restart");
  EXPECT_EQ(*backend.Get("a"), (Versioned{"1", first->version}));
  EXPECT_TRUE(backend.Commit(PutIf("a", "2", first->version))->applied);
}

TEST(EtcdGone, CloseWithCallsToAPausedMemberEndsThemAtOnceAsCancelled) {
  EtcdBackend backend;
  ASSERT_TRUE(backend.Commit(Put("a", "1"))->applied);
  Ask("pause");
  std::optional<absl::StatusOr<CommitResult>> commit;
  std::optional<absl::StatusOr<std::vector<KeyValue>>> list;
  backend.Start(backend.store()->Commit(Put("a", "2")), &commit);
  backend.Start(backend.store()->List(""), &list);
  const TimePoint soon = Add(backend.loop()->Now(), 100ms);
  backend.RunFor(100ms);
  EXPECT_FALSE(commit.has_value() || list.has_value());
  backend.Close();
  backend.RunUntil([&] { return commit.has_value() && list.has_value(); });
  EXPECT_TRUE(absl::IsCancelled(commit->status())) << commit->status();
  EXPECT_TRUE(absl::IsCancelled(list->status())) << list->status();
  EXPECT_LT(backend.loop()->Now() - soon, 5s);
  Ask("resume");
}

TEST(EtcdOpen, NobodyThereIsUnavailableAndNamesTheAddress) {
  EtcdBackend backend;
  EtcdStore::Options options = Usual("nobody");
  options.address.members = {"127.0.0.1:1"};
  options.operation_timeout = 1s;
  const auto opened = backend.TryOpen(options);
  EXPECT_TRUE(absl::IsUnavailable(opened.status())) << opened.status();
  EXPECT_THAT(ToText(opened.status()), HasSubstr("127.0.0.1:1"));
}

TEST(EtcdOpen, WorksWhenOnlyTheLastMemberNamedAnswers) {
  EtcdBackend backend;
  EtcdStore::Options options = Usual(backend.name());
  options.address.members.insert(options.address.members.begin(), {"127.0.0.1:1", "127.0.0.1:2"});
  const auto opened = backend.TryOpen(options);
  ASSERT_TRUE(opened.ok()) << opened.status();
  EXPECT_TRUE(backend.Await((*opened)->Commit(Put("a", "1")))->applied);
  EXPECT_EQ(backend.Get("a")->value, "1");
}

TEST(EtcdOpen, TwoNamesInOneEtcdDoNotSeeEachOther) {
  EtcdBackend first;
  EtcdBackend second;
  ASSERT_TRUE(first.Commit(Put("a", "1"))->applied);
  EXPECT_FALSE(second.Get("a").has_value());
  EXPECT_TRUE(second.List("").empty());
}

TEST(EtcdOpen, OfTwoThatOpenAnEmptyNameAtOnceBothDo) {
  EtcdBackend backend;
  const std::string name = backend.name() + "x";
  std::array<std::unique_ptr<Random>, 2> randoms = {std::make_unique<Random>(1),
                                                    std::make_unique<Random>(2)};
  std::array<std::optional<absl::StatusOr<std::unique_ptr<EtcdStore>>>, 2> opened;
  for (size_t i = 0; i < 2; ++i) {
    backend.Start(EtcdStore::Open(backend.loop(), randoms[i].get(), Patient(name)), &opened[i]);
  }
  backend.RunUntil([&] { return opened[0].has_value() && opened[1].has_value(); });
  EXPECT_TRUE(opened[0]->ok() && opened[1]->ok());
}

TEST(EtcdOpen, SaysItsVersion) {
  EtcdBackend backend;
  const auto store = backend.Open();
  EXPECT_TRUE(store->etcd_version().starts_with("3.")) << store->etcd_version();
  std::cout << "VERSION " << store->etcd_version() << std::endl;
}

// Moves one key among the others, each time in one transaction: it is always there, and once.
Task<int> Wander(MetaStore* store, Loop* loop, const bool* stop) {
  int moves = 0;
  std::string at = "k/0000-here";
  Txn first = Put(at, "x");
  const absl::StatusOr<CommitResult> begun = co_await store->Commit(std::move(first));
  GEMEL_CHECK(begun.ok()) << ToText(begun.status());
  while (!*stop) {
    std::string next = fmt::format("k/{:04}-here", (moves + 1) * 137 % 200);
    Txn txn = Put(next, "x");
    txn.deletes.push_back(at);
    const absl::StatusOr<CommitResult> moved = co_await store->Commit(std::move(txn));
    GEMEL_CHECK(moved.ok() && moved->applied) << ToText(moved.status());
    at = std::move(next);
    moves += 1;
    co_await loop->Sleep(1ms);
  }
  co_return moves;
}

TEST(EtcdList, IsOfOneMomentWhileEtcdIsWrittenAndCompactedUnderIt) {
  EtcdBackend backend;
  EtcdStore::Options options = Patient(backend.name());
  options.page_keys = 1;
  const auto opened = backend.TryOpen(options);
  ASSERT_TRUE(opened.ok()) << opened.status();
  constexpr size_t kKeys = 200;
  for (size_t at = 0; at < kKeys; at += 100) {
    Txn txn;
    for (size_t i = at; i < at + 100; ++i) {
      txn.puts.emplace_back(fmt::format("k/{:04}", i), "x");
    }
    ASSERT_TRUE(backend.Commit(std::move(txn))->applied);
  }
  bool stop = false;
  std::optional<int> moves;
  backend.Start(Wander(backend.second(), backend.loop(), &stop), &moves);
  backend.RunFor(50ms);
  int compacted = 0;
  for (int i = 0; i < 3; ++i) {
    std::optional<absl::StatusOr<std::vector<KeyValue>>> listed;
    backend.Start((*opened)->List("k/"), &listed);
    backend.RunFor(20ms);
    if (!listed.has_value()) {
      Ask("compact");  // what this list has begun to read is gone
      compacted += 1;
    }
    backend.RunUntil([&] { return listed.has_value(); });
    ASSERT_TRUE(listed->ok()) << listed->status();
    EXPECT_EQ((*listed)->size(), kKeys + 1);
  }
  EXPECT_GT(compacted, 0);
  stop = true;
  backend.RunUntil([&] { return moves.has_value(); });
  EXPECT_GT(*moves, 0);
  std::cout << fmt::format("COMPACTED {} times, {} moves", compacted, *moves) << std::endl;
}

// Milliseconds of transactions one at a time, as placement's are: a compare, two puts of 300 bytes.
// The first tenth is not counted.
class Times {
 public:
  static constexpr size_t kCount = 1100;
  static constexpr size_t kWarm = 100;

  void Add(Duration time) {
    if (seen_++ >= kWarm) {
      milliseconds_.push_back(Milliseconds(time));
    }
  }

  void Print(std::string_view what) {
    GEMEL_CHECK_EQ(milliseconds_.size(), kCount - kWarm);
    std::sort(milliseconds_.begin(), milliseconds_.end());
    std::cout << fmt::format("BENCH {}: p50 {:.2f} ms, p99 {:.2f} ms", what,
                             milliseconds_[milliseconds_.size() / 2],
                             milliseconds_[milliseconds_.size() * 99 / 100])
              << std::endl;
  }

 private:
  size_t seen_ = 0;
  std::vector<double> milliseconds_;
};

Txn JobTxn(size_t i, std::optional<uint64_t> version) {
  Txn txn = PutIf("job", fmt::format("{:0300}", i), version);
  txn.puts.emplace_back(fmt::format("snapshot/{}", i % 16), std::string(300, 's'));
  return txn;
}

etcdserverpb::TxnRequest Bare(const Txn& txn, const std::string& prefix) {
  etcdserverpb::TxnRequest request;
  for (const Txn::Compare& compare : txn.compares) {
    etcdserverpb::Compare* bare = request.add_compare();
    bare->set_target(etcdserverpb::Compare::MOD);
    bare->set_key(prefix + compare.key);
    bare->set_mod_revision(static_cast<int64_t>(compare.version.value_or(0)));
  }
  for (const auto& [key, value] : txn.puts) {
    etcdserverpb::PutRequest* put = request.add_success()->mutable_request_put();
    put->set_key(prefix + key);
    put->set_value(value);
  }
  return request;
}

TEST(EtcdBench, ATransactionBesideABareOneOfEtcdAndOneOfRocksdb) {
  EtcdBackend backend;
  EtcdClient::Options options{.members = Patient("x").address.members,
                              .probe_key = "probe",
                              .name = "bare etcd",
                              .attempt_timeout = 10s,
                              .operation_timeout = 30s};
  const auto client = *EtcdClient::Create(backend.loop(), options);
  EpollLoop* loop = backend.epoll();
  const std::string dir = fmt::format("{}gemel-bench-{}", ::testing::TempDir(), backend.name());
  auto rocksdb = RocksdbStore::Open(loop, {.dir = dir});
  ASSERT_TRUE(rocksdb.ok()) << rocksdb.status();
  Times store_times;
  Times bare_times;
  Times rocksdb_times;
  std::optional<uint64_t> version;
  std::optional<uint64_t> bare_version;
  std::optional<uint64_t> rocksdb_version;
  for (size_t i = 0; i < Times::kCount; ++i) {
    TimePoint begun = loop->Now();
    const auto done = backend.Commit(JobTxn(i, version));
    store_times.Add(loop->Now() - begun);
    ASSERT_TRUE(done.ok() && done->applied) << done.status();
    version = done->version;

    etcdserverpb::TxnRequest request = Bare(JobTxn(i, bare_version), backend.name());
    begun = loop->Now();
    const auto bare = backend.Await(EtcdClient::Txn(client, std::move(request)));
    bare_times.Add(loop->Now() - begun);
    ASSERT_TRUE(bare.ok() && bare->succeeded()) << bare.status();
    bare_version = static_cast<uint64_t>(bare->header().revision());

    begun = loop->Now();
    const auto synced = backend.Await((*rocksdb)->Commit(JobTxn(i, rocksdb_version)));
    rocksdb_times.Add(loop->Now() - begun);
    ASSERT_TRUE(synced.ok() && synced->applied) << synced.status();
    rocksdb_version = synced->version;
  }
  store_times.Print("EtcdStore");
  bare_times.Print("bare etcd transaction");
  rocksdb_times.Print("RocksdbStore");
  rocksdb->reset();
  client->Close();
}

}  // namespace

std::unique_ptr<Backend> MakeBackend(const std::string& name) {
  GEMEL_CHECK(name == "etcd") << name;
  return std::make_unique<EtcdBackend>();
}

namespace {

std::string FromStdin() {
  std::string text;
  for (std::string line; std::getline(std::cin, line) && line != "END";) {
    text += line + "\n";
  }
  return text;
}

int Main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  for (int i = 1; i < argc; ++i) {
    const std::string_view arg = argv[i];
    const std::string_view value = arg.substr(std::min(arg.size(), arg.find('=') + 1));
    if (arg.starts_with("--etcd=")) {
      flags.etcd = value;
    } else if (arg.starts_with("--seconds=")) {
      flags.seconds = std::stoll(std::string(value));
    } else if (arg == "--hasty") {
      flags.hasty = true;
    } else if (arg == "--tls") {  // three PEM texts on standard input, each ended by a line END
      flags.tls.authorities = FromStdin();
      flags.tls.certificate = FromStdin();
      flags.tls.key = FromStdin();
    } else {
      std::cerr << "unknown flag " << arg << "\n";
      return 2;
    }
  }
  if (flags.etcd.empty()) {
    std::cerr << "give --etcd=etcd://HOST:PORT,…\n";
    return 2;
  }
  return RUN_ALL_TESTS();
}

}  // namespace
}  // namespace gemel

int main(int argc, char** argv) { return gemel::Main(argc, argv); }

// SPDX-License-Identifier: Apache-2.0
//
// What every MetaStore does: one suite for the simulated store, RocksDB and etcd.
#include <gmock/gmock.h>

#include <algorithm>
#include <map>
#include <set>

#include "common/random.h"
#include "placement_store_backends.h"

namespace gemel {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(MetaStoreConformance);

absl::StatusCode CodeOf(const absl::StatusOr<CommitResult>& result) {
  return result.status().code();
}

// One compare.

TEST_P(MetaStoreConformance, PutsAKeyThatIsComparedAbsentAndIs) {
  const uint64_t version = Applied(PutIf("a", "1", std::nullopt));
  EXPECT_GT(version, 0U);
  EXPECT_EQ(*Get("a"), (Versioned{"1", version}));
}

TEST_P(MetaStoreConformance, RefusesAKeyThatIsComparedAbsentAndIsThere) {
  Applied(Put("a", "1"));
  EXPECT_EQ(Applied(PutIf("a", "2", std::nullopt)), 0U);
  EXPECT_EQ(Get("a")->value, "1");
}

TEST_P(MetaStoreConformance, PutsAKeyThatHasTheComparedVersion) {
  const uint64_t first = Applied(Put("a", "1"));
  const uint64_t second = Applied(PutIf("a", "2", first));
  EXPECT_GT(second, first);
  EXPECT_EQ(*Get("a"), (Versioned{"2", second}));
}

TEST_P(MetaStoreConformance, RefusesAnOlderVersion) {
  const uint64_t first = Applied(Put("a", "1"));
  Applied(Put("a", "2"));
  EXPECT_EQ(Applied(PutIf("a", "3", first)), 0U);
  EXPECT_EQ(Get("a")->value, "2");
}

TEST_P(MetaStoreConformance, RefusesAVersionThatIsNotThereYet) {
  const uint64_t first = Applied(Put("a", "1"));
  EXPECT_EQ(Applied(PutIf("a", "2", first + 1)), 0U);
}

TEST_P(MetaStoreConformance, RefusesAVersionOfAKeyThatIsAbsent) {
  const uint64_t other = Applied(Put("b", "1"));
  EXPECT_EQ(Applied(PutIf("a", "1", other)), 0U);
  EXPECT_FALSE(Get("a").has_value());
}

TEST_P(MetaStoreConformance, AVersionOfAKeyThatWasDeletedIsGone) {
  const uint64_t first = Applied(Put("a", "1"));
  Applied(Delete("a"));
  EXPECT_EQ(Applied(PutIf("a", "2", first)), 0U);
  EXPECT_GT(Applied(PutIf("a", "2", std::nullopt)), first);
}

TEST_P(MetaStoreConformance, TheSameValuePutAgainHasANewVersion) {
  const uint64_t first = Applied(Put("a", "1"));
  EXPECT_GT(Applied(PutIf("a", "1", first)), first);
  EXPECT_EQ(Applied(PutIf("a", "1", first)), 0U);
}

TEST_P(MetaStoreConformance, ACompareAloneChangesNothing) {
  const uint64_t first = Applied(Put("a", "1"));
  Txn txn;
  txn.compares.push_back({.key = "a", .version = first});
  EXPECT_GT(Applied(std::move(txn)), first);
  EXPECT_EQ(Get("a")->version, first);
}

TEST_P(MetaStoreConformance, AKeyComparedNeedNotBeTheOneThatIsPut) {
  const uint64_t leader = Applied(Put("leader", "me"));
  Txn txn = Put("b", "1");
  txn.compares.push_back({.key = "leader", .version = leader});
  EXPECT_GT(Applied(txn), leader);
  Applied(Put("leader", "you"));
  txn.puts.front().second = "2";
  EXPECT_EQ(Applied(txn), 0U);
  EXPECT_EQ(Get("b")->value, "1");
}

// Whole or not at all.

TEST_P(MetaStoreConformance, OneCompareOfManyThatFailsRefusesAll) {
  Applied(Put("a", "1"));
  Txn txn = PutIf("b", "1", std::nullopt);
  txn.compares.push_back({.key = "a", .version = std::nullopt});
  txn.deletes.push_back("a");
  EXPECT_EQ(Applied(std::move(txn)), 0U);
  EXPECT_TRUE(Get("a").has_value());
  EXPECT_FALSE(Get("b").has_value());
}

TEST_P(MetaStoreConformance, PutsAndDeletesOfOneTransactionAreThereTogether) {
  Applied(Put("old", "1"));
  Txn txn = Put("new", "2");
  txn.puts.emplace_back("other", "3");
  txn.deletes.push_back("old");
  const uint64_t version = Applied(std::move(txn));
  EXPECT_THAT(Keys(""), ElementsAre("new", "other"));
  EXPECT_EQ(Get("new")->version, version);
  EXPECT_EQ(Get("other")->version, version);
}

TEST_P(MetaStoreConformance, ARefusedTransactionLeavesNoVersionBehind) {
  const uint64_t first = Applied(Put("a", "1"));
  EXPECT_EQ(Applied(PutIf("a", "2", std::nullopt)), 0U);
  EXPECT_EQ(Get("a")->version, first);
  EXPECT_GT(Applied(Put("b", "1")), first);
}

// Versions.

TEST_P(MetaStoreConformance, VersionsGrowOverTheWholeStore) {
  uint64_t last = 0;
  for (const char* key : {"a", "b", "a", "c", "b"}) {
    const uint64_t version = Applied(Put(key, "x"));
    EXPECT_GT(version, last);
    last = version;
  }
}

TEST_P(MetaStoreConformance, ATransactionThatOnlyDeletesHasAVersionToo) {
  const uint64_t first = Applied(Put("a", "1"));
  const uint64_t second = Applied(Delete("a"));
  EXPECT_GT(second, first);
  const uint64_t third = Applied(Delete("a"));
  EXPECT_GT(third, second);
  EXPECT_GT(Applied(Put("a", "2")), third);
}

TEST_P(MetaStoreConformance, AnEmptyTransactionIsAppliedAndCounts) {
  const uint64_t first = Applied(Put("a", "1"));
  EXPECT_GT(Applied(Txn()), first);
}

TEST_P(MetaStoreConformance, WhatIsListedHasTheVersionsThatGetGives) {
  Applied(Put("p/a", "1"));
  Applied(Put("p/b", "2"));
  Applied(Put("p/a", "3"));
  for (const auto& [key, value] : backend_->List("p/")) {
    EXPECT_EQ(value, *Get(key));
  }
}

// Deletes.

TEST_P(MetaStoreConformance, ADeletedKeyIsAbsent) {
  Applied(Put("a", "1"));
  Applied(Delete("a"));
  EXPECT_FALSE(Get("a").has_value());
  EXPECT_THAT(Keys(""), IsEmpty());
}

TEST_P(MetaStoreConformance, DeletingAKeyThatIsAbsentIsApplied) {
  EXPECT_GT(Applied(Delete("never")), 0U);
}

TEST_P(MetaStoreConformance, DeletesOneKeyAndNotThoseThatBeginWithIt) {
  for (const char* key : {"a", "aa", "a/b"}) {
    Applied(Put(key, "1"));
  }
  Applied(Delete("a"));
  EXPECT_THAT(Keys(""), ElementsAre("a/b", "aa"));
}

// Keys, prefixes and order.

TEST_P(MetaStoreConformance, AnAbsentKeyIsNoError) { EXPECT_FALSE(Get("nothing").has_value()); }

TEST_P(MetaStoreConformance, AnEmptyStoreListsNothing) { EXPECT_THAT(Keys(""), IsEmpty()); }

TEST_P(MetaStoreConformance, ListsOnlyWhatBeginsWithThePrefix) {
  for (const char* key : {"job/b", "job/a", "joc", "jo", "job", "job0", "i"}) {
    Applied(Put(key, key));
  }
  EXPECT_THAT(Keys("job/"), ElementsAre("job/a", "job/b"));
  EXPECT_THAT(Keys("job"), ElementsAre("job", "job/a", "job/b", "job0"));
}

TEST_P(MetaStoreConformance, AnEmptyPrefixListsAll) {
  for (const char* key : {"z", "a", "m"}) {
    Applied(Put(key, key));
  }
  EXPECT_THAT(Keys(""), ElementsAre("a", "m", "z"));
}

TEST_P(MetaStoreConformance, APrefixThatIsAKeyListsThatKey) {
  Applied(Put("job", "1"));
  EXPECT_THAT(Keys("job"), ElementsAre("job"));
  EXPECT_THAT(Keys("jobs"), IsEmpty());
}

TEST_P(MetaStoreConformance, ListsInTheOrderOfUnsignedBytes) {
  const std::vector<std::string> ordered = {
      std::string("k\0", 2), "k\x01", "k/", "kA", "ka", "k\x7f", "k\x80", "k\xff"};
  for (auto it = ordered.rbegin(); it != ordered.rend(); ++it) {
    Applied(Put(*it, "x"));
  }
  EXPECT_EQ(Keys("k"), ordered);
}

TEST_P(MetaStoreConformance, APrefixThatEndsIn0xffHasAnEnd) {
  for (const char* key : {"a\xff", "a\xff\xff", "a\xff\x01", "b", "a\xfe", "\xff", "\xff\xff"}) {
    Applied(Put(key, "x"));
  }
  EXPECT_THAT(Keys("a\xff"), ElementsAre("a\xff", "a\xff\x01", "a\xff\xff"));
  EXPECT_THAT(Keys("\xff"), ElementsAre("\xff", "\xff\xff"));
  EXPECT_THAT(Keys("\xff\xff"), ElementsAre("\xff\xff"));
}

TEST_P(MetaStoreConformance, KeysMayHoldAnyByte) {
  std::string key;
  for (int byte = 0; byte < 256; ++byte) {
    key.push_back(static_cast<char>(byte));
  }
  const uint64_t version = Applied(Put(key, "1"));
  EXPECT_EQ(Get(key)->version, version);
  EXPECT_EQ(Keys(key.substr(0, 10)), std::vector<std::string>{key});
}

TEST_P(MetaStoreConformance, KeysAreNotCutAtAZeroByte) {
  const std::string with_zero("a\0b", 3);
  Applied(Put("a", "1"));
  Applied(Put(with_zero, "2"));
  EXPECT_EQ(Get("a")->value, "1");
  EXPECT_EQ(Get(with_zero)->value, "2");
}

TEST_P(MetaStoreConformance, ListsMoreThanOnePage) {
  std::vector<std::string> expected;
  for (int batch = 0; batch < 12; ++batch) {
    Txn txn;
    for (int i = 0; i < 100; ++i) {
      txn.puts.emplace_back(fmt::format("page/{:02}{:02}", batch, i), "x");
      expected.push_back(txn.puts.back().first);
    }
    Applied(std::move(txn));
  }
  EXPECT_EQ(Keys("page/"), expected);
}

// Values.

TEST_P(MetaStoreConformance, ValuesMayBeEmpty) {
  const uint64_t version = Applied(Put("a", ""));
  EXPECT_EQ(*Get("a"), (Versioned{"", version}));
  EXPECT_EQ(Applied(PutIf("a", "x", std::nullopt)), 0U);
}

TEST_P(MetaStoreConformance, ValuesMayHoldAnyByte) {
  std::string value;
  for (int i = 0; i < 1024; ++i) {
    value.push_back(static_cast<char>(i * 7));
  }
  Applied(Put("a", value));
  EXPECT_EQ(Get("a")->value, value);
}

TEST_P(MetaStoreConformance, TakesAValueOfTheLargestSizeAndListsSome) {
  const std::string big(kMetaTxnBytesMax - 16, 'v');
  for (int i = 0; i < 3; ++i) {
    ASSERT_GT(Applied(Put(fmt::format("big/{}", i), big)), 0U);
  }
  EXPECT_EQ(Get("big/1")->value, big);
  EXPECT_EQ(backend_->List("big/").size(), 3U);
}

TEST_P(MetaStoreConformance, ListsValuesThatAreTogetherLargerThanOneMessage) {
  const std::string big(kMetaTxnBytesMax - 64, 'v');
  for (int i = 0; i < 20; ++i) {
    Applied(Put(fmt::format("big/{:02}", i), big));
  }
  const std::vector<KeyValue> listed = backend_->List("big/");
  ASSERT_EQ(listed.size(), 20U);
  EXPECT_EQ(listed.back().second.value, big);
}

// Limits.

TEST_P(MetaStoreConformance, RefusesAnEmptyKeyAnywhere) {
  EXPECT_EQ(CodeOf(Commit(Put("", "1"))), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(CodeOf(Commit(Delete(""))), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(CodeOf(Commit(PutIf("", "1", std::nullopt))), absl::StatusCode::kInvalidArgument);
}

TEST_P(MetaStoreConformance, TakesTheLongestKeyAndRefusesALongerOne) {
  const std::string longest(kMetaKeyBytesMax, 'k');
  EXPECT_GT(Applied(Put(longest, "1")), 0U);
  EXPECT_EQ(Keys(longest), std::vector<std::string>{longest});
  EXPECT_EQ(CodeOf(Commit(Put(longest + "k", "1"))), absl::StatusCode::kInvalidArgument);
}

TEST_P(MetaStoreConformance, RefusesACompareWithVersionZeroWhichMightMeanAbsent) {
  EXPECT_EQ(CodeOf(Commit(PutIf("a", "1", 0))), absl::StatusCode::kInvalidArgument);
}

TEST_P(MetaStoreConformance, RefusesAKeyThatIsChangedTwice) {
  Txn twice = Put("a", "1");
  twice.puts.emplace_back("a", "2");
  EXPECT_EQ(CodeOf(Commit(twice)), absl::StatusCode::kInvalidArgument);
  Txn both = Put("a", "1");
  both.deletes.push_back("a");
  EXPECT_EQ(CodeOf(Commit(both)), absl::StatusCode::kInvalidArgument);
  Txn deletes = Delete("a");
  deletes.deletes.push_back("a");
  EXPECT_EQ(CodeOf(Commit(deletes)), absl::StatusCode::kInvalidArgument);
  EXPECT_FALSE(Get("a").has_value());
}

TEST_P(MetaStoreConformance, TakesTheMostPutsAndRefusesOneMore) {
  Txn txn;
  for (size_t i = 0; i < kMetaTxnOpsMax; ++i) {
    txn.puts.emplace_back(fmt::format("n/{:03}", i), "x");
  }
  EXPECT_GT(Applied(txn), 0U);
  EXPECT_EQ(Keys("n/").size(), kMetaTxnOpsMax);
  txn.deletes.push_back("one more");
  EXPECT_EQ(CodeOf(Commit(txn)), absl::StatusCode::kInvalidArgument);
}

TEST_P(MetaStoreConformance, TakesTheMostComparesAndRefusesOneMore) {
  Txn txn = Put("a", "1");
  for (size_t i = 0; i < kMetaTxnOpsMax; ++i) {
    txn.compares.push_back({.key = fmt::format("c/{}", i), .version = std::nullopt});
  }
  EXPECT_GT(Applied(txn), 0U);
  txn.compares.push_back({.key = "one more", .version = std::nullopt});
  EXPECT_EQ(CodeOf(Commit(txn)), absl::StatusCode::kInvalidArgument);
}

TEST_P(MetaStoreConformance, TakesTheLargestTransactionAndRefusesALargerOne) {
  Txn txn;
  const size_t each = kMetaTxnBytesMax / kMetaTxnOpsMax - 8;
  for (size_t i = 0; i < kMetaTxnOpsMax; ++i) {
    txn.puts.emplace_back(fmt::format("n/{:03}", i), std::string(each, 'x'));
  }
  EXPECT_GT(Applied(txn), 0U);
  EXPECT_EQ(CodeOf(Commit(Put("a", std::string(kMetaTxnBytesMax, 'x')))),
            absl::StatusCode::kInvalidArgument);
}

TEST_P(MetaStoreConformance, SaysHowLargeATransactionMayBe) {
  const absl::StatusOr<CommitResult> refused = Commit(Put("a", std::string(kMetaTxnBytesMax, 'x')));
  EXPECT_THAT(ToText(refused.status()), HasSubstr(std::to_string(kMetaTxnBytesMax)));
}

// Clients beside each other, and after each other.

TEST_P(MetaStoreConformance, WhatWasAppliedIsThereAfterAReopenAndVersionsGoOn) {
  const uint64_t first = Applied(Put("a", "1"));
  backend_->Reopen();
  EXPECT_EQ(*Get("a"), (Versioned{"1", first}));
  EXPECT_GT(Applied(PutIf("a", "2", first)), first);
}

TEST_P(MetaStoreConformance, DeletesAreThereAfterAReopen) {
  Applied(Put("a", "1"));
  const uint64_t second = Applied(Delete("a"));
  backend_->Reopen();
  EXPECT_FALSE(Get("a").has_value());
  EXPECT_GT(Applied(Put("a", "1")), second);
}

TEST_P(MetaStoreConformance, ASecondClientSeesWhatTheFirstHasApplied) {
  const uint64_t version = Applied(Put("a", "1"));
  auto found = backend_->Await(backend_->second()->Get("a"));
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_EQ(**found, (Versioned{"1", version}));
}

TEST_P(MetaStoreConformance, OfTwoClientsThatCompareTheSameOneWins) {
  const uint64_t base = Applied(Put("a", "0"));
  std::optional<absl::StatusOr<CommitResult>> first;
  std::optional<absl::StatusOr<CommitResult>> second;
  backend_->Start(backend_->store()->Commit(PutIf("a", "first", base)), &first);
  backend_->Start(backend_->second()->Commit(PutIf("a", "second", base)), &second);
  backend_->RunUntil([&] { return first.has_value() && second.has_value(); });
  ASSERT_TRUE(first->ok() && second->ok());
  EXPECT_NE((*first)->applied, (*second)->applied);
  EXPECT_EQ(Get("a")->value, (*first)->applied ? "first" : "second");
}

TEST_P(MetaStoreConformance, ALoserThatReadsAgainWins) {
  const uint64_t base = Applied(Put("a", "0"));
  auto taken = backend_->Await(backend_->second()->Commit(PutIf("a", "other", base)));
  ASSERT_TRUE(taken.ok() && taken->applied);
  EXPECT_EQ(Applied(PutIf("a", "mine", base)), 0U);
  EXPECT_GT(Applied(PutIf("a", "mine", Get("a")->version)), taken->version);
}

TEST_P(MetaStoreConformance, ManyUnderWayAtOnceAreEachAppliedOnce) {
  constexpr size_t kCount = 64;
  std::vector<std::optional<absl::StatusOr<CommitResult>>> results(kCount);
  for (size_t i = 0; i < kCount; ++i) {
    MetaStore* client = i % 2 == 0 ? backend_->store() : backend_->second();
    backend_->Start(client->Commit(PutIf(fmt::format("n/{}", i), "x", std::nullopt)), &results[i]);
  }
  backend_->RunUntil([&] {
    return std::all_of(results.begin(), results.end(), [](const auto& r) { return r.has_value(); });
  });
  std::set<uint64_t> versions;
  for (const auto& result : results) {
    ASSERT_TRUE(result.has_value() && result->ok() && (*result)->applied);
    versions.insert((*result)->version);
  }
  EXPECT_EQ(versions.size(), kCount);
  EXPECT_EQ(Keys("n/").size(), kCount);
}

TEST_P(MetaStoreConformance, ACounterOfTwoClientsLosesNothing) {
  constexpr int kEach = 20;
  Applied(Put("count", "0"));
  const auto count = [](MetaStore* client) -> Task<absl::StatusOr<int>> {
    int done = 0;
    while (done < kEach) {
      absl::StatusOr<std::optional<Versioned>> found = co_await client->Get("count");
      if (!found.ok()) {
        co_return found.status();
      }
      Txn txn = PutIf("count", std::to_string(std::stoi((*found)->value) + 1), (*found)->version);
      absl::StatusOr<CommitResult> result = co_await client->Commit(std::move(txn));
      if (!result.ok()) {
        co_return result.status();
      }
      done += result->applied ? 1 : 0;
    }
    co_return done;
  };
  std::optional<absl::StatusOr<int>> first;
  std::optional<absl::StatusOr<int>> second;
  backend_->Start(count(backend_->store()), &first);
  backend_->Start(count(backend_->second()), &second);
  backend_->RunUntil([&] { return first.has_value() && second.has_value(); });
  ASSERT_TRUE(first->ok() && second->ok());
  EXPECT_EQ(Get("count")->value, std::to_string(2 * kEach));
}

TEST_P(MetaStoreConformance, ClosedWithCallsUnderWayEachEndsAndNoneIsHalfDone) {
  constexpr size_t kCount = 32;
  std::vector<std::optional<absl::StatusOr<CommitResult>>> results(kCount);
  std::optional<absl::StatusOr<std::optional<Versioned>>> read;
  for (size_t i = 0; i < kCount; ++i) {
    Txn txn = PutIf(fmt::format("x/{}", i), "1", std::nullopt);
    txn.puts.emplace_back(fmt::format("y/{}", i), "1");
    backend_->Start(backend_->store()->Commit(std::move(txn)), &results[i]);
  }
  backend_->Start(backend_->store()->Get("x/0"), &read);
  int turns = 0;
  backend_->RunUntil([&] { return ++turns > 2; });  // all have begun
  backend_->Close();
  backend_->RunUntil([&] {
    return read.has_value() &&
           std::all_of(results.begin(), results.end(), [](const auto& r) { return r.has_value(); });
  });
  ASSERT_TRUE(read.has_value());
  EXPECT_TRUE(read->ok() || absl::IsCancelled(read->status())) << read->status();
  backend_->Reopen();
  for (size_t i = 0; i < kCount; ++i) {
    ASSERT_TRUE(results[i].has_value());
    EXPECT_TRUE(results[i]->ok() || absl::IsCancelled(results[i]->status()))
        << results[i]->status();
    const bool x = Get(fmt::format("x/{}", i)).has_value();
    EXPECT_EQ(x, Get(fmt::format("y/{}", i)).has_value());
    EXPECT_TRUE(x || !results[i]->ok());
  }
}

TEST_P(MetaStoreConformance, TheNameIsOneThatAPersonKnowsItBy) {
  EXPECT_GT(backend_->store()->name().size(), 3U);
}

// Random transactions against a plain model.

class Model {
 public:
  explicit Model(uint64_t seed) : random_(seed) {}

  Txn Draw() {
    Txn txn;
    for (uint64_t i = random_.Below(3); i > 0; --i) {
      const std::string key = Key();
      const auto found = values.find(key);
      const bool right = random_.Chance(4, 5);
      std::optional<uint64_t> version;
      if (found != values.end() && right) {
        version = found->second.version;
      } else if (!right && random_.Chance(1, 2)) {
        version = 1 + last_version + random_.Below(3) - std::min<uint64_t>(last_version, 1);
      }
      txn.compares.push_back({.key = key, .version = version});
    }
    std::set<std::string> changed;
    for (uint64_t i = random_.Below(5); i > 0; --i) {
      const std::string key = Key();
      if (!changed.insert(key).second) {
        continue;
      }
      if (random_.Chance(1, 3)) {
        txn.deletes.push_back(key);
      } else {
        txn.puts.emplace_back(key, fmt::format("value {}", random_.Next()));
      }
    }
    return txn;
  }

  bool Holds(const Txn& txn) const {
    return std::all_of(txn.compares.begin(), txn.compares.end(), [this](const Txn::Compare& c) {
      const auto found = values.find(c.key);
      return found == values.end() ? !c.version.has_value() : c.version == found->second.version;
    });
  }

  void Apply(const Txn& txn, uint64_t version) {
    for (const auto& [key, value] : txn.puts) {
      values[key] = Versioned{value, version};
    }
    for (const std::string& key : txn.deletes) {
      values.erase(key);
    }
    last_version = version;
  }

  std::vector<KeyValue> List(const std::string& prefix) const {
    std::vector<KeyValue> listed;
    for (const auto& [key, value] : values) {
      if (key.compare(0, prefix.size(), prefix) == 0) {
        listed.emplace_back(key, value);
      }
    }
    return listed;
  }

  std::string Key() {
    static const std::vector<std::string> kParts = {"a", "b", "/", "\xff", "a/"};
    std::string key = kParts[random_.Below(kParts.size())];
    for (uint64_t i = random_.Below(3); i > 0; --i) {
      key += kParts[random_.Below(kParts.size())];
    }
    return key;
  }

  std::map<std::string, Versioned> values;
  uint64_t last_version = 0;

 private:
  Random random_;
};

TEST_P(MetaStoreConformance, RandomTransactionsDoWhatAPlainMapDoes) {
  for (uint64_t seed = 1; seed <= 2; ++seed) {
    backend_ = nullptr;
    backend_ = MakeBackend(GetParam());
    Model model(seed);
    for (int step = 0; step < 100; ++step) {
      const Txn txn = model.Draw();
      const bool holds = model.Holds(txn);
      const absl::StatusOr<CommitResult> result = Commit(txn);
      ASSERT_TRUE(result.ok()) << result.status();
      ASSERT_EQ(result->applied, holds) << "seed " << seed << " step " << step;
      if (holds) {
        ASSERT_GT(result->version, model.last_version) << "seed " << seed << " step " << step;
        model.Apply(txn, result->version);
      }
      if (step % 10 == 0) {
        const std::string prefix = step % 20 == 0 ? "" : model.Key();
        ASSERT_EQ(backend_->List(prefix), model.List(prefix))
            << "seed " << seed << " step " << step;
        const std::string key = model.Key();
        const auto found = model.values.find(key);
        ASSERT_EQ(Get(key).value_or(Versioned{}),
                  found == model.values.end() ? Versioned{} : found->second);
      }
      if (step % 50 == 49) {
        backend_->Reopen();
      }
    }
  }
}

}  // namespace
}  // namespace gemel

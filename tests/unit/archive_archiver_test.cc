// SPDX-License-Identifier: Apache-2.0
//
// The archiver over snapshots in memory and a real directory: when it exports, what latest.json
// names after a failure at any step, what it removes.
#include <gtest/gtest.h>

#include <filesystem>

#include "client/archive/archiver.h"
#include "client/archive/directory_store.h"
#include "client/archive/export_reader.h"
#include "common/xxh3.h"
#include "tests/unit/archive_fakes.h"
#include "tests/unit/common_temporary_directory.h"

namespace gemel::archive {
namespace {

class MemorySupply final : public SnapshotSupply {
 public:
  absl::StatusOr<std::optional<Newest>> FindNewest(const std::string& /*job*/) override {
    if (!reachable) {
      return error::Unavailable("no server answers");
    }
    return sequence == 0 ? std::optional<Newest>()
                         : std::optional<Newest>({cluster, "7", sequence});
  }

  absl::StatusOr<std::unique_ptr<SnapshotSource>> Open(const std::string& /*job*/,
                                                       const std::string& /*name*/) override {
    ++opened;
    return std::make_unique<MemorySource>(TwoRanks(sequence));
  }

  std::string cluster = std::string(32, 'c');
  uint64_t sequence = 0;
  bool reachable = true;
  int opened = 0;
};

class ArchiveArchiver : public ::testing::Test {
 protected:
  std::unique_ptr<Archiver> Make(ArchiveOptions options = {}) {
    options.job = "gpt";
    Archiver::Listener listener;
    listener.archived = [this](const ArchivedExport& entry) {
      archived_.push_back(entry.sequence);
    };
    listener.warned = [this](const std::string& text) { warned_.push_back(text); };
    listener.watcher = [](uint64_t, uint64_t, const std::string&) {};
    return std::make_unique<Archiver>(&supply_, &store_, &pace_, options, listener);
  }

  Latest ReadLatest() {
    const auto text = GetObject(&store_, "gpt/latest.json", kRecordBytesMax);
    GEMEL_CHECK(text.ok()) << text.status();
    return *DecodeLatest(*text);
  }

  // Whatever latest.json names is whole.
  void CheckNamed() {
    for (const ArchivedExport& entry : ReadLatest().exports) {
      const std::string prefix = "gpt/" + entry.path + "/";
      const auto text = GetObject(&store_, prefix + kRecordName, kRecordBytesMax);
      ASSERT_TRUE(text.ok()) << text.status();
      EXPECT_EQ(Xxh3_128(AsBytes(*text)), entry.record_digest);
      const absl::Status whole = VerifyExport(&store_, &pace_, prefix, *ReadRecord(&store_, prefix),
                                              [](uint64_t, uint64_t, const std::string&) {});
      EXPECT_TRUE(whole.ok()) << whole;
    }
  }

  std::vector<std::string> Folders() {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(folder_.path() + "/gpt")) {
      if (entry.is_directory()) {
        names.push_back(entry.path().filename());
      }
    }
    std::sort(names.begin(), names.end());
    return names;
  }

  TemporaryDirectory folder_;
  std::shared_ptr<FailingCalls> calls_ = std::make_shared<FailingCalls>();
  DirectoryStore store_{folder_.path(), calls_};
  FakePace pace_;
  MemorySupply supply_;
  std::vector<uint64_t> archived_;
  std::vector<std::string> warned_;
};

TEST_F(ArchiveArchiver, ExportsTheNewestOnceAndKeepsSoMany) {
  const auto archiver = Make({.keep = 2});
  EXPECT_FALSE(*archiver->Step());
  for (const uint64_t sequence : {3, 4, 9}) {
    supply_.sequence = sequence;
    EXPECT_TRUE(*archiver->Step());
    EXPECT_FALSE(*archiver->Step());
    CheckNamed();
  }
  EXPECT_EQ(archived_, (std::vector<uint64_t>{3, 4, 9}));
  EXPECT_EQ(Folders(),
            (std::vector<std::string>{"00000000000000000004-7", "00000000000000000009-7"}));
}

TEST_F(ArchiveArchiver, KeepsItsDistanceInNumbersAndInTime) {
  const auto archiver = Make({.every = 3, .interval = 10s});
  supply_.sequence = 5;
  EXPECT_TRUE(*archiver->Step());
  pace_.now += 20s;
  supply_.sequence = 7;
  EXPECT_FALSE(*archiver->Step());
  supply_.sequence = 8;
  EXPECT_TRUE(*archiver->Step());
  supply_.sequence = 20;
  pace_.now += 9s;
  EXPECT_FALSE(*archiver->Step());
  pace_.now += 1s;
  EXPECT_TRUE(*archiver->Step());
}

TEST_F(ArchiveArchiver, GoesOnWhereAnotherProcessStopped) {
  supply_.sequence = 5;
  EXPECT_TRUE(*Make()->Step());
  EXPECT_FALSE(*Make()->Step());
  supply_.cluster = std::string(32, 'd');  // which counts anew
  supply_.sequence = 1;
  EXPECT_TRUE(*Make()->Step());
  EXPECT_EQ(ReadLatest().exports.size(), 2U);
}

TEST_F(ArchiveArchiver, AfterAFailureAtAnyStepLatestNamesOnlyWhatIsWhole) {
  supply_.sequence = 1;
  ASSERT_TRUE(Make({.keep = 1})->Step().ok());
  int failures = 0;
  for (int left = 0; left < 60; ++left) {
    supply_.sequence += 1;
    calls_->writes_left = left;
    failures += Make({.keep = 1})->Step().ok() ? 0 : 1;
    calls_->writes_left = -1;
    CheckNamed();
  }
  EXPECT_GT(failures, 10);
  supply_.sequence += 1;
  ASSERT_TRUE(Make({.keep = 1})->Step().ok());
  EXPECT_EQ(Folders().size(), 1U) << "what was cut short is swept";
}

TEST_F(ArchiveArchiver, TellsWhatFailsOnceAMinuteAndTriesAgain) {
  supply_.reachable = false;
  pace_.stop_after = 12;
  EXPECT_TRUE(Make()->Run().ok());
  ASSERT_FALSE(warned_.empty());
  EXPECT_NE(warned_[0].find("no server answers"), std::string::npos);
  EXPECT_LT(warned_.size(), 12U);
  EXPECT_GT(pace_.now.time_since_epoch(), 120s) << "it backs off";
}

TEST_F(ArchiveArchiver, OnceGivesTheErrorBack) {
  EXPECT_TRUE(absl::IsNotFound(Make({.once = true})->Run()));
  supply_.sequence = 2;
  calls_->writes_left = 3;
  EXPECT_TRUE(absl::IsResourceExhausted(Make({.once = true})->Run()));
  calls_->writes_left = -1;
  EXPECT_TRUE(Make({.once = true})->Run().ok());
  EXPECT_EQ(archived_, std::vector<uint64_t>{2});
}

TEST_F(ArchiveArchiver, RemovesNothingThatIsNotItsOwn) {
  std::filesystem::create_directories(folder_.path() + "/gpt/00000000000000000001-mine");
  WriteWholeFile(folder_.path() + "/gpt/00000000000000000001-mine/thesis.tex", "years");
  std::filesystem::create_directories(folder_.path() + "/gpt/notes");
  WriteWholeFile(folder_.path() + "/gpt/notes/a.safetensors", "x");
  supply_.sequence = 2;
  ASSERT_TRUE(Make({.keep = 1})->Step().ok());
  EXPECT_EQ(ReadWholeFile(folder_.path() + "/gpt/00000000000000000001-mine/thesis.tex"), "years");
  EXPECT_EQ(ReadWholeFile(folder_.path() + "/gpt/notes/a.safetensors"), "x");
}

TEST_F(ArchiveArchiver, AForeignLatestIsRefused) {
  supply_.sequence = 2;
  ASSERT_TRUE(PutObject(&store_, "gpt/latest.json", "{\"format\":\"other\",\"version\":1}").ok());
  const auto step = Make()->Step();
  EXPECT_TRUE(absl::IsFailedPrecondition(step.status())) << step.status();
  EXPECT_EQ(supply_.opened, 0);
}

}  // namespace
}  // namespace gemel::archive

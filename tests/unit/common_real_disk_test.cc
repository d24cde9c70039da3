// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <string>
#include <vector>

#include "common/disk_files.h"
#include "common/errors.h"
#include "common/real_disk.h"
#include "tests/unit/common_runner.h"
#include "tests/unit/common_temporary_directory.h"

namespace gemel {
namespace {

using ::testing::HasSubstr;

// Fails the n-th call of a kind with an errno; writes in small pieces.
struct Faults {
  int write_error = 0;
  int sync_error = 0;
  int syncs_before_error = 0;
  int syncs = 0;
};

class FaultyCalls final : public FileCalls {
 public:
  explicit FaultyCalls(Faults* faults) : faults_(faults) {}

  ssize_t Write(int fd, ByteSpan bytes) override {
    if (faults_->write_error != 0) {
      errno = faults_->write_error;
      return -1;
    }
    return FileCalls::Write(fd, bytes.first(std::min<size_t>(bytes.size(), 7)));
  }

  int Sync(int fd) override {
    faults_->syncs += 1;
    if (faults_->sync_error != 0 && faults_->syncs > faults_->syncs_before_error) {
      errno = std::exchange(faults_->sync_error, 0);
      return -1;
    }
    return FileCalls::Sync(fd);
  }

 private:
  Faults* faults_;
};

class DiskFilesTest : public ::testing::Test {
 protected:
  DiskFilesTest() : directory_(temporary_.path() + "/data") { Reopen(); }

  void Reopen() {
    files_.reset();
    auto opened = DiskFiles::Open(directory_, std::make_unique<FaultyCalls>(&faults_));
    GEMEL_CHECK(opened.ok()) << opened.status();
    files_ = *std::move(opened);
  }

  size_t EntriesOf(const std::string& path) const {
    size_t count = 0;
    for (const auto& entry : std::filesystem::directory_iterator(path)) {
      count += entry.is_regular_file() ? 1 : 0;
    }
    return count;
  }

  TemporaryDirectory temporary_;
  const std::string directory_;
  Faults faults_;
  std::unique_ptr<DiskFiles> files_;
};

TEST_F(DiskFilesTest, TellsAFullDiskAndKeepsTheOldContent) {
  ASSERT_TRUE(files_->WriteAtomically("record", "old").ok());
  for (int code : {ENOSPC, EDQUOT}) {
    faults_.write_error = code;
    absl::Status status = files_->WriteAtomically("record", "new");
    EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
    EXPECT_THAT(status.ToString(), HasSubstr(directory_));
    EXPECT_THAT(status.ToString(), HasSubstr("free space there"));
  }
  faults_.write_error = 0;
  EXPECT_EQ(*files_->Read("record"), "old");
  EXPECT_EQ(EntriesOf(directory_), 2U);  // LOCK and the record: no temporary file stays
}

TEST_F(DiskFilesTest, AbandonsAFileWhoseSyncFailed) {
  ASSERT_TRUE(files_->WriteAtomically("record", "old").ok());
  faults_.syncs = 0;
  faults_.sync_error = EIO;
  absl::Status status = files_->WriteAtomically("record", "new");
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_EQ(faults_.syncs, 1);  // never retried
  EXPECT_EQ(EntriesOf(directory_), 2U);
  EXPECT_EQ(*files_->Read("record"), "old");
  EXPECT_TRUE(files_->WriteAtomically("record", "new").ok());
  EXPECT_EQ(*files_->Read("record"), "new");
}

TEST_F(DiskFilesTest, TellsAFailedSyncOfTheDirectory) {
  ASSERT_TRUE(files_->WriteAtomically("record", "old").ok());
  faults_.syncs = 0;
  faults_.syncs_before_error = 1;
  faults_.sync_error = EIO;
  absl::Status status = files_->WriteAtomically("record", "new");
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_THAT(*files_->Read("record"), ::testing::AnyOf("old", "new"));
  faults_.syncs = 0;
  faults_.syncs_before_error = 0;
  faults_.sync_error = EIO;
  EXPECT_TRUE(absl::IsUnavailable(files_->Remove("record")));
  faults_.syncs = 0;
  EXPECT_TRUE(files_->Remove("record").ok());
  EXPECT_EQ(faults_.syncs, 1);  // the earlier removal is made durable now
}

TEST_F(DiskFilesTest, SyncsEachNewDirectoryIntoItsParentOnce) {
  faults_.syncs = 0;
  ASSERT_TRUE(files_->WriteAtomically("a/b/c", "1").ok());
  EXPECT_EQ(faults_.syncs, 4);  // top for a, a for b, the file, b for the file
  faults_.syncs = 0;
  ASSERT_TRUE(files_->WriteAtomically("a/b/d", "1").ok());
  EXPECT_EQ(faults_.syncs, 2);
}

TEST_F(DiskFilesTest, RemovesTemporaryFilesOfACrashAtOpen) {
  ASSERT_TRUE(files_->WriteAtomically("dir/record", "old").ok());
  WriteWholeFile(directory_ + "/dir/.record.tmp", "torn");
  WriteWholeFile(directory_ + "/.other.tmp", "torn");
  Reopen();
  EXPECT_EQ(EntriesOf(directory_), 1U);
  EXPECT_EQ(EntriesOf(directory_ + "/dir"), 1U);
  EXPECT_EQ(*files_->Read("dir/record"), "old");
}

TEST_F(DiskFilesTest, FramesAreAsDocumented) {
  EXPECT_EQ(FrameFile("123456789").substr(0, 20),
            std::string("GEMLFILE\x01\0\0\0\x09\0\0\0\0\0\0\0", 20));
  const std::string frame = FrameFile("123456789");
  ASSERT_EQ(frame.size(), 33U);
  EXPECT_EQ(frame.substr(20, 4),
            std::string("\xbd\x2c\x2c\xc3", 4));  // computed by another program
  EXPECT_EQ(frame.substr(24), "123456789");
}

TEST_F(DiskFilesTest, EveryChangedBitAndEveryTruncationIsDataLoss) {
  ASSERT_TRUE(files_->WriteAtomically("record", "the content").ok());
  const std::string path = directory_ + "/record";
  const std::string frame = ReadWholeFile(path);
  for (size_t bytes = 0; bytes < frame.size(); ++bytes) {
    WriteWholeFile(path, frame.substr(0, bytes));
    EXPECT_TRUE(absl::IsDataLoss(files_->Read("record").status())) << bytes;
  }
  for (size_t bit = 0; bit < 8 * frame.size(); ++bit) {
    std::string rotten = frame;
    rotten[bit / 8] = static_cast<char>(rotten[bit / 8] ^ (1 << (bit % 8)));
    WriteWholeFile(path, rotten);
    auto read = files_->Read("record");
    ASSERT_TRUE(absl::IsDataLoss(read.status())) << bit << " " << read.status();
    EXPECT_THAT(read.status().ToString(), HasSubstr(path));
  }
  WriteWholeFile(path, frame + "x");
  absl::Status longer = files_->Read("record").status();
  EXPECT_TRUE(absl::IsDataLoss(longer));
  EXPECT_THAT(longer.ToString(), HasSubstr("holds 12 bytes of content and should hold 11"));
}

TEST_F(DiskFilesTest, TellsANewerVersionFromDecay) {
  std::string frame = FrameFile("");
  frame[8] = 2;
  // CRC32C of the 20 bytes before it, computed by another program.
  frame.replace(20, 4, std::string("\x00\x00\x00\x00", 4));
  EXPECT_TRUE(absl::IsDataLoss(UnframeFile(frame, "x").status()));
  frame.replace(20, 4, std::string("\x91\x5b\xba\x7d", 4));
  absl::Status status = UnframeFile(frame, "x").status();
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
}

TEST_F(DiskFilesTest, KeepsOthersOut) {
  struct stat about{};
  ASSERT_EQ(stat(directory_.c_str(), &about), 0);
  EXPECT_EQ(about.st_mode & 0777U, 0700U);
  ASSERT_TRUE(files_->WriteAtomically("record", "1").ok());
  ASSERT_EQ(stat((directory_ + "/record").c_str(), &about), 0);
  EXPECT_EQ(about.st_mode & 0777U, 0600U);
}

class NoStatCalls final : public FileCalls {
 public:
  int Stat(int /*fd*/, struct stat* /*about*/) override {
    errno = EIO;
    return -1;
  }
};

TEST_F(DiskFilesTest, AFileWhoseLengthCannotBeReadIsNotTakenForADamagedOne) {
  ASSERT_TRUE(files_->WriteAtomically("record", "1").ok());
  files_.reset();
  auto blind = DiskFiles::Open(directory_, std::make_unique<NoStatCalls>());
  ASSERT_TRUE(blind.ok()) << blind.status();
  EXPECT_TRUE(absl::IsUnavailable((*blind)->Read("record").status()));
}

// Writes in place take no block that the file does not have: what a full disk allows.
class FullCalls final : public FileCalls {
 public:
  ssize_t Write(int fd, ByteSpan bytes) override {
    struct stat about{};
    const off_t at = lseek(fd, 0, SEEK_CUR);
    if (fstat(fd, &about) != 0 || at + static_cast<off_t>(bytes.size()) > about.st_size) {
      errno = ENOSPC;
      return -1;
    }
    return FileCalls::Write(fd, bytes);
  }
};

TEST_F(DiskFilesTest, AFileWrittenInPlaceIsWrittenOnAFullDiskToo) {
  ASSERT_TRUE(files_->WriteInPlace("identity", "old").ok());
  files_.reset();
  auto full = DiskFiles::Open(directory_, std::make_unique<FullCalls>());
  ASSERT_TRUE(full.ok()) << full.status();
  EXPECT_TRUE(absl::IsResourceExhausted((*full)->WriteAtomically("record", "new")));
  for (const size_t bytes : {size_t{1}, size_t{1000}, size_t{RoomFor(3)}}) {
    const std::string content(bytes, 'n');
    EXPECT_TRUE((*full)->WriteInPlace("identity", content).ok()) << bytes;
    EXPECT_EQ(*(*full)->Read("identity"), content);
  }
  const std::string grown(RoomFor(3) + 8192, 'g');
  EXPECT_TRUE(absl::IsResourceExhausted((*full)->WriteInPlace("identity", grown)));
  EXPECT_EQ((*full)->Read("identity")->size(), RoomFor(3));
  full->reset();
  Reopen();
  EXPECT_TRUE(files_->WriteInPlace("identity", grown).ok());
  EXPECT_EQ(*files_->Read("identity"), grown);
}

// After so many writes and syncs come failures: the disk, or the process, ends there.
class EndingCalls final : public FileCalls {
 public:
  explicit EndingCalls(int calls, int failures = 1'000'000) : left_(calls), failures_(failures) {}

  ssize_t Write(int fd, ByteSpan bytes) override {
    return Fails() ? -1 : FileCalls::Write(fd, bytes.first(std::min<size_t>(bytes.size(), 7)));
  }

  int Sync(int fd) override { return Fails() ? -1 : FileCalls::Sync(fd); }

 private:
  bool Fails() {
    errno = EIO;
    return left_-- <= 0 && failures_-- > 0;
  }

  int left_;
  int failures_;
};

constexpr int kCallsOf72Bytes = 11 + 1;  // seven at a time, and the sync

TEST_F(DiskFilesTest, AWriteInPlaceThatEndsAnywhereLeavesTheOldOrTheNewContent) {
  const std::string old_content(50, 'o'), new_content(40, 'n');
  for (const size_t rotten : {0U, 1U, 2U}) {  // one of the copies, or none
    int cut_short = 0, whole = 0;
    for (int calls = 0; whole < 2; ++calls) {
      Reopen();
      ASSERT_TRUE(files_->WriteInPlace("identity", "older").ok());
      ASSERT_TRUE(files_->WriteInPlace("identity", old_content).ok());
      files_.reset();
      std::string bytes = ReadWholeFile(directory_ + "/identity");
      bytes[std::min(rotten * bytes.size() / 2 + 33, bytes.size() - 1)] ^= 1;
      WriteWholeFile(directory_ + "/identity", bytes);
      auto ending = DiskFiles::Open(directory_, std::make_unique<EndingCalls>(calls));
      const absl::Status written = (*ending)->WriteInPlace("identity", new_content);
      ending->reset();
      Reopen();
      const auto read = files_->Read("identity");
      ASSERT_TRUE(read.ok()) << calls << ": " << read.status();
      EXPECT_TRUE(*read == new_content || (!written.ok() && *read == old_content)) << calls;
      (written.ok() ? whole : cut_short) += 1;
    }
    EXPECT_EQ(cut_short, 2 * kCallsOf72Bytes);
  }
}

TEST_F(DiskFilesTest, ACopyThatRottedIsNoLossAndIsMadeWholeByTheNextWrite) {
  const std::string path = directory_ + "/identity";
  for (const size_t copy : {0U, 1U}) {
    ASSERT_TRUE(files_->WriteInPlace("identity", "first").ok());
    std::string bytes = ReadWholeFile(path);
    bytes[copy * bytes.size() / 2 + 33] ^= 1;
    WriteWholeFile(path, bytes);
    EXPECT_EQ(*files_->Read("identity"), "first");
    ASSERT_TRUE(files_->WriteInPlace("identity", "second").ok());
    bytes = ReadWholeFile(path);
    bytes[(1 - copy) * bytes.size() / 2 + 33] ^= 1;  // the other one: what was mended is enough
    WriteWholeFile(path, bytes);
    EXPECT_EQ(*files_->Read("identity"), "second");
    bytes[copy * bytes.size() / 2 + 33] ^= 1;
    WriteWholeFile(path, bytes);
    EXPECT_TRUE(absl::IsDataLoss(files_->Read("identity").status()));
  }
}

TEST_F(DiskFilesTest, AfterAFailedSyncInPlaceOnlyANewFileWillDo) {
  const std::string content(40, 'n');
  for (const int failures : {1, 2}) {  // the sync, and what would be the new file
    Reopen();
    ASSERT_TRUE(files_->WriteInPlace("identity", "old").ok());
    files_.reset();
    struct stat before{}, after{};
    ASSERT_EQ(stat((directory_ + "/identity").c_str(), &before), 0);
    auto files =
        DiskFiles::Open(directory_, std::make_unique<EndingCalls>(kCallsOf72Bytes - 1, failures));
    EXPECT_EQ((*files)->WriteInPlace("identity", content).ok(), failures == 1);
    EXPECT_TRUE((*files)->WriteInPlace("identity", content).ok());
    ASSERT_EQ(stat((directory_ + "/identity").c_str(), &after), 0);
    EXPECT_NE(before.st_ino, after.st_ino);
    EXPECT_EQ(*(*files)->Read("identity"), content);
  }
}

TEST_F(DiskFilesTest, AFileOfTheOtherKindIsReadAndWrittenInPlaceFromThenOn) {
  ASSERT_TRUE(files_->WriteAtomically("identity", "of the release before").ok());
  EXPECT_EQ(*files_->Read("identity"), "of the release before");
  ASSERT_TRUE(files_->WriteInPlace("identity", "1").ok());
  struct stat before{}, after{};
  ASSERT_EQ(stat((directory_ + "/identity").c_str(), &before), 0);
  ASSERT_TRUE(files_->WriteInPlace("identity", "2").ok());
  ASSERT_EQ(stat((directory_ + "/identity").c_str(), &after), 0);
  EXPECT_EQ(before.st_ino, after.st_ino);
  EXPECT_EQ(*files_->Read("identity"), "2");
}

class RealDiskTest : public ::testing::Test {
 protected:
  TemporaryDirectory temporary_;
  std::unique_ptr<EpollLoop> loop_ = *EpollLoop::Create();
};

TEST_F(RealDiskTest, HoldsItsDirectoryAloneUntilItGoes) {
  const std::string directory = temporary_.path() + "/new/data/";
  auto first = RealDisk::Open(loop_.get(), directory);
  ASSERT_TRUE(first.ok()) << first.status();
  auto second = RealDisk::Open(loop_.get(), directory);
  EXPECT_TRUE(absl::IsFailedPrecondition(second.status())) << second.status();
  EXPECT_THAT(second.status().ToString(), HasSubstr(temporary_.path() + "/new/data"));
  EXPECT_THAT(second.status().ToString(), HasSubstr("another directory"));
  first->reset();
  EXPECT_TRUE(RealDisk::Open(loop_.get(), directory).ok());
}

TEST_F(RealDiskTest, ReleasesItsDirectoryWhileCoroutinesStillHoldIt) {
  auto first = RealDisk::Open(loop_.get(), temporary_.path());
  ASSERT_TRUE(first.ok()) << first.status();
  auto unstarted = (*first)->Read("record");
  first->reset();
  auto second = RealDisk::Open(loop_.get(), temporary_.path());
  EXPECT_TRUE(second.ok()) << second.status();
  EXPECT_TRUE(absl::IsCancelled(RunTask(loop_.get(), std::move(unstarted)).status()));
}

TEST_F(RealDiskTest, RefusesADirectoryThatCannotBe) {
  WriteWholeFile(temporary_.path() + "/file", "x");
  EXPECT_FALSE(RealDisk::Open(loop_.get(), temporary_.path() + "/file").ok());
  EXPECT_FALSE(RealDisk::Open(loop_.get(), temporary_.path() + "/file/below").ok());
  EXPECT_TRUE(absl::IsInvalidArgument(RealDisk::Open(loop_.get(), "").status()));
}

TEST_F(RealDiskTest, TellsFailuresOfItsThreadOnTheLoop) {
  Faults faults;
  auto disk =
      RealDisk::OpenWith(loop_.get(), temporary_.path(), std::make_unique<FaultyCalls>(&faults));
  ASSERT_TRUE(disk.ok()) << disk.status();
  faults.write_error = ENOSPC;
  absl::Status status = RunTask(loop_.get(), (*disk)->WriteAtomically("record", "1"));
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
}

}  // namespace
}  // namespace gemel

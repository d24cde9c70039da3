// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <set>
#include <string>
#include <vector>

#include "common/disk_files.h"
#include "common/sim_files.h"

namespace gemel {
namespace {

using ::testing::ElementsAre;
using ::testing::IsSubsetOf;
using ::testing::SizeIs;

using View = SimFileSystem::View;

constexpr size_t kBlockBytes = 4096;
constexpr const char* kNothing = "(nothing)";

class SimFilesTest : public ::testing::Test {
 protected:
  // A file made in this process, not synced; nothing when it could not be made.
  int Make(const std::string& path, const std::string& content) {
    const int fd = calls_.Open(path, O_WRONLY | O_CREAT | O_EXCL);
    EXPECT_GE(fd, 0) << path << ": errno " << errno;
    EXPECT_EQ(calls_.Write(fd, AsBytes(content)), static_cast<ssize_t>(content.size()));
    return fd;
  }

  void MakeDurable(const std::string& path, const std::string& content) {
    const int fd = Make(path, content);
    EXPECT_EQ(calls_.Sync(fd), 0);
    EXPECT_EQ(calls_.Close(fd), 0);
    SyncDirectory(path.substr(0, path.rfind('/')));
  }

  void SyncDirectory(const std::string& path) {
    const int fd = calls_.Open(path, O_RDONLY | O_DIRECTORY);
    ASSERT_GE(fd, 0) << path;
    EXPECT_EQ(calls_.Sync(fd), 0);
    EXPECT_EQ(calls_.Close(fd), 0);
  }

  std::string ContentOf(const std::string& path, View view = View::kCached) const {
    const std::string* content = files_.Find(path, view);
    return content == nullptr ? kNothing : *content;
  }

  SimFileSystem files_;
  SimFileCalls calls_{&files_, Random(5)};
};

TEST_F(SimFilesTest, ContentThatIsNotSyncedIsLostKeptOrTornInBlocks) {
  const std::string old_content(2 * kBlockBytes, 'o'), new_content(2 * kBlockBytes, 'n');
  std::set<std::string> seen;
  for (uint64_t seed = 0; seed < 64; ++seed) {
    files_.Format();
    MakeDurable("/data/file", old_content);
    const int fd = calls_.Open("/data/file", O_WRONLY);
    EXPECT_EQ(calls_.Write(fd, AsBytes(new_content)), static_cast<ssize_t>(new_content.size()));
    EXPECT_EQ(calls_.Close(fd), 0);
    EXPECT_EQ(ContentOf("/data/file"), new_content);
    EXPECT_EQ(ContentOf("/data/file", View::kDurable), old_content);
    Random random(seed);
    files_.Crash(&random);
    const std::string left = ContentOf("/data/file");
    EXPECT_EQ(ContentOf("/data/file", View::kDurable), left);
    seen.insert({left[0], left[kBlockBytes - 1], left[kBlockBytes], left.back()});
  }
  EXPECT_THAT(seen, ElementsAre("nnnn", "nnoo", "oonn", "oooo"));
}

TEST_F(SimFilesTest, ANewFileThatIsNotSyncedMayBeEmptyFullOfNothingOrWhole) {
  std::set<std::string> seen;
  for (uint64_t seed = 0; seed < 64; ++seed) {
    files_.Format();
    calls_.Close(Make("/data/file", "new"));
    SyncDirectory("/data");
    Random random(seed);
    files_.Crash(&random);
    seen.insert(ContentOf("/data/file"));
  }
  EXPECT_THAT(seen, ElementsAre("", std::string(3, '\0'), "new"));
}

TEST_F(SimFilesTest, SyncedContentAndNamesOutliveEveryCrash) {
  ASSERT_EQ(calls_.MakeDirectory("/data/dir"), 0);
  SyncDirectory("/data");
  MakeDurable("/data/dir/file", "old");
  calls_.Close(Make("/data/dir/other", "unsynced"));
  for (uint64_t seed = 0; seed < 64; ++seed) {
    Random random(seed);
    files_.Crash(&random);
    EXPECT_EQ(ContentOf("/data/dir/file"), "old");
  }
}

TEST_F(SimFilesTest, ARenameWhoseDirectoryIsNotSyncedMayBeLost) {
  std::set<std::string> seen;
  for (uint64_t seed = 0; seed < 64; ++seed) {
    files_.Format();
    MakeDurable("/data/file", "old");
    MakeDurable("/data/.file.tmp", "new");
    ASSERT_EQ(calls_.Rename("/data/.file.tmp", "/data/file"), 0);
    EXPECT_EQ(ContentOf("/data/file"), "new");
    EXPECT_EQ(ContentOf("/data/file", View::kDurable), "old");
    Random random(seed);
    files_.Crash(&random);
    seen.insert(ContentOf("/data/file") + " " + ContentOf("/data/.file.tmp"));
  }
  EXPECT_THAT(seen, ElementsAre("new (nothing)", "old new"));  // never both, never neither
}

TEST_F(SimFilesTest, ACrashKeepsAPrefixOfTheChangesOfNames) {
  std::set<std::string> seen;
  for (uint64_t seed = 0; seed < 200; ++seed) {
    files_.Format();
    for (const char* name : {"/data/a", "/data/b", "/data/c"}) {
      calls_.Close(Make(name, "1"));
    }
    Random random(seed);
    files_.Crash(&random);
    std::string left;
    for (const std::string& path : files_.Files(View::kCached)) {
      left += path.back();
    }
    seen.insert(left);
  }
  EXPECT_THAT(seen, ElementsAre("", "a", "ab", "abc"));
}

TEST_F(SimFilesTest, AFileIsOutOfReachWithoutTheDirectoryAboveIt) {
  bool lost = false;
  for (uint64_t seed = 0; seed < 64; ++seed) {
    files_.Format();
    ASSERT_EQ(calls_.MakeDirectory("/data/dir"), 0);
    MakeDurable("/data/dir/file", "1");  // and its parent is not synced
    EXPECT_EQ(files_.Find("/data/dir/file", View::kDurable), nullptr);
    EXPECT_THAT(files_.Files(View::kDurable), SizeIs(0));
    Random random(seed);
    files_.Crash(&random);
    EXPECT_EQ(calls_.IsDirectory("/data/dir"), ContentOf("/data/dir/file") == "1");
    lost = lost || !calls_.IsDirectory("/data/dir");
  }
  EXPECT_TRUE(lost);
}

TEST_F(SimFilesTest, AfterAFailedSyncARetrySucceedsAndLies) {
  std::set<std::string> cached;
  for (int i = 0; i < 64; ++i) {
    files_.Format();
    MakeDurable("/data/file", "old");
    const int fd = calls_.Open("/data/file", O_WRONLY);
    EXPECT_EQ(calls_.Write(fd, AsBytes("new")), 3);
    files_.FailSyncs(0, 1);
    EXPECT_EQ(calls_.Sync(fd), -1);
    EXPECT_EQ(errno, EIO);
    EXPECT_EQ(calls_.Sync(fd), 0);
    EXPECT_EQ(calls_.Close(fd), 0);
    cached.insert(ContentOf("/data/file"));
    Random random(7);
    files_.Crash(&random);
    EXPECT_EQ(ContentOf("/data/file"), "old");
  }
  EXPECT_THAT(cached, ElementsAre("new", "old"));  // the pages stay, or are dropped at once
  EXPECT_EQ(files_.stats().failed_syncs, 64U);
}

TEST_F(SimFilesTest, AFullDiskTakesNoByteMoreThanItHas) {
  MakeDurable("/data/file", "four");
  files_.set_full(true);
  const int fd = calls_.Open("/data/file", O_WRONLY);
  EXPECT_EQ(calls_.Write(fd, AsBytes("FOUR")), 4);
  EXPECT_EQ(calls_.Write(fd, AsBytes("5")), -1);
  EXPECT_EQ(errno, ENOSPC);
  EXPECT_EQ(calls_.Sync(fd), 0);
  EXPECT_EQ(calls_.MakeDirectory("/data/dir"), -1);
  EXPECT_EQ(errno, ENOSPC);
  EXPECT_EQ(calls_.Unlink("/data/file"), 0);
  EXPECT_EQ(files_.stats().refused_full, 2U);
  files_.set_full(false);
  EXPECT_EQ(calls_.Write(fd, AsBytes("5")), 1);  // it lives while it is open
  EXPECT_EQ(ContentOf("/data/file"), kNothing);
}

TEST_F(SimFilesTest, ADeadProcessChangesNothing) {
  MakeDurable("/data/file", "old");
  calls_.DieAfter(1);
  const int fd = calls_.Open("/data/file", O_WRONLY);
  ASSERT_GE(fd, 0);
  EXPECT_EQ(calls_.Write(fd, AsBytes("new")), -1);
  EXPECT_EQ(errno, EIO);
  EXPECT_EQ(calls_.Sync(fd), -1);
  EXPECT_EQ(calls_.Unlink("/data/file"), -1);
  EXPECT_EQ(calls_.Rename("/data/file", "/data/other"), -1);
  EXPECT_EQ(calls_.MakeDirectory("/data/dir"), -1);
  EXPECT_EQ(calls_.Open("/data/other", O_WRONLY | O_CREAT), -1);
  EXPECT_EQ(ContentOf("/data/file"), "old");
  EXPECT_THAT(files_.Files(View::kCached), ElementsAre("/data/file"));
}

TEST_F(SimFilesTest, GivesTheErrnoOfTheKernel) {
  ASSERT_EQ(calls_.MakeDirectory("/data/dir"), 0);
  calls_.Close(Make("/data/file", "1"));
  const auto error_of = [](int result) { return result < 0 ? errno : 0; };
  std::vector<std::string> found;
  EXPECT_EQ(error_of(calls_.Open("/data/none", O_RDONLY)), ENOENT);
  EXPECT_EQ(error_of(calls_.Open("/data/file/far/below", O_RDONLY)), ENOTDIR);
  EXPECT_EQ(error_of(calls_.Open("/data/none/below", O_WRONLY | O_CREAT)), ENOENT);
  EXPECT_EQ(error_of(calls_.Open("/data/file", O_WRONLY | O_CREAT | O_EXCL)), EEXIST);
  EXPECT_EQ(error_of(calls_.Open("/data/file", O_RDONLY | O_DIRECTORY)), ENOTDIR);
  EXPECT_EQ(error_of(calls_.Open("/data/dir", O_WRONLY)), EISDIR);
  EXPECT_EQ(error_of(calls_.MakeDirectory("/data/dir")), EEXIST);
  EXPECT_EQ(error_of(calls_.MakeDirectory("/data/file/dir")), ENOTDIR);
  EXPECT_EQ(error_of(calls_.Rename("/data/file", "/data/dir")), EISDIR);
  EXPECT_EQ(error_of(calls_.Rename("/data/none", "/data/file")), ENOENT);
  EXPECT_EQ(error_of(calls_.Rename("/data/file", "/data/none/file")), ENOENT);
  EXPECT_EQ(error_of(calls_.Unlink("/data/dir")), EISDIR);
  EXPECT_EQ(error_of(calls_.Unlink("/data/none")), ENOENT);
  EXPECT_EQ(error_of(calls_.FilesBelow("/data/file", &found)), ENOTDIR);
  EXPECT_EQ(error_of(calls_.FilesBelow("/data/none", &found)), ENOENT);
  EXPECT_TRUE(found.empty());
}

TEST_F(SimFilesTest, ALockIsHeldUntilItsDescriptorOrProcessGoes) {
  auto other = std::make_unique<SimFileCalls>(&files_, Random(6));
  const int own = calls_.Open("/data/LOCK", O_RDWR | O_CREAT);
  const int theirs = other->Open("/data/LOCK", O_RDWR | O_CREAT);
  EXPECT_EQ(calls_.LockAlone(own), 0);
  EXPECT_EQ(other->LockAlone(theirs), -1);
  EXPECT_EQ(errno, EWOULDBLOCK);
  EXPECT_EQ(calls_.Close(own), 0);
  EXPECT_EQ(other->LockAlone(theirs), 0);
  other.reset();
  const int again = calls_.Open("/data/LOCK", O_RDWR);
  EXPECT_EQ(calls_.LockAlone(again), 0);
}

TEST_F(SimFilesTest, ATornFileDiffersFromSomewhereOn) {
  const std::string whole(1000, 'w');
  std::set<bool> cut;
  for (uint64_t seed = 0; seed < 32; ++seed) {
    files_.Put("/data/dir/file", whole);
    Random random(seed);
    files_.Tear("/data/dir/file", &random);
    const std::string torn = ContentOf("/data/dir/file", View::kDurable);
    EXPECT_NE(torn, whole);
    EXPECT_EQ(torn, ContentOf("/data/dir/file"));
    cut.insert(torn.size() < whole.size());
  }
  EXPECT_THAT(cut, ElementsAre(false, true));
}

TEST_F(SimFilesTest, EqualCallsAndDrawsGiveEqualFileSystems) {
  SimFileSystem same;
  std::string left[2];
  for (SimFileSystem* files : {&files_, &same}) {
    auto disk = DiskFiles::Open("/data", std::make_unique<SimFileCalls>(files, Random(4)));
    ASSERT_TRUE(disk.ok()) << disk.status();
    for (int i = 0; i < 20; ++i) {
      files->FailSyncs(static_cast<uint32_t>(i % 3), static_cast<uint32_t>(i % 2));
      (void)(*disk)->WriteAtomically("dir/" + std::to_string(i % 4), std::to_string(i));
    }
    disk->reset();
    Random random(9);
    files->Crash(&random);
    for (const std::string& path : files->Files(View::kDurable)) {
      left[files == &same ? 1 : 0] += path + *files->Find(path, View::kDurable);
    }
  }
  EXPECT_EQ(left[0], left[1]);
  EXPECT_NE(left[0], "");
}

TEST_F(SimFilesTest, AWriteInPlaceAfterASyncThatFailedIsDurableWhicheverItWas) {
  int failed = 0;
  for (uint32_t passed = 0; passed < 6; ++passed) {
    files_.Format();
    auto disk = DiskFiles::Open("/data", std::make_unique<SimFileCalls>(&files_, Random(4)));
    ASSERT_TRUE(disk.ok()) << disk.status();
    files_.FailSyncs(passed, 1);
    failed += (*disk)->WriteInPlace("identity", "first").ok() ? 0 : 1;
    ASSERT_TRUE((*disk)->WriteInPlace("identity", "second").ok());
    disk->reset();
    Random random(passed);
    files_.Crash(&random);
    auto after = DiskFiles::Open("/data", std::make_unique<SimFileCalls>(&files_, Random(5)));
    ASSERT_TRUE(after.ok()) << after.status();
    EXPECT_EQ((*after)->Read("identity").value_or(kNothing), "second") << passed;
  }
  EXPECT_GE(failed, 2);  // of the file, and of its directory
}

// What DiskFiles promises, at every one of its system calls.
TEST_F(SimFilesTest, AWriteThatDiesAtAnyCallLeavesTheOldOrTheNewContentWhole) {
  for (const bool in_place : {false, true}) {
    const auto write = [in_place](DiskFiles* disk, std::string_view content) {
      return in_place ? disk->WriteInPlace("dir/file", content)
                      : disk->WriteAtomically("dir/file", content);
    };
    std::set<std::string> seen;
    bool done = false;
    for (uint32_t calls = 0; !done; ++calls) {
      for (uint64_t seed = 0; seed < 16; ++seed) {
        files_.Format();
        auto owned = std::make_unique<SimFileCalls>(&files_, Random(seed));
        SimFileCalls* dying = owned.get();
        auto disk = DiskFiles::Open("/data", std::move(owned));
        ASSERT_TRUE(disk.ok()) << disk.status();
        ASSERT_TRUE(write(disk->get(), "old").ok());
        dying->DieAfter(calls);
        done = write(disk->get(), std::string(100, 'n')).ok();
        disk->reset();
        Random random(seed);
        files_.Crash(&random);
        auto after = DiskFiles::Open("/data", std::make_unique<SimFileCalls>(&files_, Random(1)));
        ASSERT_TRUE(after.ok()) << after.status();
        const absl::StatusOr<std::string> read = (*after)->Read("dir/file");
        ASSERT_TRUE(read.ok()) << calls << ": " << read.status();
        EXPECT_TRUE(!done || *read != "old") << calls;
        seen.insert(read->substr(0, 3));
        EXPECT_THAT(files_.Files(View::kCached),
                    IsSubsetOf({"/data/LOCK", "/data/dir/file"}));  // no temporary file
      }
    }
    EXPECT_THAT(seen, ElementsAre("nnn", "old"));
  }
}

TEST_F(SimFilesTest, AMisdirectedWriteSpoilsAnotherFileAndLeavesItsOwnAsItWas) {
  std::set<std::string> seen;
  for (int i = 0; i < 32; ++i) {
    files_.Format();
    MakeDurable("/data/file", "old");
    MakeDurable("/data/other", "other");
    files_.MisdirectNextWrite("/data/file");
    MakeDurable("/data/.file.tmp", "new");
    ASSERT_EQ(calls_.Rename("/data/.file.tmp", "/data/file"), 0);
    EXPECT_EQ(files_.Find("/data/.file.tmp", View::kCached), nullptr);
    seen.insert(ContentOf("/data/file") + " " + ContentOf("/data/other", View::kDurable));
  }
  EXPECT_THAT(seen, ElementsAre("old newer", "old other"));  // it may hit nothing
  EXPECT_EQ(files_.stats().misdirected, 32U);
}

TEST_F(SimFilesTest, OfALongerWriteTheFirstBlockGoesAstray) {
  MakeDurable("/data/other", "other");
  files_.MisdirectNextWrite("/data/file");
  MakeDurable("/data/file", std::string(kBlockBytes + 1, 'n'));
  EXPECT_EQ(ContentOf("/data/file", View::kDurable), std::string(kBlockBytes, '\0') + "n");
}

}  // namespace
}  // namespace gemel

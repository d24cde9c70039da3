// SPDX-License-Identifier: Apache-2.0
//
// One conformance test for RealDisk and SimDisk; what only one of them has is in
// common_real_disk_test.cc and common_sim_disk_test.cc.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "common/real_disk.h"
#include "common/sim_disk.h"
#include "tests/unit/common_runner.h"
#include "tests/unit/common_temporary_directory.h"

namespace gemel {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

class RealWorld {
 public:
  RealWorld() : loop_(*EpollLoop::Create()) { Reopen(); }

  void Reopen() {
    disk_.reset();
    auto opened = RealDisk::Open(loop_.get(), directory_.path() + "/data");
    GEMEL_CHECK(opened.ok()) << opened.status();
    disk_ = *std::move(opened);
  }

  // Decays the bytes of a file.
  void Rot(const std::string& name) {
    const std::string path = directory_.path() + "/data/" + name;
    std::string frame = ReadWholeFile(path);
    frame.back() = static_cast<char>(frame.back() ^ 1);
    WriteWholeFile(path, frame);
  }

  Loop* loop() { return loop_.get(); }

  Disk& disk() { return *disk_; }

  void CloseDisk() { disk_.reset(); }

  void ShutDown() { loop_->Shutdown(); }

  template <typename T>
  T Run(Task<T> task) {
    return RunTask(loop_.get(), std::move(task));
  }

  void RunUntil(const std::function<bool()>& done) { GEMEL_CHECK(RunLoop(loop_.get(), done)); }

 private:
  TemporaryDirectory directory_;
  std::unique_ptr<EpollLoop> loop_;
  std::unique_ptr<RealDisk> disk_;
};

class SimWorld {
 public:
  SimWorld() { Reopen(); }

  void Reopen() {
    disk_.reset();
    disk_ = std::make_unique<SimDisk>(&loop_, &state_, Random(11));
  }

  void Rot(const std::string& name) { GEMEL_CHECK(state_.Rot(name)); }

  Loop* loop() { return &loop_; }

  Disk& disk() { return *disk_; }

  void CloseDisk() { disk_.reset(); }

  void ShutDown() { loop_.Kill(); }

  template <typename T>
  T Run(Task<T> task) {
    return RunTask(&scheduler_, &loop_, std::move(task));
  }

  void RunUntil(const std::function<bool()>& done) {
    GEMEL_CHECK(scheduler_.RunUntil(done, kTimeNever));
  }

 private:
  SimScheduler scheduler_;
  SimLoop loop_{&scheduler_};
  SimDiskState state_;
  std::unique_ptr<SimDisk> disk_;
};

template <typename World>
class DiskConformance : public ::testing::Test {
 protected:
  absl::Status Write(std::string name, std::string content) {
    return world_.Run(world_.disk().WriteAtomically(std::move(name), std::move(content)));
  }

  absl::Status WriteInPlace(std::string name, std::string content) {
    return world_.Run(world_.disk().WriteInPlace(std::move(name), std::move(content)));
  }

  absl::StatusOr<std::string> Read(std::string name) {
    return world_.Run(world_.disk().Read(std::move(name)));
  }

  absl::Status Remove(std::string name) {
    return world_.Run(world_.disk().Remove(std::move(name)));
  }

  std::vector<std::string> List(std::string prefix) {
    auto names = world_.Run(world_.disk().List(std::move(prefix)));
    EXPECT_TRUE(names.ok()) << names.status();
    return names.ok() ? *names : std::vector<std::string>{"error"};
  }

  World world_;
};

using Worlds = ::testing::Types<RealWorld, SimWorld>;
TYPED_TEST_SUITE(DiskConformance, Worlds);

TYPED_TEST(DiskConformance, ReadsWhatWasWrittenAlsoAfterReopening) {
  const std::string binary("\0\xff line\n", 8);
  ASSERT_TRUE(this->Write("identity", binary).ok());
  ASSERT_TRUE(this->Write("empty", "").ok());
  ASSERT_TRUE(this->Write("identity", binary + "2").ok());
  EXPECT_EQ(*this->Read("identity"), binary + "2");
  this->world_.Reopen();
  EXPECT_EQ(*this->Read("identity"), binary + "2");
  EXPECT_EQ(*this->Read("empty"), "");
}

TYPED_TEST(DiskConformance, MakesDirectoriesAndListsSortedFullNames) {
  for (const char* name : {"c/z", "c/a/deep/x", "b", "cc", "c/b"}) {
    ASSERT_TRUE(this->Write(name, "1").ok()) << name;
  }
  EXPECT_THAT(this->List(""), ElementsAre("b", "c/a/deep/x", "c/b", "c/z", "cc"));
  EXPECT_THAT(this->List("c"), ElementsAre("c/a/deep/x", "c/b", "c/z"));
  EXPECT_THAT(this->List("c/a"), ElementsAre("c/a/deep/x"));
  EXPECT_THAT(this->List("none"), IsEmpty());
  EXPECT_THAT(this->List("b"), IsEmpty());  // a file, no directory
}

TYPED_TEST(DiskConformance, TellsAMissingFile) {
  ASSERT_TRUE(this->Write("dir/file", "1").ok());
  EXPECT_TRUE(absl::IsNotFound(this->Read("none").status()));
  EXPECT_TRUE(absl::IsNotFound(this->Read("dir").status()));
  EXPECT_TRUE(absl::IsNotFound(this->Read("dir/file/below").status()));
  EXPECT_TRUE(absl::IsNotFound(this->Read("none/below").status()));
}

TYPED_TEST(DiskConformance, RemovesAndAcceptsWhatIsNotThere) {
  ASSERT_TRUE(this->Write("dir/file", "1").ok());
  EXPECT_TRUE(this->Remove("dir/file").ok());
  EXPECT_TRUE(this->Remove("dir/file").ok());
  EXPECT_TRUE(this->Remove("none/file").ok());
  EXPECT_TRUE(absl::IsNotFound(this->Read("dir/file").status()));
  EXPECT_THAT(this->List(""), IsEmpty());
  ASSERT_TRUE(this->Write("file", "1").ok());
  EXPECT_TRUE(this->Remove("file/below").ok());
  EXPECT_EQ(*this->Read("file"), "1");
}

TYPED_TEST(DiskConformance, RefusesNamesThatLeaveTheDirectoryOrAreItsOwn) {
  const std::string zero("a\0b", 3);
  for (const std::string& name :
       {std::string(), std::string("/etc/x"), std::string("a//b"), std::string("a/"),
        std::string(".."), std::string("a/../b"), std::string(".a.tmp"), std::string("a/.hidden"),
        zero, std::string(201, 'n'), std::string(1025, 'n'), std::string("LOCK")}) {
    EXPECT_TRUE(absl::IsInvalidArgument(this->Write(name, "1"))) << name;
    EXPECT_TRUE(absl::IsInvalidArgument(this->Read(name).status())) << name;
    EXPECT_TRUE(absl::IsInvalidArgument(this->Remove(name))) << name;
  }
  auto listed = this->world_.Run(this->world_.disk().List("../x"));
  EXPECT_TRUE(absl::IsInvalidArgument(listed.status()));
  EXPECT_TRUE(this->Write(std::string(200, 'n'), "1").ok());
}

TYPED_TEST(DiskConformance, RefusesAFileOverTheLimit) {
  absl::Status status = this->Write("big", std::string(kFileBytesMax + 1, 'x'));
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
}

TYPED_TEST(DiskConformance, RefusesANameThatIsAFileAndADirectory) {
  ASSERT_TRUE(this->Write("file", "1").ok());
  ASSERT_TRUE(this->Write("dir/file", "1").ok());
  EXPECT_TRUE(absl::IsInvalidArgument(this->Write("file/below", "2")));
  EXPECT_TRUE(absl::IsInvalidArgument(this->Write("file/far/below", "2")));
  EXPECT_TRUE(absl::IsInvalidArgument(this->Write("dir", "2")));
  EXPECT_THAT(this->List(""), ElementsAre("dir/file", "file"));
}

TYPED_TEST(DiskConformance, TellsRottenBytesUntilTheFileIsWrittenAnew) {
  ASSERT_TRUE(this->Write("record", "bytes").ok());
  this->world_.Rot("record");
  auto read = this->Read("record");
  EXPECT_TRUE(absl::IsDataLoss(read.status())) << read.status();
  EXPECT_NE(read.status().ToString().find("record"), std::string::npos);
  this->world_.Reopen();
  EXPECT_TRUE(absl::IsDataLoss(this->Read("record").status()));
  ASSERT_TRUE(this->Write("record", "bytes").ok());
  EXPECT_EQ(*this->Read("record"), "bytes");
}

TYPED_TEST(DiskConformance, WritesInPlaceWhatFitsAndWhatDoesNot) {
  for (const size_t bytes : {size_t{0}, size_t{5}, size_t{RoomFor(5)}, size_t{100'000}}) {
    const std::string content(bytes, 'x');
    ASSERT_TRUE(this->WriteInPlace("dir/identity", content).ok()) << bytes;
    EXPECT_EQ(*this->Read("dir/identity"), content);
    this->world_.Reopen();
    EXPECT_EQ(*this->Read("dir/identity"), content);
  }
  EXPECT_THAT(this->List(""), ElementsAre("dir/identity"));
  EXPECT_TRUE(absl::IsInvalidArgument(this->WriteInPlace("../x", "1")));
  EXPECT_TRUE(absl::IsInvalidArgument(this->WriteInPlace("dir", "1")));
  EXPECT_TRUE(this->Remove("dir/identity").ok());
  EXPECT_TRUE(absl::IsNotFound(this->Read("dir/identity").status()));
}

TYPED_TEST(DiskConformance, WorksInTheOrderOfTheCallsAlsoOverItsQueue) {
  std::vector<std::shared_ptr<std::optional<absl::Status>>> writes;
  const int count = static_cast<int>(RealDisk::kOperationsMax) * 2 + 3;
  for (int i = 0; i < count; ++i) {
    auto write = this->world_.disk().WriteAtomically("record", std::to_string(i));
    writes.push_back(Start(this->world_.loop(), std::move(write)));
  }
  auto all_done = [&] {
    return std::all_of(writes.begin(), writes.end(), [](auto& slot) { return slot->has_value(); });
  };
  this->world_.RunUntil(all_done);
  for (const auto& write : writes) {
    EXPECT_TRUE((*write)->ok());
  }
  EXPECT_EQ(*this->Read("record"), std::to_string(count - 1));
}

TYPED_TEST(DiskConformance, GoesAwayWithOperationsUnderWay) {
  std::vector<std::shared_ptr<std::optional<absl::Status>>> writes;
  for (size_t i = 0; i < 2 * RealDisk::kOperationsMax; ++i) {
    auto write = this->world_.disk().WriteAtomically("record", std::to_string(i));
    writes.push_back(Start(this->world_.loop(), std::move(write)));
  }
  bool begun = false;
  this->world_.loop()->Post([&] { begun = true; });
  this->world_.RunUntil([&] { return begun; });
  this->world_.CloseDisk();
  this->world_.RunUntil([&] { return writes.back()->has_value(); });
  this->world_.RunUntil([&] { return writes.front()->has_value(); });
  EXPECT_TRUE(absl::IsCancelled(**writes.back())) << **writes.back();
  for (const auto& write : writes) {
    ASSERT_TRUE(write->has_value());
    EXPECT_TRUE((*write)->ok() || absl::IsCancelled(**write)) << **write;
  }
  this->world_.Reopen();
  auto read = this->Read("record");
  EXPECT_TRUE(read.ok() || absl::IsNotFound(read.status())) << read.status();
}

TYPED_TEST(DiskConformance, OutlivesALoopThatWasShutDownWithOperationsUnderWay) {
  std::vector<std::shared_ptr<std::optional<absl::Status>>> writes;
  for (int i = 0; i < 5; ++i) {
    auto write = this->world_.disk().WriteAtomically("record", std::to_string(i));
    writes.push_back(Start(this->world_.loop(), std::move(write)));
  }
  this->world_.RunUntil([&] { return writes[0]->has_value(); });
  this->world_.ShutDown();
  this->world_.CloseDisk();
  EXPECT_EQ(writes.back().use_count(), 1);
  EXPECT_FALSE(writes.back()->has_value());
}

}  // namespace
}  // namespace gemel

// SPDX-License-Identifier: Apache-2.0
//
// Exports of a snapshot in memory to a real directory: content, crashes at every step, damage, full
// and failing disks, targets that hold something else.
#include <gtest/gtest.h>

#include <cerrno>
#include <filesystem>
#include <functional>

#include "client/archive/directory_store.h"
#include "client/archive/export_reader.h"
#include "client/archive/exporter.h"
#include "common/xxh3.h"
#include "tests/unit/archive_fakes.h"
#include "tests/unit/common_temporary_directory.h"

namespace gemel::archive {
namespace {

constexpr uint64_t kSmallFile = 140;  // several files already with the small job

class ArchiveExport : public ::testing::Test {
 protected:
  absl::StatusOr<ExportResult> Run(SnapshotSource* source, bool force = false,
                                   const std::string& prefix = "") {
    ExportOptions options{prefix, force, kSmallFile};
    return Export(source, &store_, &pace_, options, [](uint64_t, uint64_t, const std::string&) {});
  }

  absl::Status Verify() {
    GEMEL_CHECK(ReadRecord(&store_, "").ok());
    return VerifyExport(&store_, &pace_, "", *ReadRecord(&store_, ""),
                        [](uint64_t, uint64_t, const std::string&) {});
  }

  std::vector<std::string> Names() {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(folder_.path())) {
      names.push_back(entry.path().filename());
    }
    std::sort(names.begin(), names.end());
    return names;
  }

  // Bytes of a tensor by its name in the files.
  std::string Exported(const std::string& file, const std::string& name) {
    const auto header = ReadHeader(&store_, file);
    GEMEL_CHECK(header.ok()) << header.status();
    for (const safetensors::Tensor& tensor : header->tensors) {
      if (tensor.name == name) {
        return ReadWholeFile(Path(file)).substr(header->data_begin + tensor.begin, tensor.bytes());
      }
    }
    return "not in the file";
  }

  std::string Path(const std::string& name) const { return folder_.path() + "/" + name; }

  TemporaryDirectory folder_;
  std::shared_ptr<FailingCalls> calls_ = std::make_shared<FailingCalls>();
  DirectoryStore store_{folder_.path(), calls_};
  FakePace pace_;
  MemorySource source_ = TwoRanks();
};

TEST_F(ArchiveExport, HoldsEveryTensorWholeAndReadsEachByteOnce) {
  const auto result =
      Export(&source_, &store_, &pace_, {}, [](uint64_t, uint64_t, const std::string&) {});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(Names(), (std::vector<std::string>{"gemel.json", "model.safetensors",
                                               "optim.safetensors", "values.safetensors"}));
  for (const std::string name : {"rows", "columns", "both"}) {
    EXPECT_EQ(Exported("model.safetensors", name), source_.Whole("model/" + name)) << name;
  }
  EXPECT_EQ(Exported("optim.safetensors", "state.c"), source_.Whole("optim/state.c"));
  EXPECT_EQ(Exported("optim.safetensors", "state.rows.step"),
            source_.Whole("optim/state.rows.step"));
  const ShardLayout& second = source_.layouts[1];
  EXPECT_EQ(Exported("values.safetensors", "values/rank@1"),
            source_.shards[1].substr(second.entries[0].data_offset, 35));
  EXPECT_EQ(Exported("values.safetensors", "layout@1"),
            source_.shards[1].substr(0, second.layout_bytes));
  ASSERT_EQ(result->warnings.size(), 1U);
  EXPECT_NE(result->warnings[0].find("complex128"), std::string::npos);
  uint64_t wanted = 0;
  for (const ShardLayout& layout : source_.layouts) {
    wanted += 2 * layout.layout_bytes;  // for the plan, and as a value
    for (const LayoutEntry& entry : layout.entries) {
      wanted += entry.data_bytes;
    }
  }
  EXPECT_EQ(source_.bytes_read, wanted);
}

TEST_F(ArchiveExport, SplitsFilesAndNamesThemInAnIndex) {
  ASSERT_TRUE(Run(&source_).ok());
  EXPECT_TRUE(Verify().ok()) << Verify();
  const std::string index = ReadWholeFile(Path("model.safetensors.index.json"));
  EXPECT_NE(index.find("\"rows\": \"model-00002-of-00002.safetensors\""), std::string::npos)
      << index;
  EXPECT_EQ(Exported("model-00002-of-00002.safetensors", "rows"), source_.Whole("model/rows"));
}

TEST_F(ArchiveExport, NamesWithoutPrefixStayInOneGroup) {
  MemorySource plain("7", 3,
                     {{Bytes("values/dcp", 5), Piece("model/w", Dtype::kInt8, {{2, 0, 2}}),
                       Piece("w", Dtype::kInt8, {{2, 0, 2}})}});
  ASSERT_TRUE(
      Export(&plain, &store_, &pace_, {}, [](uint64_t, uint64_t, const std::string&) {}).ok());
  EXPECT_EQ(Exported("model.safetensors", "model/w"), plain.Whole("model/w"));
  EXPECT_EQ(Exported("model.safetensors", "w"), plain.Whole("w"));
}

TEST_F(ArchiveExport, HolesOverlapsAndMixedShardsAreDataLossByName) {
  MemorySource hole("7", 1, {{Piece("model/w", Dtype::kInt8, {{4, 0, 2}})}});
  MemorySource overlap("7", 1,
                       {{Piece("model/w", Dtype::kInt8, {{4, 0, 2}})},
                        {Piece("model/w", Dtype::kInt8, {{4, 1, 3}})}});
  MemorySource dtypes("7", 1,
                      {{Piece("model/w", Dtype::kInt8, {{4, 0, 2}})},
                       {Piece("model/w", Dtype::kUint8, {{4, 2, 2}})}});
  for (MemorySource* source : {&hole, &overlap, &dtypes}) {
    const auto result = Run(source);
    EXPECT_TRUE(absl::IsDataLoss(result.status())) << result.status();
    EXPECT_NE(result.status().message().find("'model/w'"), std::string::npos) << result.status();
  }
  MemorySource swapped = TwoRanks();
  std::swap(swapped.shards[0], swapped.shards[1]);
  EXPECT_TRUE(absl::IsDataLoss(Run(&swapped).status()) ||
              absl::IsInvalidArgument(Run(&swapped).status()));
  EXPECT_TRUE(Names().empty());
}

TEST_F(ArchiveExport, ReplicasOfOneBoxAreTakenOnce) {
  MemorySource replicas("7", 1,
                        {{Piece("model/w", Dtype::kInt8, {{4, 0, 4}})},
                         {Piece("model/w", Dtype::kInt8, {{4, 0, 4}})}});
  ASSERT_TRUE(
      Export(&replicas, &store_, &pace_, {}, [](uint64_t, uint64_t, const std::string&) {}).ok());
  const std::string& first = replicas.shards[0];
  EXPECT_EQ(Exported("model.safetensors", "w"),
            first.substr(replicas.layouts[0].entries[0].data_offset, 4));
}

// Stopped at every single step, it goes on with the files that are whole, and ends as one that was
// never stopped.
TEST_F(ArchiveExport, GoesOnAfterAStopAtAnyStep) {
  int stops = 0;
  for (int after = 0; after < 400; ++after) {
    TemporaryDirectory folder;
    auto calls = std::make_shared<FailingCalls>();
    calls->writes_left = after;
    const ExportOptions options{"", false, kSmallFile};
    const auto watcher = [](uint64_t, uint64_t, const std::string&) {};
    {
      DirectoryStore dying(folder.path(), calls);
      const auto result = Export(&source_, &dying, &pace_, options, watcher);
      if (result.ok()) {
        break;
      }
      EXPECT_TRUE(absl::IsResourceExhausted(result.status())) << result.status();
      EXPECT_FALSE(std::filesystem::exists(folder.path() + "/gemel.json"));
      ++stops;
    }
    DirectoryStore store(folder.path(), std::make_shared<FailingCalls>());
    const auto result = Export(&source_, &store, &pace_, options, watcher);
    ASSERT_TRUE(result.ok()) << result.status() << " after " << after;
    EXPECT_TRUE(VerifyExport(&store, &pace_, "", result->record, watcher).ok());
    EXPECT_FALSE(std::filesystem::exists(folder.path() + "/gemel.partial.json"));
    for (const auto& entry : std::filesystem::directory_iterator(folder.path())) {
      EXPECT_FALSE(entry.path().filename().string().starts_with('.')) << entry.path();
    }
  }
  EXPECT_GT(stops, 20);
}

TEST_F(ArchiveExport, KeepsWhatAnEarlierRunWroteButNotWhatWasDamagedSince) {
  source_.fail_after = 8;
  ASSERT_TRUE(absl::IsUnavailable(Run(&source_).status()));
  source_.fail_after = -1;
  const auto kept = Names();
  ASSERT_GE(kept.size(), 3U);  // the journal and two files
  std::string damaged = ReadWholeFile(Path(kept[1]));
  damaged.back() ^= 1;
  WriteWholeFile(Path(kept[1]), damaged);
  const auto result = Run(&source_);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_GT(result->kept_bytes, 0U);
  EXPECT_LT(result->kept_bytes, result->bytes);
  EXPECT_TRUE(Verify().ok()) << Verify();
}

TEST_F(ArchiveExport, NeverTakesAFileOfAnotherSnapshotForItsOwn) {
  source_.fail_after = 8;
  ASSERT_FALSE(Run(&source_).ok());
  MemorySource other = TwoRanks(13);
  const auto refused = Run(&other);
  EXPECT_TRUE(absl::IsFailedPrecondition(refused.status())) << refused.status();
  EXPECT_NE(refused.status().message().find("sequence 12"), std::string::npos) << refused.status();
  const auto forced = Run(&other, true);
  ASSERT_TRUE(forced.ok()) << forced.status();
  EXPECT_EQ(forced->kept_bytes, 0U);
  EXPECT_EQ(Exported("model-00002-of-00002.safetensors", "rows"), other.Whole("model/rows"));
}

TEST_F(ArchiveExport, ACompleteOneIsLeftAloneByItsOwnAndRefusedToAnother) {
  ASSERT_TRUE(Run(&source_).ok());
  const auto again = Run(&source_);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_TRUE(again->was_complete);
  MemorySource other = TwoRanks(13);
  EXPECT_TRUE(absl::IsFailedPrecondition(Run(&other).status()));
  EXPECT_TRUE(Verify().ok());
  ASSERT_TRUE(Run(&other, true).ok());
  EXPECT_EQ(ReadRecord(&store_, "")->snapshot, other.facts());
  EXPECT_TRUE(Verify().ok());
}

TEST_F(ArchiveExport, OtherContentIsRefusedAndKept) {
  WriteWholeFile(Path("thesis.tex"), "years");
  const auto refused = Run(&source_);
  EXPECT_TRUE(absl::IsFailedPrecondition(refused.status())) << refused.status();
  EXPECT_NE(refused.status().message().find("thesis.tex"), std::string::npos);
  ASSERT_TRUE(Run(&source_, true).ok());
  EXPECT_EQ(ReadWholeFile(Path("thesis.tex")), "years");
}

TEST_F(ArchiveExport, AFlippedByteInAnyFileIsFound) {
  ASSERT_TRUE(Run(&source_).ok());
  for (const std::string& name : Names()) {
    const std::string good = ReadWholeFile(Path(name));
    for (const size_t at : {size_t{0}, good.size() / 2, good.size() - 1}) {
      std::string bad = good;
      bad[at] ^= 4;
      WriteWholeFile(Path(name), bad);
      const bool found = !ReadRecord(&store_, "").ok() || !Verify().ok() ||
                         ReadRecord(&store_, "")->snapshot != source_.facts();
      // The record's own last byte is the line's end.
      EXPECT_TRUE(found || name == "gemel.json") << name << " " << at;
    }
    WriteWholeFile(Path(name), good.substr(0, good.size() - 1));
    EXPECT_TRUE(name == "gemel.json" || absl::IsDataLoss(Verify())) << name;
    WriteWholeFile(Path(name), good);
  }
  EXPECT_TRUE(Verify().ok());
  std::filesystem::remove(Path("model-00001-of-00002.safetensors"));
  EXPECT_TRUE(absl::IsDataLoss(Verify())) << Verify();
}

TEST_F(ArchiveExport, AFileWhoseSyncFailedIsNotThere) {
  for (int syncs = 0; syncs < 12; ++syncs) {
    TemporaryDirectory folder;
    auto calls = std::make_shared<FailingCalls>();
    calls->syncs_left = syncs;
    DirectoryStore store(folder.path() + "/new", calls);
    const auto result =
        Export(&source_, &store, &pace_, {}, [](uint64_t, uint64_t, const std::string&) {});
    EXPECT_TRUE(absl::IsUnavailable(result.status())) << result.status();
    EXPECT_FALSE(std::filesystem::exists(folder.path() + "/new/gemel.json")) << syncs;
    DirectoryStore later(folder.path() + "/new", std::make_shared<FailingCalls>());
    EXPECT_TRUE(
        Export(&source_, &later, &pace_, {}, [](uint64_t, uint64_t, const std::string&) {}).ok());
  }
}

TEST_F(ArchiveExport, EndsWhenAskedAndGoesOnLater) {
  pace_.stop_after = 3;
  EXPECT_TRUE(absl::IsCancelled(Run(&source_).status()));
  pace_.stop_after = -1;
  const auto result = Run(&source_);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_TRUE(Verify().ok());
}

TEST_F(ArchiveExport, AnExportThatIsNotCompleteIsNone) {
  source_.fail_after = 8;
  ASSERT_FALSE(Run(&source_).ok());
  const auto record = ReadRecord(&store_, "");
  EXPECT_TRUE(absl::IsNotFound(record.status())) << record.status();
  EXPECT_NE(record.status().message().find("not complete"), std::string::npos);
}

TEST_F(ArchiveExport, AnOpaqueShardIsRefusedWithTheReason) {
  MemorySource opaque = TwoRanks();
  opaque.shards[0][0] = 'X';
  const auto result = Run(&opaque);
  EXPECT_TRUE(absl::IsInvalidArgument(result.status())) << result.status();
  EXPECT_NE(result.status().message().find("layout.magic"), std::string::npos) << result.status();
}

}  // namespace
}  // namespace gemel::archive

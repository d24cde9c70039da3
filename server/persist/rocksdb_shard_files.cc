// SPDX-License-Identifier: Apache-2.0
#include "server/persist/rocksdb_shard_files.h"

#include <rocksdb/env.h>
#include <rocksdb/options.h>
#include <rocksdb/sst_file_writer.h>

#include "common/check.h"
#include "common/errors.h"
#include "common/status_macros.h"
#include "common/xxh3.h"
#include "server/persist/persist_record.h"
#include "server/persist/rocksdb_status.h"

namespace gemel {

ShardFiles::ShardFiles(Options options, uint64_t range)
    : options_(std::move(options)), range_(range) {
  GEMEL_CHECK(options_.env != nullptr && options_.table != nullptr);
  GEMEL_CHECK_GT(options_.file_bytes, 0U);
}

ShardFiles::~ShardFiles() = default;

std::string ShardFiles::TemporaryOf(const std::string& path) { return path + ".tmp"; }

absl::Status ShardFiles::Write(const PersistSource& source, const std::atomic<bool>& given_up) {
  GEMEL_CHECK(paths_.empty()) << "written twice";
  absl::Status written = WriteChunks(source, given_up);
  writer_ = nullptr;
  GEMEL_RETURN_IF_ERROR(written);
  GEMEL_RETURN_IF_ERROR(SyncFolder(PersistStep::kDirectorySynced));
  GEMEL_RETURN_IF_ERROR(Rename());
  return SyncFolder(PersistStep::kRenameSynced);
}

absl::Status ShardFiles::WriteChunks(const PersistSource& source,
                                     const std::atomic<bool>& given_up) {
  GEMEL_CHECK_EQ(source.chunks.size(), source.digests.size());
  GEMEL_RETURN_IF_ERROR(Begin());
  const std::string digests = EncodeDigests(source.digests);
  GEMEL_RETURN_IF_ERROR(Put(0, AsBytes(digests)));
  for (uint32_t chunk = 0; chunk < source.chunks.size(); ++chunk) {
    if (given_up.load(std::memory_order_relaxed)) {
      return error::Aborted("persisting {} was given up: its snapshot was dropped",
                            source.shard.shard.ToString());
    }
    const Digest128 found = Xxh3_128(source.chunks[chunk]);
    if (found != source.digests[chunk]) {
      return error::DataLoss(
          "chunk {} of {} in this server's memory has digest {} where {} belongs", chunk,
          source.shard.shard.ToString(), ToHex(found), ToHex(source.digests[chunk]));
    }
    if (writer_->FileSize() >= options_.file_bytes) {
      GEMEL_RETURN_IF_ERROR(End());
      GEMEL_RETURN_IF_ERROR(Begin());
    }
    GEMEL_RETURN_IF_ERROR(Put(chunk + 1, source.chunks[chunk]));
    options_.at_step(PersistStep::kChunkWritten);
  }
  return End();
}

absl::Status ShardFiles::Begin() {
  GEMEL_CHECK(writer_ == nullptr || !paths_.empty());
  // Blocks are the caller's chunks: bypassing the page cache would need aligned copies of them.
  rocksdb::EnvOptions env_options(*options_.table);
  writer_ = std::make_unique<rocksdb::SstFileWriter>(env_options, *options_.table);
  paths_.push_back(fmt::format("{}/{:016x}-{:06}.sst", options_.folder, range_, paths_.size()));
  const std::string path = TemporaryOf(paths_.back());
  return FromRocksdb(writer_->Open(path), options_.folder, "making " + path);
}

absl::Status ShardFiles::Put(uint32_t index, ByteSpan value) {
  const rocksdb::Slice slice(reinterpret_cast<const char*>(value.data()), value.size());
  return FromRocksdb(writer_->Put(DataKey(range_, index), slice), options_.folder,
                     "writing " + TemporaryOf(paths_.back()));
}

// Ends with the fsync of the file.
absl::Status ShardFiles::End() {
  GEMEL_RETURN_IF_ERROR(
      FromRocksdb(writer_->Finish(), options_.folder, "syncing " + TemporaryOf(paths_.back())));
  options_.at_step(PersistStep::kFileSynced);
  return absl::OkStatus();
}

absl::Status ShardFiles::Rename() {
  for (const std::string& path : paths_) {
    GEMEL_RETURN_IF_ERROR(FromRocksdb(options_.env->RenameFile(TemporaryOf(path), path),
                                      options_.folder, "renaming to " + path));
  }
  options_.at_step(PersistStep::kRenamed);
  return absl::OkStatus();
}

absl::Status ShardFiles::SyncFolder(PersistStep done) {
  std::unique_ptr<rocksdb::Directory> directory;
  GEMEL_RETURN_IF_ERROR(FromRocksdb(options_.env->NewDirectory(options_.folder, &directory),
                                    options_.folder, "opening the folder"));
  GEMEL_RETURN_IF_ERROR(FromRocksdb(directory->Fsync(), options_.folder, "syncing the folder"));
  options_.at_step(done);
  return absl::OkStatus();
}

void ShardFiles::Remove() {
  writer_ = nullptr;
  for (const std::string& path : paths_) {
    for (const std::string& name : {TemporaryOf(path), path}) {
      options_.env->DeleteFile(name).PermitUncheckedError();
    }
  }
}

}  // namespace gemel

// SPDX-License-Identifier: Apache-2.0
//
// FaultyDisk: RocksDB's file system with a disk below that can be full, fail, hang, and lose what
// was not synced. Everything else is the real one.
//
// Thread safety: any thread; the knobs too.
#pragma once

#include <rocksdb/env.h>
#include <rocksdb/file_system.h>

#include <condition_variable>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>

#include "common/check.h"

namespace gemel::testing {

class FaultyDisk final : public rocksdb::FileSystemWrapper {
 public:
  enum class Work { kAppend, kSync, kRead };

  FaultyDisk() : FileSystemWrapper(rocksdb::FileSystem::Default()) {}

  const char* Name() const override { return "FaultyDisk"; }

  void set_full(bool full) {
    const std::lock_guard lock(mutex_);
    full_ = full;
  }

  // The n-th sync of a file or a folder from now on fails, once. 0: none.
  void FailSync(uint64_t n) {
    const std::lock_guard lock(mutex_);
    fail_sync_ = n;
  }

  void set_hung(bool hung, bool reads_too = true) {
    const std::lock_guard lock(mutex_);
    hung_ = hung;
    reads_hang_ = reads_too;
    changed_.notify_all();
  }

  uint64_t appended_bytes() {
    const std::lock_guard lock(mutex_);
    return appended_bytes_;
  }

  uint64_t syncs() {
    const std::lock_guard lock(mutex_);
    return syncs_;
  }

  // What the disk would hold below `from` after a power cut now, copied to `to`.
  void CopyWhatIsDurable(const std::string& from, const std::string& to) {
    const std::lock_guard lock(mutex_);
    std::filesystem::create_directories(to);
    for (const auto& entry : std::filesystem::recursive_directory_iterator(from)) {
      const std::string path = entry.path().string();
      const std::string target = to + path.substr(from.size());
      if (entry.is_directory()) {
        std::filesystem::create_directories(target);
        continue;
      }
      const auto named = volatile_names_.find(path);
      if (named != volatile_names_.end() && named->second.empty()) {
        continue;  // its folder does not know it yet
      }
      const std::string durable =
          named == volatile_names_.end() ? target : to + named->second.substr(from.size());
      std::filesystem::copy_file(path, durable);
      const auto synced = synced_bytes_.find(path);
      if (synced != synced_bytes_.end() && synced->second < std::filesystem::file_size(durable)) {
        std::filesystem::resize_file(durable, synced->second);
      }
    }
  }

  // Called by files before they work.
  rocksdb::IOStatus Before(Work work, uint64_t bytes = 0) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this, work] { return !hung_ || (work == Work::kRead && !reads_hang_); });
    if (work == Work::kAppend && full_) {
      return rocksdb::IOStatus::NoSpace("test: no space left on device");
    }
    if (work == Work::kSync) {
      syncs_ += 1;
      if (fail_sync_ > 0 && --fail_sync_ == 0) {
        return rocksdb::IOStatus::IOError("test: input/output error");
      }
    }
    appended_bytes_ += bytes;
    return rocksdb::IOStatus::OK();
  }

  void Synced(const std::string& path, uint64_t bytes) {
    const std::lock_guard lock(mutex_);
    synced_bytes_[path] = bytes;
  }

  void FolderSynced(const std::string& folder) {
    const std::lock_guard lock(mutex_);
    std::erase_if(volatile_names_, [&folder](const auto& one) {
      return std::filesystem::path(one.first).parent_path() == std::filesystem::path(folder);
    });
  }

  rocksdb::IOStatus NewWritableFile(const std::string& name, const rocksdb::FileOptions& options,
                                    std::unique_ptr<rocksdb::FSWritableFile>* file,
                                    rocksdb::IODebugContext* context) override;
  rocksdb::IOStatus ReopenWritableFile(const std::string& name, const rocksdb::FileOptions& options,
                                       std::unique_ptr<rocksdb::FSWritableFile>* file,
                                       rocksdb::IODebugContext* context) override;
  rocksdb::IOStatus NewRandomAccessFile(const std::string& name,
                                        const rocksdb::FileOptions& options,
                                        std::unique_ptr<rocksdb::FSRandomAccessFile>* file,
                                        rocksdb::IODebugContext* context) override;
  rocksdb::IOStatus NewDirectory(const std::string& name, const rocksdb::IOOptions& options,
                                 std::unique_ptr<rocksdb::FSDirectory>* directory,
                                 rocksdb::IODebugContext* context) override;

  rocksdb::IOStatus RenameFile(const std::string& from, const std::string& to,
                               const rocksdb::IOOptions& options,
                               rocksdb::IODebugContext* context) override {
    const rocksdb::IOStatus status = target()->RenameFile(from, to, options, context);
    const std::lock_guard lock(mutex_);
    if (status.ok()) {
      const auto before = volatile_names_.find(from);
      const std::string durable = before == volatile_names_.end() ? from : before->second;
      volatile_names_.erase(from);
      volatile_names_[to] = durable;
      Move(from, to);
    }
    return status;
  }

  rocksdb::IOStatus LinkFile(const std::string& from, const std::string& to,
                             const rocksdb::IOOptions& options,
                             rocksdb::IODebugContext* context) override {
    const rocksdb::IOStatus status = target()->LinkFile(from, to, options, context);
    const std::lock_guard lock(mutex_);
    if (status.ok()) {
      volatile_names_[to] = "";
      if (synced_bytes_.contains(from)) {
        synced_bytes_[to] = synced_bytes_.at(from);
      }
    }
    return status;
  }

  rocksdb::IOStatus GetFreeSpace(const std::string& path, const rocksdb::IOOptions& options,
                                 uint64_t* bytes, rocksdb::IODebugContext* context) override {
    const rocksdb::IOStatus status = target()->GetFreeSpace(path, options, bytes, context);
    const std::lock_guard lock(mutex_);
    *bytes = full_ && free_is_told_ ? 0 : *bytes;
    return status;
  }

  // False: the disk fills up while a shard is written, against what it said before.
  void set_free_is_told(bool told) {
    const std::lock_guard lock(mutex_);
    free_is_told_ = told;
  }

 private:
  void Move(const std::string& from, const std::string& to) {
    if (synced_bytes_.contains(from)) {
      synced_bytes_[to] = synced_bytes_.at(from);
      synced_bytes_.erase(from);
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  bool full_ = false;
  bool free_is_told_ = true;
  bool hung_ = false;
  bool reads_hang_ = true;
  uint64_t fail_sync_ = 0;
  uint64_t syncs_ = 0;
  uint64_t appended_bytes_ = 0;
  std::map<std::string, uint64_t> synced_bytes_;
  // Names that a power cut takes back, and what the file is called then ("": nothing).
  std::map<std::string, std::string> volatile_names_;
};

class FaultyWritable final : public rocksdb::FSWritableFileOwnerWrapper {
 public:
  FaultyWritable(FaultyDisk* disk, std::string path, std::unique_ptr<rocksdb::FSWritableFile> file)
      : FSWritableFileOwnerWrapper(std::move(file)), disk_(disk), path_(std::move(path)) {
    std::error_code missing;
    const uint64_t bytes = std::filesystem::file_size(path_, missing);
    bytes_ = missing ? 0 : bytes;
  }

  rocksdb::IOStatus Append(const rocksdb::Slice& data, const rocksdb::IOOptions& options,
                           rocksdb::IODebugContext* context) override {
    rocksdb::IOStatus status = disk_->Before(FaultyDisk::Work::kAppend, data.size());
    if (status.ok()) {
      status = FSWritableFileOwnerWrapper::Append(data, options, context);
      bytes_ += data.size();
    }
    return status;
  }

  rocksdb::IOStatus Sync(const rocksdb::IOOptions& options,
                         rocksdb::IODebugContext* context) override {
    return AfterSync(disk_->Before(FaultyDisk::Work::kSync),
                     [&] { return FSWritableFileOwnerWrapper::Sync(options, context); });
  }

  rocksdb::IOStatus Fsync(const rocksdb::IOOptions& options,
                          rocksdb::IODebugContext* context) override {
    return AfterSync(disk_->Before(FaultyDisk::Work::kSync),
                     [&] { return FSWritableFileOwnerWrapper::Fsync(options, context); });
  }

 private:
  template <typename Sync>
  rocksdb::IOStatus AfterSync(rocksdb::IOStatus status, Sync sync) {
    if (status.ok()) {
      status = sync();
    }
    if (status.ok()) {
      disk_->Synced(path_, bytes_);
    }
    return status;
  }

  FaultyDisk* const disk_;
  const std::string path_;
  uint64_t bytes_ = 0;
};

class FaultyReadable final : public rocksdb::FSRandomAccessFileOwnerWrapper {
 public:
  FaultyReadable(FaultyDisk* disk, std::unique_ptr<rocksdb::FSRandomAccessFile> file)
      : FSRandomAccessFileOwnerWrapper(std::move(file)), disk_(disk) {}

  rocksdb::IOStatus Read(uint64_t offset, size_t n, const rocksdb::IOOptions& options,
                         rocksdb::Slice* result, char* scratch,
                         rocksdb::IODebugContext* context) const override {
    const rocksdb::IOStatus status = disk_->Before(FaultyDisk::Work::kRead);
    return status.ok()
               ? FSRandomAccessFileOwnerWrapper::Read(offset, n, options, result, scratch, context)
               : status;
  }

 private:
  FaultyDisk* const disk_;
};

class FaultyDirectory final : public rocksdb::FSDirectoryWrapper {
 public:
  FaultyDirectory(FaultyDisk* disk, std::string path,
                  std::unique_ptr<rocksdb::FSDirectory> directory)
      : FSDirectoryWrapper(std::move(directory)), disk_(disk), path_(std::move(path)) {}

  rocksdb::IOStatus Fsync(const rocksdb::IOOptions& options,
                          rocksdb::IODebugContext* context) override {
    return After([&] { return FSDirectoryWrapper::Fsync(options, context); });
  }

  rocksdb::IOStatus FsyncWithDirOptions(const rocksdb::IOOptions& options,
                                        rocksdb::IODebugContext* context,
                                        const rocksdb::DirFsyncOptions& more) override {
    return After([&] { return FSDirectoryWrapper::FsyncWithDirOptions(options, context, more); });
  }

 private:
  template <typename Sync>
  rocksdb::IOStatus After(Sync sync) {
    rocksdb::IOStatus status = disk_->Before(FaultyDisk::Work::kSync);
    status = status.ok() ? sync() : status;
    if (status.ok()) {
      disk_->FolderSynced(path_);
    }
    return status;
  }

  FaultyDisk* const disk_;
  const std::string path_;
};

inline rocksdb::IOStatus FaultyDisk::NewWritableFile(const std::string& name,
                                                     const rocksdb::FileOptions& options,
                                                     std::unique_ptr<rocksdb::FSWritableFile>* file,
                                                     rocksdb::IODebugContext* context) {
  std::unique_ptr<rocksdb::FSWritableFile> inner;
  rocksdb::IOStatus status = target()->NewWritableFile(name, options, &inner, context);
  if (status.ok()) {
    *file = std::make_unique<FaultyWritable>(this, name, std::move(inner));
    const std::lock_guard lock(mutex_);
    synced_bytes_[name] = 0;
    volatile_names_[name] = "";
  }
  return status;
}

inline rocksdb::IOStatus FaultyDisk::ReopenWritableFile(
    const std::string& name, const rocksdb::FileOptions& options,
    std::unique_ptr<rocksdb::FSWritableFile>* file, rocksdb::IODebugContext* context) {
  std::unique_ptr<rocksdb::FSWritableFile> inner;
  rocksdb::IOStatus status = target()->ReopenWritableFile(name, options, &inner, context);
  if (status.ok()) {
    *file = std::make_unique<FaultyWritable>(this, name, std::move(inner));
  }
  return status;
}

inline rocksdb::IOStatus FaultyDisk::NewRandomAccessFile(
    const std::string& name, const rocksdb::FileOptions& options,
    std::unique_ptr<rocksdb::FSRandomAccessFile>* file, rocksdb::IODebugContext* context) {
  std::unique_ptr<rocksdb::FSRandomAccessFile> inner;
  rocksdb::IOStatus status = target()->NewRandomAccessFile(name, options, &inner, context);
  if (status.ok()) {
    *file = std::make_unique<FaultyReadable>(this, std::move(inner));
  }
  return status;
}

inline rocksdb::IOStatus FaultyDisk::NewDirectory(const std::string& name,
                                                  const rocksdb::IOOptions& options,
                                                  std::unique_ptr<rocksdb::FSDirectory>* directory,
                                                  rocksdb::IODebugContext* context) {
  std::unique_ptr<rocksdb::FSDirectory> inner;
  rocksdb::IOStatus status = target()->NewDirectory(name, options, &inner, context);
  if (status.ok()) {
    *directory = std::make_unique<FaultyDirectory>(this, name, std::move(inner));
  }
  return status;
}

}  // namespace gemel::testing

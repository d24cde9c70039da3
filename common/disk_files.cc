// SPDX-License-Identifier: Apache-2.0
#include "common/disk_files.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <span>
#include <utility>

#include "common/check.h"
#include "common/disk.h"
#include "common/errors.h"
#include "common/file_frame.h"
#include "common/status_macros.h"

namespace gemel {
namespace {

constexpr std::string_view kTemporarySuffix = ".tmp";
static_assert(kFileNamePartBytesMax + 1 + kTemporarySuffix.size() <= 255);  // NAME_MAX

constexpr uint64_t kFramedBytesMax = 2 * (RoomFor(kFileBytesMax) + kMiB);  // of a pair

template <typename Call>
auto Uninterrupted(Call call) {
  auto result = call();
  while (result < 0 && errno == EINTR) {
    result = call();
  }
  return result;
}

// A descriptor that closes itself.
class Descriptor {
 public:
  Descriptor(FileCalls* calls, const std::string& path, int flags)
      : calls_(calls), fd_(Uninterrupted([&] { return calls->Open(path, flags); })) {}

  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;

  ~Descriptor() {
    if (fd_ >= 0) {
      calls_->Close(fd_);
    }
  }

  int get() const { return fd_; }

  int Release() { return std::exchange(fd_, -1); }

 private:
  FileCalls* const calls_;
  int fd_;
};

std::string ParentOf(const std::string& path) {
  const size_t slash = path.rfind('/');
  if (slash == std::string::npos) {
    return ".";
  }
  return slash == 0 ? "/" : path.substr(0, slash);
}

std::string TemporaryOf(const std::string& path) {
  const size_t base = path.rfind('/') + 1;  // npos + 1 == 0
  return fmt::format("{}.{}{}", path.substr(0, base), path.substr(base), kTemporarySuffix);
}

bool IsTemporary(const std::string& base) {
  return base.starts_with('.') && base.ends_with(kTemporarySuffix);
}

}  // namespace

DiskFiles::DiskFiles(std::string directory, std::unique_ptr<FileCalls> calls)
    : directory_(std::move(directory)), calls_(std::move(calls)) {
  GEMEL_CHECK(calls_ != nullptr);
}

DiskFiles::~DiskFiles() {
  if (lock_fd_ >= 0) {
    calls_->Close(lock_fd_);
  }
}

absl::StatusOr<std::unique_ptr<DiskFiles>> DiskFiles::Open(std::string directory,
                                                           std::unique_ptr<FileCalls> calls) {
  while (directory.size() > 1 && directory.back() == '/') {
    directory.pop_back();
  }
  if (directory.empty()) {
    return error::InvalidArgument("the data directory has no name: give one");
  }
  std::unique_ptr<DiskFiles> files(new DiskFiles(std::move(directory), std::move(calls)));
  if (!files->calls_->IsDirectory(files->directory_)) {
    GEMEL_RETURN_IF_ERROR(files->EnsureDirectory(files->directory_));
  }
  files->durable_directories_.insert(files->directory_);
  GEMEL_RETURN_IF_ERROR(files->Lock());
  GEMEL_RETURN_IF_ERROR(files->RemoveTemporaries());
  return files;
}

absl::Status DiskFiles::Lock() {
  const std::string path = PathOf("LOCK");
  Descriptor lock(calls_.get(), path, O_RDWR | O_CREAT);
  if (lock.get() < 0) {
    return ErrorOf(errno, "open", path);
  }
  if (Uninterrupted([&] { return calls_->LockAlone(lock.get()); }) != 0) {
    if (errno == EWOULDBLOCK) {
      return error::FailedPrecondition(
          "directory {} is in use by another process, which holds {}: "
          "stop that process or give this one another directory",
          directory_, path);
    }
    return ErrorOf(errno, "lock", path);
  }
  lock_fd_ = lock.Release();
  return absl::OkStatus();
}

absl::Status DiskFiles::RemoveTemporaries() {
  GEMEL_CHECK_GE(lock_fd_, 0);  // else they may be another process's
  std::vector<std::string> files;
  const int error = calls_->FilesBelow(directory_, &files) == 0 ? 0 : errno;
  for (const std::string& path : files) {
    if (IsTemporary(path.substr(path.rfind('/') + 1)) && calls_->Unlink(path) != 0) {
      return ErrorOf(errno, "remove", path);
    }
  }
  return error != 0 ? ErrorOf(error, "list", directory_) : absl::OkStatus();
}

std::string DiskFiles::PathOf(std::string_view name) const {
  return name.empty() ? directory_ : fmt::format("{}/{}", directory_, name);
}

absl::Status DiskFiles::ErrorOf(int error, std::string_view what, std::string_view path) const {
  switch (error) {
    case ENOENT:
      return error::NotFound("file {} does not exist", path);
    case ENOSPC:
    case EDQUOT:
      return error::ResourceExhausted(
          "cannot {} {}: the disk of directory {} is full; free space "
          "there or give another directory",
          what, path, directory_);
    case ENOTDIR:
    case EISDIR:
      return error::InvalidArgument(
          "cannot {} {}: a part of the name is a file where a directory "
          "is needed, or the other way round",
          what, path);
    default:
      return error::Unavailable(
          "cannot {} {}: {}; check the disk of directory {} and the rights "
          "of this user on it",
          what, path, std::strerror(error), directory_);
  }
}

absl::StatusOr<std::string> DiskFiles::Read(const std::string& name) {
  GEMEL_RETURN_IF_ERROR(CheckFileName(name));
  const std::string path = PathOf(name);
  GEMEL_ASSIGN_OR_RETURN(const std::string file, ReadWhole(path));
  return UnframeFile(file, path);
}

absl::StatusOr<std::string> DiskFiles::ReadWhole(const std::string& path) const {
  Descriptor file(calls_.get(), path, O_RDONLY);
  struct stat about{};
  if (file.get() < 0 && errno != ENOTDIR) {
    return ErrorOf(errno, "open", path);
  }
  if (file.get() >= 0 && calls_->Stat(file.get(), &about) != 0) {
    return ErrorOf(errno, "look at", path);
  }
  if (file.get() < 0 || S_ISDIR(about.st_mode)) {
    return ErrorOf(ENOENT, "open", path);
  }
  if (static_cast<uint64_t>(about.st_size) > kFramedBytesMax) {
    return error::DataLoss("file {} has {} bytes, more than any file of ours: remove it", path,
                           about.st_size);
  }
  std::string bytes(static_cast<size_t>(about.st_size), '\0');
  size_t done = 0;
  while (done < bytes.size()) {
    const MutableByteSpan rest = std::as_writable_bytes(std::span(bytes)).subspan(done);
    const ssize_t got = Uninterrupted([&] { return calls_->Read(file.get(), rest); });
    if (got < 0) {
      return ErrorOf(errno, "read", path);
    }
    if (got == 0) {
      break;
    }
    done += static_cast<size_t>(got);
  }
  bytes.resize(done);
  return bytes;
}

absl::Status DiskFiles::SyncDirectory(const std::string& path) {
  Descriptor directory(calls_.get(), path, O_RDONLY | O_DIRECTORY);
  if (directory.get() < 0) {
    return ErrorOf(errno, "open directory", path);
  }
  if (Uninterrupted([&] { return calls_->Sync(directory.get()); }) != 0) {
    return ErrorOf(errno, "sync directory", path);
  }
  return absl::OkStatus();
}

// Each directory is synced into its parent once in the life of this process, not only when made:
// the process that made it may have died before its sync.
absl::Status DiskFiles::EnsureDirectory(const std::string& path) {
  if (path == "." || path == "/" || durable_directories_.contains(path)) {
    return absl::OkStatus();
  }
  const std::string parent = ParentOf(path);
  const bool above_ours = path.size() <= directory_.size();
  if (!above_ours || !calls_->IsDirectory(parent)) {
    GEMEL_RETURN_IF_ERROR(EnsureDirectory(parent));
  }
  if (calls_->MakeDirectory(path) != 0 && errno != EEXIST) {
    return ErrorOf(errno, "make directory", path);
  }
  GEMEL_RETURN_IF_ERROR(SyncDirectory(parent));
  durable_directories_.insert(path);
  return absl::OkStatus();
}

absl::Status DiskFiles::WriteSynced(int fd, std::string_view bytes, std::string_view path) {
  while (!bytes.empty()) {
    const ssize_t put = Uninterrupted([&] { return calls_->Write(fd, AsBytes(bytes)); });
    if (put < 0) {
      return ErrorOf(errno, "write", path);
    }
    GEMEL_CHECK_LE(static_cast<size_t>(put), bytes.size());
    bytes.remove_prefix(static_cast<size_t>(put));
  }
  if (Uninterrupted([&] { return calls_->Sync(fd); }) != 0) {
    return ErrorOf(errno, "sync", path);
  }
  return absl::OkStatus();
}

absl::Status DiskFiles::WriteNew(const std::string& path, std::string_view bytes) {
  Descriptor file(calls_.get(), path, O_WRONLY | O_CREAT | O_EXCL);
  if (file.get() < 0) {
    return ErrorOf(errno, "make", path);
  }
  GEMEL_RETURN_IF_ERROR(WriteSynced(file.get(), bytes, path));
  return calls_->Close(file.Release()) == 0 ? absl::OkStatus() : ErrorOf(errno, "close", path);
}

absl::Status DiskFiles::Replace(const std::string& path, std::string_view bytes) {
  const std::string temporary = TemporaryOf(path);
  GEMEL_RETURN_IF_ERROR(EnsureDirectory(ParentOf(path)));
  if (calls_->Unlink(temporary) != 0 && errno != ENOENT) {
    return ErrorOf(errno, "remove", temporary);
  }
  absl::Status written = WriteNew(temporary, bytes);
  if (written.ok() && calls_->Rename(temporary, path) != 0) {
    written = ErrorOf(errno, "rename to", path);
  }
  if (!written.ok()) {
    calls_->Unlink(temporary);  // invariant (2); Open() removes it if this fails
    return written;
  }
  return SyncDirectory(ParentOf(path));
}

absl::Status DiskFiles::WriteAtomically(const std::string& name, std::string_view content) {
  GEMEL_RETURN_IF_ERROR(CheckFileWrite(name, content.size()));
  return Replace(PathOf(name), FrameFile(content));
}

// One copy after the other, so that at every moment one is whole; the newest last.
absl::Status DiskFiles::Overwrite(const std::string& path, const FilePair& pair,
                                  std::string_view copy) {
  GEMEL_CHECK_LE(copy.size(), pair.room);
  Descriptor file(calls_.get(), path, O_WRONLY);
  if (file.get() < 0) {
    return ErrorOf(errno, "open", path);
  }
  for (const size_t index : {1 - pair.newest, pair.newest}) {
    if (calls_->Seek(file.get(), index * pair.room) != 0) {
      return ErrorOf(errno, "seek in", path);
    }
    GEMEL_RETURN_IF_ERROR(WriteSynced(file.get(), copy, path));
  }
  return absl::OkStatus();
}

absl::Status DiskFiles::WriteInPlace(const std::string& name, std::string_view content) {
  GEMEL_RETURN_IF_ERROR(CheckFileWrite(name, content.size()));
  const std::string path = PathOf(name);
  const absl::StatusOr<std::string> file = ReadWhole(path);
  const absl::StatusOr<FilePair> pair = file.ok() ? UnframePair(*file, path) : file.status();
  const uint64_t serial = pair.ok() ? pair->serial + 1 : 1;
  if (pair.ok() && !doubtful_.contains(name)) {
    const std::string copy = FrameCopy(content, serial);
    if (copy.size() <= pair->room) {
      const absl::Status written = Overwrite(path, *pair, copy);
      if (written.ok()) {
        return written;
      }
      // What a failed sync left is not known: from now on only a new file will do.
      doubtful_.insert(name);
    }
  }
  // Until it is done: a file that has its name, and not durably, must not be written in place.
  doubtful_.insert(name);
  GEMEL_RETURN_IF_ERROR(Replace(path, FramePair(content, serial)));
  doubtful_.erase(name);
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::string>> DiskFiles::List(const std::string& prefix) {
  GEMEL_RETURN_IF_ERROR(CheckFilePrefix(prefix));
  const std::string path = PathOf(prefix);
  std::vector<std::string> files;
  std::vector<std::string> names;
  const int error = calls_->FilesBelow(path, &files) == 0 ? 0 : errno;
  for (const std::string& file : files) {
    GEMEL_CHECK_GT(file.size(), directory_.size() + 1);
    std::string name = file.substr(directory_.size() + 1);
    if (CheckFileName(name).ok()) {
      names.push_back(std::move(name));
    }
  }
  if (error != 0 && error != ENOENT && error != ENOTDIR) {
    return ErrorOf(error, "list", path);
  }
  std::sort(names.begin(), names.end());
  return names;
}

// Synced also when the file is not there: an earlier removal may have failed at its sync.
absl::Status DiskFiles::Remove(const std::string& name) {
  GEMEL_RETURN_IF_ERROR(CheckFileName(name));
  const std::string path = PathOf(name);
  if (calls_->Unlink(path) != 0) {
    if (errno == ENOTDIR || errno == EISDIR) {
      return absl::OkStatus();
    }
    if (errno != ENOENT) {
      return ErrorOf(errno, "remove", path);
    }
  }
  absl::Status synced = SyncDirectory(ParentOf(path));
  return absl::IsNotFound(synced) ? absl::OkStatus() : synced;
}

}  // namespace gemel

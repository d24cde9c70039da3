// SPDX-License-Identifier: Apache-2.0
#include "common/disk_files.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <utility>

#include "common/check.h"
#include "common/codec.h"
#include "common/crc32c.h"
#include "common/disk.h"
#include "common/errors.h"
#include "common/status_macros.h"

namespace gemel {
namespace {

constexpr std::string_view kMagic = "GEMLFILE";
constexpr uint32_t kVersion = 1;
constexpr size_t kHeaderBytes = 24;
constexpr size_t kCheckedBytes = kHeaderBytes - sizeof(uint32_t);
constexpr std::string_view kTemporarySuffix = ".tmp";
static_assert(kMagic.size() + 4 + 8 + 4 == kHeaderBytes);
static_assert(kFileNamePartBytesMax + 1 + kTemporarySuffix.size() <= 255);  // NAME_MAX

constexpr mode_t kFileMode = 0600;
constexpr mode_t kDirectoryMode = 0700;

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
  Descriptor(const std::string& path, int flags)
      : fd_(Uninterrupted([&] { return open(path.c_str(), flags | O_CLOEXEC, kFileMode); })) {}

  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;

  ~Descriptor() {
    if (fd_ >= 0) {
      close(fd_);
    }
  }

  int get() const { return fd_; }

  int Release() { return std::exchange(fd_, -1); }

 private:
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

uint32_t ChecksumOf(std::string_view header, std::string_view content) {
  return Crc32c(AsBytes(content), Crc32c(AsBytes(header.substr(0, kCheckedBytes))));
}

// Paths of the regular files at any depth below `path`, in no order. `error` as errno.
std::vector<std::string> FilesBelow(const std::string& path, std::error_code* error) {
  std::vector<std::string> files;
  std::filesystem::recursive_directory_iterator end;
  std::filesystem::recursive_directory_iterator entry(path, *error);
  while (!*error && entry != end) {
    if (entry->is_regular_file(*error)) {
      files.push_back(entry->path().string());
    }
    if (!*error) {
      entry.increment(*error);
    }
  }
  return files;
}

}  // namespace

ssize_t FileCalls::Write(int fd, ByteSpan bytes) { return write(fd, bytes.data(), bytes.size()); }

int FileCalls::Sync(int fd) { return fsync(fd); }

std::string FrameFile(std::string_view content) {
  Encoder header;
  header.Raw(kMagic).Int(kVersion).Int(static_cast<uint64_t>(content.size()));
  std::string frame = header.Take();
  Encoder checksum;
  checksum.Int(ChecksumOf(frame, content));
  frame += checksum.Take();
  GEMEL_CHECK_EQ(frame.size(), kHeaderBytes);
  frame += content;
  return frame;
}

absl::StatusOr<std::string> UnframeFile(std::string_view frame, std::string_view path) {
  Decoder header(frame.substr(0, kHeaderBytes));
  const std::string_view magic = header.Raw(kMagic.size(), "magic");
  const auto version = header.Int<uint32_t>("version");
  const auto bytes = header.Int<uint64_t>("length");
  const auto checksum = header.Int<uint32_t>("checksum");
  if (!header.ok() || magic != kMagic) {
    return error::DataLoss(
        "file {} of {} bytes does not begin with a whole header: it is torn or "
        "not ours; restore it from another copy or remove it",
        path, frame.size());
  }
  const std::string_view content = frame.substr(kHeaderBytes);
  if (content.size() != bytes) {
    return error::DataLoss(
        "file {} holds {} bytes of content and should hold {}: it is torn; "
        "restore it from another copy or remove it",
        path, content.size(), bytes);
  }
  const uint32_t found = ChecksumOf(frame, content);
  if (found != checksum) {
    return error::DataLoss(
        "file {} of {} bytes has CRC32C {:08x} and should have {:08x}: its bytes "
        "changed on the disk; restore it from another copy or remove it",
        path, frame.size(), found, checksum);
  }
  if (version != kVersion) {
    return error::FailedPrecondition(
        "file {} has format version {}; this program reads {}: use "
        "the program that wrote it",
        path, version, kVersion);
  }
  return std::string(content);
}

DiskFiles::DiskFiles(std::string directory, std::unique_ptr<FileCalls> calls)
    : directory_(std::move(directory)), calls_(std::move(calls)) {
  GEMEL_CHECK(calls_ != nullptr);
}

DiskFiles::~DiskFiles() {
  if (lock_fd_ >= 0) {
    close(lock_fd_);
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
  std::error_code missing;
  if (!std::filesystem::is_directory(files->directory_, missing)) {
    GEMEL_RETURN_IF_ERROR(files->EnsureDirectory(files->directory_));
  }
  files->durable_directories_.insert(files->directory_);
  GEMEL_RETURN_IF_ERROR(files->Lock());
  GEMEL_RETURN_IF_ERROR(files->RemoveTemporaries());
  return files;
}

absl::Status DiskFiles::Lock() {
  const std::string path = PathOf("LOCK");
  Descriptor lock(path, O_RDWR | O_CREAT);
  if (lock.get() < 0) {
    return ErrorOf(errno, "open", path);
  }
  if (Uninterrupted([&] { return flock(lock.get(), LOCK_EX | LOCK_NB); }) != 0) {
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
  std::error_code error;
  for (const std::string& path : FilesBelow(directory_, &error)) {
    if (IsTemporary(path.substr(path.rfind('/') + 1)) && unlink(path.c_str()) != 0) {
      return ErrorOf(errno, "remove", path);
    }
  }
  return error ? ErrorOf(error.value(), "list", directory_) : absl::OkStatus();
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
  Descriptor file(path, O_RDONLY);
  struct stat about{};
  if (file.get() < 0 && errno != ENOTDIR) {
    return ErrorOf(errno, "open", path);
  }
  if (file.get() < 0 || (fstat(file.get(), &about) == 0 && S_ISDIR(about.st_mode))) {
    return ErrorOf(ENOENT, "open", path);
  }
  if (static_cast<uint64_t>(about.st_size) > kFileBytesMax + kHeaderBytes) {
    return error::DataLoss("file {} has {} bytes, more than any file of ours: remove it", path,
                           about.st_size);
  }
  std::string frame(static_cast<size_t>(about.st_size), '\0');
  size_t done = 0;
  while (done < frame.size()) {
    const ssize_t got =
        Uninterrupted([&] { return read(file.get(), frame.data() + done, frame.size() - done); });
    if (got < 0) {
      return ErrorOf(errno, "read", path);
    }
    if (got == 0) {
      break;
    }
    done += static_cast<size_t>(got);
  }
  return UnframeFile(std::string_view(frame).substr(0, done), path);
}

absl::Status DiskFiles::SyncDirectory(const std::string& path) {
  Descriptor directory(path, O_RDONLY | O_DIRECTORY);
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
  std::error_code missing;
  const bool above_ours = path.size() <= directory_.size();
  if (!above_ours || !std::filesystem::is_directory(parent, missing)) {
    GEMEL_RETURN_IF_ERROR(EnsureDirectory(parent));
  }
  if (mkdir(path.c_str(), kDirectoryMode) != 0 && errno != EEXIST) {
    return ErrorOf(errno, "make directory", path);
  }
  GEMEL_RETURN_IF_ERROR(SyncDirectory(parent));
  durable_directories_.insert(path);
  return absl::OkStatus();
}

absl::Status DiskFiles::WriteNew(const std::string& path, std::string_view frame) {
  Descriptor file(path, O_WRONLY | O_CREAT | O_EXCL);
  if (file.get() < 0) {
    return ErrorOf(errno, "make", path);
  }
  while (!frame.empty()) {
    const ssize_t put = Uninterrupted([&] { return calls_->Write(file.get(), AsBytes(frame)); });
    if (put < 0) {
      return ErrorOf(errno, "write", path);
    }
    GEMEL_CHECK_LE(static_cast<size_t>(put), frame.size());
    frame.remove_prefix(static_cast<size_t>(put));
  }
  if (Uninterrupted([&] { return calls_->Sync(file.get()); }) != 0) {
    return ErrorOf(errno, "sync", path);
  }
  return close(file.Release()) == 0 ? absl::OkStatus() : ErrorOf(errno, "close", path);
}

absl::Status DiskFiles::WriteAtomically(const std::string& name, std::string_view content) {
  GEMEL_RETURN_IF_ERROR(CheckFileWrite(name, content.size()));
  const std::string path = PathOf(name);
  const std::string temporary = TemporaryOf(path);
  GEMEL_RETURN_IF_ERROR(EnsureDirectory(ParentOf(path)));
  if (unlink(temporary.c_str()) != 0 && errno != ENOENT) {
    return ErrorOf(errno, "remove", temporary);
  }
  absl::Status written = WriteNew(temporary, FrameFile(content));
  if (written.ok() && rename(temporary.c_str(), path.c_str()) != 0) {
    written = ErrorOf(errno, "rename to", path);
  }
  if (!written.ok()) {
    unlink(temporary.c_str());  // invariant (2); Open() removes it if this fails
    return written;
  }
  return SyncDirectory(ParentOf(path));
}

absl::StatusOr<std::vector<std::string>> DiskFiles::List(const std::string& prefix) {
  GEMEL_RETURN_IF_ERROR(CheckFilePrefix(prefix));
  const std::string path = PathOf(prefix);
  std::error_code error;
  std::vector<std::string> names;
  for (const std::string& file : FilesBelow(path, &error)) {
    GEMEL_CHECK_GT(file.size(), directory_.size() + 1);
    std::string name = file.substr(directory_.size() + 1);
    if (CheckFileName(name).ok()) {
      names.push_back(std::move(name));
    }
  }
  if (error && error.value() != ENOENT && error.value() != ENOTDIR) {
    return ErrorOf(error.value(), "list", path);
  }
  std::sort(names.begin(), names.end());
  return names;
}

// Synced also when the file is not there: an earlier removal may have failed at its sync.
absl::Status DiskFiles::Remove(const std::string& name) {
  GEMEL_RETURN_IF_ERROR(CheckFileName(name));
  const std::string path = PathOf(name);
  if (unlink(path.c_str()) != 0) {
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

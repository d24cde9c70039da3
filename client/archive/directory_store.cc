// SPDX-License-Identifier: Apache-2.0
#include "client/archive/directory_store.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>

#include "common/check.h"
#include "common/disk.h"
#include "common/errors.h"
#include "common/status_macros.h"

namespace gemel::archive {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kPartSuffix = ".part";

absl::Status ErrorOf(int error, std::string_view what, const std::string& path) {
  const char* why = std::strerror(error);
  switch (error) {
    case ENOENT:
    case ENOTDIR:
      return error::NotFound("cannot {} {}: {}", what, path, why);
    case ENOSPC:
    case EDQUOT:
      return error::ResourceExhausted(
          "cannot {} {}: {}; make room there and start again: what is "
          "whole is kept",
          what, path, why);
    case EACCES:
    case EPERM:
    case EROFS:
      return error::PermissionDenied(
          "cannot {} {}: {}; give this user the right, or name another "
          "place",
          what, path, why);
    default:
      return error::Unavailable("cannot {} {}: {}", what, path, why);
  }
}

absl::Status SyncDirectory(FileCalls* calls, const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) {
    return ErrorOf(errno, "open", path);
  }
  const int result = calls->Sync(fd);
  const int error = errno;
  close(fd);
  return result == 0 ? absl::OkStatus() : ErrorOf(error, "sync the directory", path);
}

class FileWriter final : public ObjectWriter {
 public:
  FileWriter(std::string path, uint64_t bytes, std::shared_ptr<FileCalls> calls)
      : path_(std::move(path)), bytes_(bytes), calls_(std::move(calls)) {
    const size_t slash = path_.rfind('/');
    GEMEL_CHECK_NE(slash, std::string::npos);
    folder_ = path_.substr(0, slash);
    part_ = folder_ + "/." + path_.substr(slash + 1) + std::string(kPartSuffix);
  }

  ~FileWriter() override { Abandon(); }

  absl::Status Open() {
    // A dead writer's file is cut to nothing: its bytes are not trusted.
    fd_ = open(part_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0644);
    return fd_ >= 0 ? absl::OkStatus() : ErrorOf(errno, "write", part_);
  }

  absl::Status Write(ByteSpan data) override {
    GEMEL_CHECK_GE(fd_, 0) << path_;
    GEMEL_CHECK_LE(data.size(), bytes_ - written_) << path_;
    while (!data.empty()) {
      const ssize_t count = calls_->Write(fd_, data);
      if (count < 0 && errno == EINTR) {
        continue;
      }
      if (count < 0) {
        const int error = errno;
        Abandon();
        return ErrorOf(error, "write", path_);
      }
      written_ += static_cast<uint64_t>(count);
      data = data.subspan(static_cast<size_t>(count));
    }
    return absl::OkStatus();
  }

  absl::Status Finish() override {
    GEMEL_CHECK_GE(fd_, 0) << path_;
    GEMEL_CHECK_EQ(written_, bytes_) << path_;
    if (calls_->Sync(fd_) != 0) {
      const int error = errno;
      Abandon();
      return ErrorOf(error, "sync", path_);
    }
    if (close(std::exchange(fd_, -1)) != 0 || rename(part_.c_str(), path_.c_str()) != 0) {
      const int error = errno;
      unlink(part_.c_str());
      return ErrorOf(error, "write", path_);
    }
    return SyncDirectory(calls_.get(), folder_);
  }

 private:
  void Abandon() {
    if (fd_ >= 0) {
      close(std::exchange(fd_, -1));
      unlink(part_.c_str());
    }
  }

  const std::string path_;
  const uint64_t bytes_;
  const std::shared_ptr<FileCalls> calls_;
  std::string folder_;
  std::string part_;
  int fd_ = -1;
  uint64_t written_ = 0;
};

bool IsHidden(const fs::path& path) { return path.filename().string().starts_with('.'); }

std::string WithoutSlashes(const std::string& root) {
  const size_t last = root.find_last_not_of('/');
  return last == std::string::npos ? "." : root.substr(0, last + 1);
}

// The directory that holds everything that begins with `prefix`.
std::string FolderOf(const std::string& prefix) {
  const size_t slash = prefix.rfind('/');
  return slash == std::string::npos ? "" : prefix.substr(0, slash);
}

}  // namespace

DirectoryStore::DirectoryStore(const std::string& root, std::shared_ptr<FileCalls> calls)
    : root_(WithoutSlashes(root)), calls_(std::move(calls)) {
  GEMEL_CHECK(calls_ != nullptr);
}

std::string DirectoryStore::Where(const std::string& key) const {
  return key.empty() ? root_ : root_ + "/" + key;
}

absl::Status DirectoryStore::EnsureDirectory(const std::string& path) {
  if (path.empty() || path == "/" || durable_.count(path) > 0) {
    return absl::OkStatus();
  }
  const size_t slash = path.find_last_of('/');
  const std::string parent = slash == std::string::npos ? "."
                             : slash == 0               ? "/"
                                                        : path.substr(0, slash);
  if (mkdir(path.c_str(), 0755) == 0) {
    GEMEL_RETURN_IF_ERROR(SyncDirectory(calls_.get(), parent));
  } else if (errno == ENOENT) {
    GEMEL_RETURN_IF_ERROR(EnsureDirectory(parent));
    return EnsureDirectory(path);
  } else if (errno != EEXIST) {
    return ErrorOf(errno, "make the directory", path);
  }
  durable_.insert(path);
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<ObjectWriter>> DirectoryStore::Create(const std::string& key,
                                                                     uint64_t bytes) {
  GEMEL_RETURN_IF_ERROR(CheckFileName(key));
  const std::string path = Where(key);
  GEMEL_RETURN_IF_ERROR(EnsureDirectory(FolderOf(path)));
  auto writer = std::make_unique<FileWriter>(path, bytes, calls_);
  GEMEL_RETURN_IF_ERROR(writer->Open());
  return writer;
}

absl::Status DirectoryStore::Read(const std::string& key, uint64_t offset, MutableByteSpan into) {
  GEMEL_RETURN_IF_ERROR(CheckFileName(key));
  const std::string path = Where(key);
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) {
    return ErrorOf(errno, "read", path);
  }
  absl::Status status;
  const size_t wanted = into.size();
  while (status.ok() && !into.empty()) {
    const ssize_t count =
        pread(fd, into.data(), into.size(), static_cast<off_t>(offset + wanted - into.size()));
    if (count < 0 && errno == EINTR) {
      continue;
    }
    if (count < 0) {
      status = ErrorOf(errno, "read", path);
    } else if (count == 0) {
      status = error::DataLoss("{} ends at {}, {} bytes from {} were wanted: it was cut short",
                               path, offset + wanted - into.size(), wanted, offset);
    } else {
      into = into.subspan(static_cast<size_t>(count));
    }
  }
  close(fd);
  return status;
}

absl::StatusOr<uint64_t> DirectoryStore::Size(const std::string& key) {
  GEMEL_RETURN_IF_ERROR(CheckFileName(key));
  struct stat found{};
  const std::string path = Where(key);
  if (stat(path.c_str(), &found) != 0) {
    return ErrorOf(errno, "read", path);
  }
  if (!S_ISREG(found.st_mode)) {
    return error::NotFound("{} is not a file", path);
  }
  return static_cast<uint64_t>(found.st_size);
}

absl::StatusOr<std::vector<ObjectInfo>> DirectoryStore::List(const std::string& prefix) {
  std::vector<ObjectInfo> found;
  const fs::path folder = Where(FolderOf(prefix));
  std::error_code error;
  if (!fs::exists(folder, error)) {
    return found;
  }
  fs::recursive_directory_iterator at(folder, error);
  for (; !error && at != fs::recursive_directory_iterator(); at.increment(error)) {
    if (IsHidden(at->path())) {
      at.disable_recursion_pending();
      continue;
    }
    const std::string key = at->path().string().substr(root_.size() + 1);
    std::error_code gone;  // between the listing and the look
    if (key.starts_with(prefix) && at->is_regular_file(gone)) {
      const uint64_t bytes = at->file_size(gone);
      found.push_back({key, gone ? 0 : bytes});
    }
  }
  if (error) {
    return ErrorOf(error.value(), "list", folder.string());
  }
  std::sort(found.begin(), found.end(),
            [](const ObjectInfo& a, const ObjectInfo& b) { return a.key < b.key; });
  return found;
}

absl::Status DirectoryStore::Remove(const std::string& key) {
  GEMEL_RETURN_IF_ERROR(CheckFileName(key));
  const std::string path = Where(key);
  if (unlink(path.c_str()) != 0) {
    return errno == ENOENT ? absl::OkStatus() : ErrorOf(errno, "remove", path);
  }
  // A directory that is empty now goes too, as a bucket would have it.
  const std::string folder = FolderOf(path);
  const bool gone = folder != root_ && rmdir(folder.c_str()) == 0;
  durable_.erase(folder);
  return SyncDirectory(calls_.get(), gone ? FolderOf(folder) : folder);
}

absl::Status DirectoryStore::RemoveUnfinished(const std::string& prefix) {
  const fs::path folder = Where(FolderOf(prefix));
  std::vector<fs::path> folders;
  std::error_code error;
  fs::recursive_directory_iterator at(folder, error);
  for (; !error && at != fs::recursive_directory_iterator(); at.increment(error)) {
    const std::string name = at->path().filename().string();
    std::error_code gone;
    if (name.starts_with('.') && name.ends_with(kPartSuffix) && at->is_regular_file(gone)) {
      unlink(at->path().c_str());
    } else if (at->is_directory(gone)) {
      folders.push_back(at->path());
    }
  }
  // Those that are empty now, the deepest first; rmdir leaves the others.
  for (auto empty = folders.rbegin(); empty != folders.rend(); ++empty) {
    if (rmdir(empty->c_str()) == 0) {
      durable_.erase(empty->string());
    }
  }
  return absl::OkStatus();
}

}  // namespace gemel::archive

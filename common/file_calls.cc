// SPDX-License-Identifier: Apache-2.0
#include "common/file_calls.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <filesystem>

#include "common/check.h"

namespace gemel {
namespace {

constexpr mode_t kFileMode = 0600;
constexpr mode_t kDirectoryMode = 0700;

}  // namespace

int FileCalls::Open(const std::string& path, int flags) {
  return open(path.c_str(), flags | O_CLOEXEC, kFileMode);
}

int FileCalls::Close(int fd) { return close(fd); }

ssize_t FileCalls::Read(int fd, MutableByteSpan into) { return read(fd, into.data(), into.size()); }

ssize_t FileCalls::Write(int fd, ByteSpan bytes) { return write(fd, bytes.data(), bytes.size()); }

int FileCalls::Seek(int fd, uint64_t offset) {
  return lseek(fd, static_cast<off_t>(offset), SEEK_SET) < 0 ? -1 : 0;
}

int FileCalls::Sync(int fd) { return fsync(fd); }

int FileCalls::Stat(int fd, struct stat* about) { return fstat(fd, about); }

int FileCalls::LockAlone(int fd) { return flock(fd, LOCK_EX | LOCK_NB); }

bool FileCalls::IsDirectory(const std::string& path) {
  std::error_code missing;
  return std::filesystem::is_directory(path, missing);
}

int FileCalls::MakeDirectory(const std::string& path) {
  return mkdir(path.c_str(), kDirectoryMode);
}

int FileCalls::Rename(const std::string& from, const std::string& to) {
  return rename(from.c_str(), to.c_str());
}

int FileCalls::Unlink(const std::string& path) { return unlink(path.c_str()); }

int FileCalls::FilesBelow(const std::string& path, std::vector<std::string>* files) {
  GEMEL_CHECK(files != nullptr);
  std::error_code error;
  std::filesystem::recursive_directory_iterator end;
  std::filesystem::recursive_directory_iterator entry(path, error);
  while (!error && entry != end) {
    if (entry->is_regular_file(error)) {
      files->push_back(entry->path().string());
    }
    if (!error) {
      entry.increment(error);
    }
  }
  errno = error.value();
  return error ? -1 : 0;
}

}  // namespace gemel

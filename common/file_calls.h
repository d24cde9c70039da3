// SPDX-License-Identifier: Apache-2.0
//
// FileCalls: the system calls under DiskFiles, and those of an export whose failure decides about
// durability. This class makes them; SimFileCalls (common/sim_files.h) makes them on a simulated
// file system, tests put failures in their way.
//
// Thread safety: as the kernel's; one caller at a time for what overrides them.
// Errors: -1 and errno, as the call of that name.
#pragma once

#include <sys/stat.h>
#include <sys/types.h>

#include <string>
#include <vector>

#include "common/bytes.h"

namespace gemel {

class FileCalls {
 public:
  virtual ~FileCalls() = default;

  // `flags` as open(); what it makes is the user's own (0600) and closed on exec.
  virtual int Open(const std::string& path, int flags);
  virtual int Close(int fd);
  virtual ssize_t Read(int fd, MutableByteSpan into);
  virtual ssize_t Write(int fd, ByteSpan bytes);
  // Where the next Read() or Write() begins, from the start of the file.
  virtual int Seek(int fd, uint64_t offset);
  virtual int Sync(int fd);
  virtual int Stat(int fd, struct stat* about);
  // EWOULDBLOCK when another descriptor has the lock. It goes with the descriptor.
  virtual int LockAlone(int fd);

  virtual bool IsDirectory(const std::string& path);
  virtual int MakeDirectory(const std::string& path);  // 0700
  virtual int Rename(const std::string& from, const std::string& to);
  virtual int Unlink(const std::string& path);
  // Adds the paths of the regular files at any depth below `path`, in no order; those found before
  // an error too.
  virtual int FilesBelow(const std::string& path, std::vector<std::string>* files);
};

}  // namespace gemel

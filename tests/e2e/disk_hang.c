// SPDX-License-Identifier: Apache-2.0
//
// Preloaded into a daemon: while the file HANG_MARKER exists, whatever writes or syncs a file with
// HANG_DIRECTORY in its path waits, as on a disk that does not answer. Both are given when it is
// compiled.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static int Hangs(int fd) {
  char link[64];
  char path[4096];
  if (access(HANG_MARKER, F_OK) != 0) {
    return 0;
  }
  snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
  const ssize_t length = readlink(link, path, sizeof(path) - 1);
  if (length <= 0) {
    return 0;
  }
  path[length] = '\0';
  return strstr(path, HANG_DIRECTORY) != NULL;
}

static void Wait(int fd) {
  // Shorter than the shortest time for which a slow disk works.
  for (int step = 0; step < 60000 && Hangs(fd); ++step) {
    poll(NULL, 0, 5);
  }
}

#define REAL(name, type) ((type)dlsym(RTLD_NEXT, name))

int fsync(int fd) {
  Wait(fd);
  return REAL("fsync", int (*)(int))(fd);
}

int fdatasync(int fd) {
  Wait(fd);
  return REAL("fdatasync", int (*)(int))(fd);
}

ssize_t write(int fd, const void* data, size_t size) {
  Wait(fd);
  return REAL("write", ssize_t(*)(int, const void*, size_t))(fd, data, size);
}

ssize_t pwrite(int fd, const void* data, size_t size, off_t at) {
  Wait(fd);
  return REAL("pwrite", ssize_t(*)(int, const void*, size_t, off_t))(fd, data, size, at);
}

ssize_t pwrite64(int fd, const void* data, size_t size, off64_t at) {
  Wait(fd);
  return REAL("pwrite64", ssize_t(*)(int, const void*, size_t, off64_t))(fd, data, size, at);
}

// SPDX-License-Identifier: Apache-2.0
#include "client/library/fork_guard.h"

#include <dirent.h>
#include <pthread.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <mutex>
#include <string_view>
#include <vector>

#include "common/check.h"

namespace gemel {
namespace {

constexpr const char* kDescriptors = "/proc/self/fd";
constexpr std::string_view kMemoryPrefix = "/memfd:gemel";  // the names that servers give to slabs

// Never destroyed: handlers of fork() may run as long as the process lives.
struct Registry {
  std::mutex mutex;
  std::vector<Forkable*> all;
};

Registry& TheRegistry() {
  static Registry* const registry = new Registry();
  return *registry;
}

void BeforeFork() {
  Registry& registry = TheRegistry();
  registry.mutex.lock();
  for (Forkable* one : registry.all) {
    one->Park();
  }
}

void AfterForkInParent() {
  Registry& registry = TheRegistry();
  for (Forkable* one : registry.all) {
    one->Resume();
  }
  registry.mutex.unlock();
}

// Shared memory on its way into a mapping of the parent: without this it would live as long as the
// child. Nobody else can have such a descriptor in a process that is only a client.
void CloseSharedMemory() {
  DIR* folder = opendir(kDescriptors);
  if (folder == nullptr) {
    return;
  }
  std::vector<int> found;
  for (const dirent* entry = readdir(folder); entry != nullptr; entry = readdir(folder)) {
    std::array<char, 64> target{};
    const ssize_t size = readlinkat(dirfd(folder), entry->d_name, target.data(), target.size());
    if (size > 0 &&
        std::string_view(target.data(), static_cast<size_t>(size)).starts_with(kMemoryPrefix)) {
      found.push_back(std::atoi(entry->d_name));
    }
  }
  closedir(folder);
  for (int fd : found) {
    close(fd);
  }
}

void AfterForkInChild() {
  Registry& registry = TheRegistry();
  if (!registry.all.empty()) {
    CloseSharedMemory();
  }
  for (Forkable* one : registry.all) {
    one->Forked();
  }
  registry.all.clear();
  registry.mutex.unlock();
}

void InstallOnce() {
  static const int installed = pthread_atfork(BeforeFork, AfterForkInParent, AfterForkInChild);
  GEMEL_CHECK_EQ(installed, 0);
}

}  // namespace

void ForkGuard::Add(Forkable* one) {
  InstallOnce();
  Registry& registry = TheRegistry();
  std::lock_guard<std::mutex> lock(registry.mutex);
  registry.all.push_back(one);
}

void ForkGuard::Remove(Forkable* one) {
  Registry& registry = TheRegistry();
  std::lock_guard<std::mutex> lock(registry.mutex);
  GEMEL_CHECK_EQ(std::erase(registry.all, one), 1U);
}

void Parking::Stay() {
  MutexLock lock(&mutex_);
  GEMEL_CHECK(!parked_);
  parked_ = true;
  changed_.notify_all();
  changed_.wait(mutex_, [this]() GEMEL_REQUIRES(mutex_) { return !parked_; });
}

void Parking::AwaitParked() {
  MutexLock lock(&mutex_);
  changed_.wait(mutex_, [this]() GEMEL_REQUIRES(mutex_) { return parked_; });
}

void Parking::Leave() {
  MutexLock lock(&mutex_);
  GEMEL_CHECK(parked_);
  parked_ = false;
  changed_.notify_all();
}

}  // namespace gemel

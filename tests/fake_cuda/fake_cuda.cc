// SPDX-License-Identifier: Apache-2.0
#include "tests/fake_cuda/fake_cuda.h"

#include <sys/mman.h>
#include <unistd.h>

#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

struct CUctx_st {
  int device;
};

struct CUevent_st {
  uint64_t recorded = 0;  // how often
  uint64_t reached = 0;
  CUresult result = CUDA_SUCCESS;  // of the stream when it was reached
};

struct CUstream_st {
  CUcontext context = nullptr;
  std::deque<std::function<void()>> work;
  CUresult failed = CUDA_SUCCESS;
  bool busy = false;
  bool ending = false;
  std::thread thread;
};

namespace {

constexpr int kDevices = 2;

struct Memory {
  int device = 0;
  size_t bytes = 0;
  std::byte* readable = nullptr;  // the same pages elsewhere
};

struct Fault {
  int good = 0;
  CUresult result = CUDA_SUCCESS;
};

// All that there is, under one lock. Lives for ever, as the driver does.
struct World {
  World() {
    if (const char* name = std::getenv("FAKE_CUDA_FAIL"); name != nullptr) {
      faults[name] = {0, CUDA_ERROR_NOT_SUPPORTED};
    }
  }

  std::mutex mutex;
  std::condition_variable changed;
  bool held = false;
  CUctx_st contexts[kDevices] = {{0}, {1}};
  std::map<CUdeviceptr, Memory> memory;
  std::map<std::byte*, size_t> pinned;
  std::map<std::string, Fault> faults;
  size_t copies[2] = {0, 0};
};

World& All() {
  static World* const kWorld = new World;
  return *kWorld;
}

thread_local std::vector<CUcontext> current;

// REQUIRES: the lock.
CUresult Faulty(const char* function) {
  const auto found = All().faults.find(function);
  if (found == All().faults.end() || found->second.good-- > 0) {
    return CUDA_SUCCESS;
  }
  found->second.good = 0;
  return found->second.result;
}

CUresult Check(const char* function) {
  const std::lock_guard lock(All().mutex);
  return Faulty(function);
}

const Memory* Find(CUdeviceptr at, size_t bytes, CUdeviceptr* base) {
  auto found = All().memory.upper_bound(at);
  if (found == All().memory.begin()) {
    return nullptr;
  }
  --found;
  *base = found->first;
  const size_t offset = at - found->first;
  return offset <= found->second.bytes && bytes <= found->second.bytes - offset ? &found->second
                                                                                : nullptr;
}

bool IsPinned(const std::byte* data, size_t bytes) {
  for (const auto& [begin, size] : All().pinned) {
    if (data >= begin && data + bytes <= begin + size) {
      return true;
    }
  }
  return false;
}

void RunStream(CUstream stream) {
  std::unique_lock lock(All().mutex);
  while (true) {
    All().changed.wait(lock,
                       [&] { return stream->ending || (!All().held && !stream->work.empty()); });
    if (stream->ending) {
      return;
    }
    std::function<void()> work = std::move(stream->work.front());
    stream->work.pop_front();
    work();
    All().changed.notify_all();
  }
}

void Enqueue(CUstream stream, std::function<void()> work) {
  stream->work.push_back(std::move(work));
  All().changed.notify_all();
}

}  // namespace

extern "C" {

CUresult cuInit(unsigned int /*flags*/) { return Check("cuInit"); }

CUresult cuGetErrorName(CUresult error, const char** name) {
  *name = error == CUDA_ERROR_OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY" : "CUDA_ERROR_FAKE";
  return CUDA_SUCCESS;
}

CUresult cuGetErrorString(CUresult error, const char** text) {
  *text = error == CUDA_ERROR_OUT_OF_MEMORY ? "out of memory" : "it was told to fail";
  return CUDA_SUCCESS;
}

CUresult cuPointerGetAttribute(void* data, CUpointer_attribute attribute, CUdeviceptr at) {
  const std::lock_guard lock(All().mutex);
  CUdeviceptr base = 0;
  const Memory* memory = Find(at, 0, &base);
  // NOLINTNEXTLINE(performance-no-int-to-ptr): the interface's
  const bool host = IsPinned(reinterpret_cast<std::byte*>(at), 0);
  if (memory == nullptr && !host) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  if (attribute == CU_POINTER_ATTRIBUTE_MEMORY_TYPE) {
    *static_cast<CUmemorytype*>(data) = host ? CU_MEMORYTYPE_HOST : CU_MEMORYTYPE_DEVICE;
    return CUDA_SUCCESS;
  }
  *static_cast<int*>(data) = host ? 0 : memory->device;
  return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice device) {
  *context = &All().contexts[device];
  return Check("cuDevicePrimaryCtxRetain");
}

CUresult cuCtxPushCurrent(CUcontext context) {
  current.push_back(context);
  return CUDA_SUCCESS;
}

CUresult cuCtxPopCurrent(CUcontext* context) {
  if (current.empty()) {
    return CUDA_ERROR_INVALID_CONTEXT;
  }
  *context = current.back();
  current.pop_back();
  return CUDA_SUCCESS;
}

CUresult cuStreamCreate(CUstream* made, unsigned int /*flags*/) {
  if (const CUresult fault = Check("cuStreamCreate"); fault != CUDA_SUCCESS) {
    return fault;
  }
  auto* stream = new CUstream_st;
  stream->context = current.back();
  stream->thread = std::thread(RunStream, stream);
  *made = stream;
  return CUDA_SUCCESS;
}

CUresult cuStreamDestroy(CUstream stream) {
  {
    const std::lock_guard lock(All().mutex);
    stream->ending = true;
    All().changed.notify_all();
  }
  stream->thread.join();
  delete stream;
  return CUDA_SUCCESS;
}

CUresult cuStreamWaitEvent(CUstream /*stream*/, CUevent /*event*/, unsigned int /*flags*/) {
  // The default stream, the only one of others, has nothing to do here.
  return Check("cuStreamWaitEvent");
}

CUresult cuStreamSynchronize(CUstream stream) {
  std::unique_lock lock(All().mutex);
  All().changed.wait(lock, [&] { return stream->work.empty(); });
  return stream->failed;
}

CUresult cuEventCreate(CUevent* event, unsigned int /*flags*/) {
  if (const CUresult fault = Check("cuEventCreate"); fault != CUDA_SUCCESS) {
    return fault;
  }
  *event = new CUevent_st;
  return CUDA_SUCCESS;
}

CUresult cuEventDestroy(CUevent event) {
  delete event;
  return CUDA_SUCCESS;
}

CUresult cuEventRecord(CUevent event, CUstream stream) {
  const std::lock_guard lock(All().mutex);
  if (const CUresult fault = Faulty("cuEventRecord"); fault != CUDA_SUCCESS) {
    return fault;
  }
  const uint64_t number = ++event->recorded;
  if (stream == nullptr) {
    event->reached = number;
    return CUDA_SUCCESS;
  }
  Enqueue(stream, [event, stream, number] {
    event->reached = number;
    event->result = stream->failed;
  });
  return CUDA_SUCCESS;
}

CUresult cuEventSynchronize(CUevent event) {
  std::unique_lock lock(All().mutex);
  All().changed.wait(lock, [&] { return event->reached == event->recorded; });
  return event->result;
}

CUresult cuMemHostRegister(void* data, size_t bytes, unsigned int flags) {
  const std::lock_guard lock(All().mutex);
  if (const CUresult fault = Faulty("cuMemHostRegister"); fault != CUDA_SUCCESS) {
    return fault;
  }
  if (current.empty() || (flags & CU_MEMHOSTREGISTER_PORTABLE) == 0) {
    return CUDA_ERROR_INVALID_CONTEXT;
  }
  if (!All().pinned.emplace(static_cast<std::byte*>(data), bytes).second) {
    return CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED;
  }
  return CUDA_SUCCESS;
}

CUresult cuMemHostUnregister(void* data) {
  const std::lock_guard lock(All().mutex);
  // The kernel would pin what is not mapped any more: it must be there still.
  unsigned char resident = 0;
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  std::byte* const begin = static_cast<std::byte*>(data) - reinterpret_cast<uintptr_t>(data) % page;
  if (mincore(begin, 1, &resident) != 0) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  return All().pinned.erase(static_cast<std::byte*>(data)) == 1
             ? CUDA_SUCCESS
             : CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED;
}

CUresult cuMemcpyDtoHAsync(void* into, CUdeviceptr from, size_t bytes, CUstream stream) {
  const std::lock_guard lock(All().mutex);
  if (const CUresult fault = Faulty("cuMemcpyDtoHAsync"); fault != CUDA_SUCCESS) {
    return fault;
  }
  if (current.empty() || current.back() != stream->context) {
    return CUDA_ERROR_INVALID_CONTEXT;
  }
  CUdeviceptr base = 0;
  const Memory* memory = Find(from, bytes, &base);
  if (memory == nullptr) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  const std::byte* const source = memory->readable + (from - base);
  Enqueue(stream, [into, source, bytes, stream] {
    const CUresult fault = Faulty("copy");
    if (fault != CUDA_SUCCESS) {
      stream->failed = fault;
      return;
    }
    std::memcpy(into, source, bytes);
    All().copies[IsPinned(static_cast<std::byte*>(into), bytes) ? 1 : 0] += 1;
  });
  return CUDA_SUCCESS;
}

CUdeviceptr fake_cuda_allocate(int device, size_t bytes) {
  const int fd = memfd_create("fake_cuda", MFD_CLOEXEC);
  if (fd < 0 || ftruncate(fd, static_cast<off_t>(bytes)) != 0) {
    std::abort();
  }
  void* address = mmap(nullptr, bytes, PROT_NONE, MAP_SHARED, fd, 0);
  void* readable = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  close(fd);
  if (address == MAP_FAILED || readable == MAP_FAILED) {
    std::abort();
  }
  const std::lock_guard lock(All().mutex);
  const auto at = reinterpret_cast<CUdeviceptr>(address);
  All().memory[at] = {device, bytes, static_cast<std::byte*>(readable)};
  return at;
}

void fake_cuda_fill(CUdeviceptr to, const void* from, size_t bytes) {
  const std::lock_guard lock(All().mutex);
  CUdeviceptr base = 0;
  const Memory* memory = Find(to, bytes, &base);
  if (memory == nullptr) {
    std::abort();
  }
  std::memcpy(memory->readable + (to - base), from, bytes);
}

void fake_cuda_fail(const char* function, int good, CUresult result) {
  const std::lock_guard lock(All().mutex);
  All().faults[function] = {good, result};
}

void fake_cuda_hold(int held) {
  const std::lock_guard lock(All().mutex);
  All().held = held != 0;
  All().changed.notify_all();
}

size_t fake_cuda_pinned_bytes() {
  const std::lock_guard lock(All().mutex);
  size_t bytes = 0;
  for (const auto& [begin, size] : All().pinned) {
    bytes += size;
  }
  return bytes;
}

size_t fake_cuda_copies(int pinned) {
  const std::lock_guard lock(All().mutex);
  return All().copies[pinned];
}

int fake_cuda_has_context() { return current.empty() ? 0 : 1; }
}

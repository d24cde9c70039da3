// SPDX-License-Identifier: Apache-2.0
#include "client/cuda/cuda_calls.h"

#include <dlfcn.h>

#include "common/errors.h"

namespace gemel {
namespace {

// cuda.h renames a function whose signature has changed by a macro: the symbol is what it expands
// to.
#define GEMEL_CUDA_SYMBOL(function) GEMEL_CUDA_TEXT(function)
#define GEMEL_CUDA_TEXT(name) #name

template <typename Function>
void Load(void* library, const char* name, Function* function, std::string* missing) {
  void* found = dlsym(library, name);
  *function = reinterpret_cast<Function>(found);
  if (found == nullptr) {
    *missing += (missing->empty() ? "" : ", ") + std::string(name);
  }
}

CudaCalls LoadAll(void* library, std::string* missing) {
  CudaCalls calls;
  Load(library, GEMEL_CUDA_SYMBOL(cuInit), &calls.init, missing);
  Load(library, GEMEL_CUDA_SYMBOL(cuGetErrorName), &calls.get_error_name, missing);
  Load(library, GEMEL_CUDA_SYMBOL(cuGetErrorString), &calls.get_error_string, missing);
  Load(library, GEMEL_CUDA_SYMBOL(cuPointerGetAttribute), &calls.pointer_get_attribute, missing);
  Load(library, GEMEL_CUDA_SYMBOL(cuDevicePrimaryCtxRetain), &calls.device_primary_ctx_retain,
       missing);
  Load(library, GEMEL_CUDA_SYMBOL(cuCtxPushCurrent), &calls.ctx_push_current, missing);
  Load(library, GEMEL_CUDA_SYMBOL(cuCtxPopCurrent), &calls.ctx_pop_current, missing);
  Load(library, GEMEL_CUDA_SYMBOL(cuStreamCreate), &calls.stream_create, missing);
  Load(library, GEMEL_CUDA_SYMBOL(cuStreamDestroy), &calls.stream_destroy, missing);
  Load(library, GEMEL_CUDA_SYMBOL(cuStreamWaitEvent), &calls.stream_wait_event, missing);
  Load(library, GEMEL_CUDA_SYMBOL(cuStreamSynchronize), &calls.stream_synchronize, missing);
  Load(library, GEMEL_CUDA_SYMBOL(cuEventCreate), &calls.event_create, missing);
  Load(library, GEMEL_CUDA_SYMBOL(cuEventDestroy), &calls.event_destroy, missing);
  Load(library, GEMEL_CUDA_SYMBOL(cuEventRecord), &calls.event_record, missing);
  Load(library, GEMEL_CUDA_SYMBOL(cuEventSynchronize), &calls.event_synchronize, missing);
  Load(library, GEMEL_CUDA_SYMBOL(cuMemHostRegister), &calls.mem_host_register, missing);
  Load(library, GEMEL_CUDA_SYMBOL(cuMemHostUnregister), &calls.mem_host_unregister, missing);
  Load(library, GEMEL_CUDA_SYMBOL(cuMemcpyDtoHAsync), &calls.memcpy_dtoh_async, missing);
  return calls;
}

}  // namespace

absl::StatusOr<CudaCalls> LoadCudaFrom(const char* library) {
  void* handle = dlopen(library, RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    return error::FailedPrecondition(
        "no CUDA driver here ({}): copy to host memory first, or install NVIDIA's driver",
        dlerror());
  }
  std::string missing;
  CudaCalls calls = LoadAll(handle, &missing);
  if (!missing.empty()) {
    dlclose(handle);
    return error::FailedPrecondition("the CUDA driver {} lacks {}: update it", library, missing);
  }
  // It stays loaded: a driver that was initialized has threads of its own.
  absl::Status initialized = CudaStatus(calls, calls.init(0), "the CUDA driver");
  if (!initialized.ok()) {
    return initialized;
  }
  return calls;
}

absl::Status CudaStatus(const CudaCalls& calls, CUresult result, std::string_view what) {
  if (result == CUDA_SUCCESS) {
    return absl::OkStatus();
  }
  const char* name = nullptr;
  const char* sentence = nullptr;
  calls.get_error_name(result, &name);
  calls.get_error_string(result, &sentence);
  const std::string told = fmt::format("{}: {} ({})", what, sentence != nullptr ? sentence : "?",
                                       name != nullptr ? name : std::to_string(result).c_str());
  switch (result) {
    case CUDA_ERROR_OUT_OF_MEMORY:
      return error::ResourceExhausted("{}", told);
    case CUDA_ERROR_INVALID_VALUE:
    case CUDA_ERROR_INVALID_HANDLE:
      return error::InvalidArgument("{}", told);
    default:
      return error::FailedPrecondition("{}", told);
  }
}

}  // namespace gemel

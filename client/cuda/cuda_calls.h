// SPDX-License-Identifier: Apache-2.0
//
// CUDA's driver, loaded at run time: a library that was built with CUDA runs where there is none.
//
// Thread safety: any thread. Errors: FailedPrecondition says what is missing.
#pragma once

#include <cuda.h>

#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace gemel {

// Names as in the CUDA driver API, without "cu".
struct CudaCalls {
  decltype(&cuInit) init = nullptr;
  decltype(&cuGetErrorName) get_error_name = nullptr;
  decltype(&cuGetErrorString) get_error_string = nullptr;
  decltype(&cuPointerGetAttribute) pointer_get_attribute = nullptr;
  decltype(&cuDevicePrimaryCtxRetain) device_primary_ctx_retain = nullptr;
  decltype(&cuCtxPushCurrent) ctx_push_current = nullptr;
  decltype(&cuCtxPopCurrent) ctx_pop_current = nullptr;
  decltype(&cuStreamCreate) stream_create = nullptr;
  decltype(&cuStreamDestroy) stream_destroy = nullptr;
  decltype(&cuStreamWaitEvent) stream_wait_event = nullptr;
  decltype(&cuStreamSynchronize) stream_synchronize = nullptr;
  decltype(&cuEventCreate) event_create = nullptr;
  decltype(&cuEventDestroy) event_destroy = nullptr;
  decltype(&cuEventRecord) event_record = nullptr;
  decltype(&cuEventSynchronize) event_synchronize = nullptr;
  decltype(&cuMemHostRegister) mem_host_register = nullptr;
  decltype(&cuMemHostUnregister) mem_host_unregister = nullptr;
  decltype(&cuMemcpyDtoHAsync) memcpy_dtoh_async = nullptr;
};

// Loads and initializes the driver.
absl::StatusOr<CudaCalls> LoadCudaFrom(const char* library);

// OK, or `what` with the driver's name and sentence for `result`: ResourceExhausted for memory,
// InvalidArgument for what the caller gave, FailedPrecondition for a device that has failed.
absl::Status CudaStatus(const CudaCalls& calls, CUresult result, std::string_view what);

}  // namespace gemel

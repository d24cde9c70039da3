// SPDX-License-Identifier: Apache-2.0
//
// A stand-in for NVIDIA's driver, libcuda.so.1, for machines without a GPU: what client/cuda calls
// of it, over host memory that only its streams can read. Two devices.
//
// Each stream has a thread, which makes copies when it comes to them. What a program may not do
// is answered as the driver does: copying on a stream whose context is not current
// (CUDA_ERROR_INVALID_CONTEXT), or from what is not device memory (CUDA_ERROR_INVALID_VALUE).
//
// The rest is for tests. Thread safety: any thread.
#pragma once

#include <cuda.h>

#include <cstddef>

extern "C" {

// Device memory: an address that the program cannot read.
CUdeviceptr fake_cuda_allocate(int device, size_t bytes);
void fake_cuda_fill(CUdeviceptr to, const void* from, size_t bytes);

// From now on each call of `function` ("cuMemHostRegister") but the first `good` ones gives
// `result`; for "copy" the copies themselves fail, as cuEventSynchronize tells. CUDA_SUCCESS: all
// is well again. FAKE_CUDA_FAIL=FUNCTION in the environment: from the beginning,
// CUDA_ERROR_NOT_SUPPORTED.
void fake_cuda_fail(const char* function, int good, CUresult result);

// While held, no stream goes on.
void fake_cuda_hold(int held);

size_t fake_cuda_pinned_bytes(void);
// Copies into memory that was, and was not, registered.
size_t fake_cuda_copies(int pinned);
// 1: a context is current on this thread.
int fake_cuda_has_context(void);
}

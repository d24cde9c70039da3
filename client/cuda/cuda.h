// SPDX-License-Identifier: Apache-2.0
//
// CUDA devices, as staging sees them. Built with CUDA's headers (cmake finds cuda.h) it loads the
// driver, libcuda.so.1, when it is first asked; built without, or where there is no driver, each
// call says so.
//
// Thread safety: any thread.
#pragma once

#include "absl/status/statusor.h"

#include "client/core/device.h"

namespace gemel {

// OK, or why no CUDA memory can be read here: Unimplemented when this library was built without
// CUDA, FailedPrecondition when there is no driver.
absl::Status CheckCuda();

// The device that `data` is memory of. InvalidArgument when it is host memory or nobody's.
absl::StatusOr<Device*> CudaDeviceOf(const void* data);

}  // namespace gemel

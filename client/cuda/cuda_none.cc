// SPDX-License-Identifier: Apache-2.0
//
// In place of all else here when CUDA's headers were not found.
#include "client/cuda/cuda.h"
#include "common/errors.h"

namespace gemel {

absl::Status CheckCuda() {
  return error::Unimplemented(
      "this libgemel was built without CUDA: copy to host memory first, or build it where cmake "
      "finds cuda.h (CUDAToolkit_ROOT names the toolkit)");
}

absl::StatusOr<Device*> CudaDeviceOf(const void* /*data*/) { return CheckCuda(); }

}  // namespace gemel

// SPDX-License-Identifier: Apache-2.0
#include "transport/descriptor.h"

#include <unistd.h>

#include <cerrno>

#include "common/check.h"

namespace gemel {

void Descriptor::Reset() {
  if (fd_ >= 0) {
    // Linux releases the number even when it reports EINTR or a late write error; EBADF is our bug.
    const int rc = close(std::exchange(fd_, -1));
    GEMEL_CHECK(rc == 0 || errno != EBADF) << "a descriptor was closed twice";
  }
}

DescriptorHandle::DescriptorHandle(Descriptor descriptor) : descriptor_(std::move(descriptor)) {
  GEMEL_CHECK(descriptor_.valid());
}

}  // namespace gemel

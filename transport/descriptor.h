// SPDX-License-Identifier: Apache-2.0
//
// Descriptor: owns one file descriptor of this process. DescriptorHandle: one that can be sent.
//
// Thread safety: one owner. The descriptor is closed exactly once, by its last owner.
#pragma once

#include <utility>

#include "transport/host.h"

namespace gemel {

class Descriptor {
 public:
  Descriptor() = default;

  explicit Descriptor(int fd) : fd_(fd) {}

  Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}

  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }

  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;

  ~Descriptor() { Reset(); }

  // -1 when there is none.
  int get() const { return fd_; }

  bool valid() const { return fd_ >= 0; }

  // Closes it now.
  void Reset();

 private:
  int fd_ = -1;
};

class DescriptorHandle final : public SharedHandle {
 public:
  // REQUIRES: descriptor.valid().
  explicit DescriptorHandle(Descriptor descriptor);

  int descriptor() const override { return descriptor_.get(); }

 private:
  const Descriptor descriptor_;
};

}  // namespace gemel

// SPDX-License-Identifier: Apache-2.0
#include "common/xxh3.h"

#include <array>

#include "common/check.h"

namespace gemel {
namespace {

using internal::kXxh3StateAlignment;
using internal::Xxh3Kernel;
using internal::Xxh3Words;

constexpr size_t kIsaCount = 3;

struct IsaList {
  std::array<Xxh3Isa, kIsaCount> isas{Xxh3Isa::kBaseline};
  size_t count = 1;

  void Add(Xxh3Isa isa) {
    GEMEL_CHECK_LT(count, kIsaCount);
    isas[count] = isa;
    ++count;
  }
};

IsaList DetectIsas() {
  IsaList list;
#if defined(__x86_64__)
  // These tests include that the operating system saves the wide registers.
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2")) list.Add(Xxh3Isa::kAvx2);
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl")) {
    list.Add(Xxh3Isa::kAvx512);
  }
#endif
  return list;
}

bool IsSupported(Xxh3Isa isa) {
  for (Xxh3Isa supported : SupportedXxh3Isas()) {
    if (supported == isa) return true;
  }
  return false;
}

// AVX-512 on Intel only: Zen 4 splits its stores and hashes at 0.8 of the rate of AVX2.
Xxh3Isa ChooseIsa() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (IsSupported(Xxh3Isa::kAvx512) && __builtin_cpu_is("intel")) return Xxh3Isa::kAvx512;
#endif
  return IsSupported(Xxh3Isa::kAvx2) ? Xxh3Isa::kAvx2 : Xxh3Isa::kBaseline;
}

const Xxh3Kernel* KernelFor(Xxh3Isa isa) {
  GEMEL_CHECK(IsSupported(isa)) << "this processor does not run " << Xxh3IsaName(isa);
#if defined(__x86_64__)
  if (isa == Xxh3Isa::kAvx2) return &internal::kXxh3Avx2;
  if (isa == Xxh3Isa::kAvx512) return &internal::kXxh3Avx512;
#endif
  return &internal::kXxh3Baseline;
}

const Xxh3Kernel* PreferredKernel() {
  static const Xxh3Kernel* const kKernel = KernelFor(PreferredXxh3Isa());
  return kKernel;
}

Digest128 ToDigest(const Xxh3Words& words) {
  return Digest128{.low = words.low, .high = words.high};
}

Digest128 Hash(const Xxh3Kernel& kernel, std::span<const std::byte> data) {
  GEMEL_CHECK(data.data() != nullptr || data.empty());
  return ToDigest(kernel.hash(data.data(), data.size()));
}

bool Overlap(const void* dst, const void* src, size_t n) {
  const auto to = reinterpret_cast<uintptr_t>(dst);
  const auto from = reinterpret_cast<uintptr_t>(src);
  return to < from ? from - to < n : to - from < n;
}

void CheckCopy(const void* dst, const void* src, size_t n) {
  GEMEL_CHECK(dst != nullptr) << n << " bytes to copy";
  GEMEL_CHECK(src != nullptr) << n << " bytes to copy";
  GEMEL_CHECK(!Overlap(dst, src, n)) << n << " bytes from " << src << " to " << dst;
}

Digest128 CopyAndHash(const Xxh3Kernel& kernel, void* dst, const void* src, size_t n) {
  if (n == 0) return ToDigest(kernel.hash(nullptr, 0));
  CheckCopy(dst, src, n);
  return ToDigest(kernel.copy_and_hash(dst, src, n));
}

}  // namespace

std::string_view Xxh3IsaName(Xxh3Isa isa) {
  switch (isa) {
    case Xxh3Isa::kBaseline:
      return "baseline";
    case Xxh3Isa::kAvx2:
      return "avx2";
    case Xxh3Isa::kAvx512:
      return "avx512";
  }
  GEMEL_CHECK(false) << "no such instruction set: " << static_cast<int>(isa);
  return {};
}

std::span<const Xxh3Isa> SupportedXxh3Isas() {
  static const IsaList kList = DetectIsas();
  return std::span<const Xxh3Isa>(kList.isas).first(kList.count);
}

Xxh3Isa PreferredXxh3Isa() {
  static const Xxh3Isa kIsa = ChooseIsa();
  return kIsa;
}

Digest128 Xxh3_128(std::span<const std::byte> data) { return Hash(*PreferredKernel(), data); }

Digest128 Xxh3_128(std::span<const std::byte> data, Xxh3Isa isa) {
  return Hash(*KernelFor(isa), data);
}

Digest128 CopyAndDigest(void* dst, const void* src, size_t n) {
  return CopyAndHash(*PreferredKernel(), dst, src, n);
}

Digest128 CopyAndDigest(void* dst, const void* src, size_t n, Xxh3Isa isa) {
  return CopyAndHash(*KernelFor(isa), dst, src, n);
}

Xxh3Stream::Xxh3Stream() : kernel_(PreferredKernel()) { Reset(); }

Xxh3Stream::Xxh3Stream(Xxh3Isa isa) : kernel_(KernelFor(isa)) { Reset(); }

void Xxh3Stream::Update(std::span<const std::byte> data) {
  GEMEL_CHECK(!finished_) << "invariant (2): " << data.size() << " bytes after Finish()";
  GEMEL_CHECK(data.data() != nullptr || data.empty());
  if (!data.empty()) kernel_->update(State(), data.data(), data.size());
}

void Xxh3Stream::CopyAndUpdate(void* dst, const void* src, size_t n) {
  GEMEL_CHECK(!finished_) << "invariant (2): " << n << " bytes after Finish()";
  if (n == 0) return;
  CheckCopy(dst, src, n);
  kernel_->copy_and_update(State(), dst, src, n);
}

Digest128 Xxh3Stream::Finish() {
  GEMEL_CHECK(!finished_) << "invariant (2): finished twice";
  finished_ = true;
  return ToDigest(kernel_->finish(State()));
}

void Xxh3Stream::Reset() {
  finished_ = false;
  kernel_->reset(State());
}

void* Xxh3Stream::State() {
  const auto address = reinterpret_cast<uintptr_t>(storage_);
  const size_t slack = (0 - address) % kXxh3StateAlignment;
  GEMEL_CHECK_LT(slack, kXxh3StateAlignment);
  return storage_ + slack;
}

}  // namespace gemel

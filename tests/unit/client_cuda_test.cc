// SPDX-License-Identifier: Apache-2.0
//
// Staging from CUDA memory, on the stand-in for the driver (tests/fake_cuda).
#include <gtest/gtest.h>

#include <thread>
#include <vector>

#include "client/core/chunk_filler.h"
#include "client/cuda/cuda_device.h"
#include "tests/fake_cuda/fake_cuda.h"

namespace gemel {
namespace {

constexpr uint64_t kBytes = 40 * kChunkBytes + 10;  // more than may be under way

const std::byte* Address(CUdeviceptr at) {
  // NOLINTNEXTLINE(performance-no-int-to-ptr): device addresses are numbers
  return reinterpret_cast<const std::byte*>(at);
}

class CudaTest : public ::testing::Test {
 public:
  CudaTest() : memory_(kBytes), content_(kBytes) {
    for (size_t i = 0; i < content_.size(); ++i) {
      content_[i] = static_cast<std::byte>(i * 31 + i / 257);
    }
    source_ = fake_cuda_allocate(0, kBytes);
    fake_cuda_fill(source_, content_.data(), kBytes);
  }

  ~CudaTest() override {
    for (const char* function :
         {"copy", "cuEventRecord", "cuMemcpyDtoHAsync", "cuMemHostRegister", "cuEventCreate"}) {
      fake_cuda_fail(function, 0, CUDA_SUCCESS);
    }
    EXPECT_EQ(fake_cuda_has_context(), 0);
    EXPECT_EQ(fake_cuda_pinned_bytes(), 0U);
  }

 protected:
  // One for all tests, as in a process.
  static CudaDriver& Driver() {
    static CudaDriver* const kDriver = [] {
      absl::StatusOr<CudaCalls> calls = LoadCudaFrom("libcuda.so.1");
      EXPECT_TRUE(calls.ok()) << calls.status();
      return new CudaDriver(*calls);
    }();
    return *kDriver;
  }

  static Device* DeviceOf(CUdeviceptr at) {
    absl::StatusOr<Device*> device = Driver().DeviceOf(Address(at));
    EXPECT_TRUE(device.ok()) << device.status();
    return device.value_or(nullptr);
  }

  absl::Status Append(ChunkFiller* filler, uint64_t offset, uint64_t size) {
    auto stream = DeviceOf(source_)->StreamAfter(nullptr);
    if (!stream.ok()) {
      return stream.status();
    }
    return filler->AppendFrom(stream->get(), offset, {Address(source_) + offset, size});
  }

  std::vector<MutableByteSpan> Places() {
    const MutableByteSpan all(memory_);
    return {all.first(3 * kChunkBytes), all.subspan(3 * kChunkBytes)};
  }

  std::vector<std::byte> memory_;
  std::vector<std::byte> content_;
  CUdeviceptr source_ = 0;
};

TEST_F(CudaTest, HashesWhatTheDeviceCopiedHoweverItComes) {
  for (const uint64_t step : {uint64_t{7 * kChunkBytes + 1000}, kBytes}) {
    std::fill(memory_.begin(), memory_.end(), std::byte{0});
    ChunkFiller filler(Places(), kBytes);
    for (uint64_t at = 0; at < kBytes; at += step) {
      const absl::Status status = Append(&filler, at, std::min(step, kBytes - at));
      ASSERT_TRUE(status.ok()) << status;
    }
    ASSERT_TRUE(filler.complete());
    EXPECT_EQ(memory_, content_);
    for (uint32_t chunk = 0; chunk * kChunkBytes < kBytes; ++chunk) {
      const size_t at = chunk * kChunkBytes;
      EXPECT_EQ(filler.digest(chunk),
                Xxh3_128(ByteSpan(content_).subspan(at, std::min(kChunkBytes, kBytes - at))));
    }
  }
}

TEST_F(CudaTest, HostAndDeviceMemoryMakeOneChunk) {
  ChunkFiller filler(Places(), kBytes);
  ASSERT_TRUE(filler.AppendAt(0, ByteSpan(content_).first(1000)).ok());
  ASSERT_TRUE(Append(&filler, 1000, kBytes - 2000).ok());
  ASSERT_TRUE(filler.AppendAt(kBytes - 1000, ByteSpan(content_).last(1000)).ok());
  ASSERT_TRUE(filler.complete());
  EXPECT_EQ(memory_, content_);
  EXPECT_EQ(filler.digest(0), Xxh3_128(ByteSpan(content_).first(kChunkBytes)));
  EXPECT_EQ(filler.digest(40), Xxh3_128(ByteSpan(content_).last(10)));
}

TEST_F(CudaTest, NothingIsToldBeforeTheDeviceHasCopiedIt) {
  ChunkFiller filler(Places(), kBytes);
  fake_cuda_hold(1);
  std::thread writer([&] { EXPECT_TRUE(Append(&filler, 0, kBytes).ok()); });
  // As many turns as a hash that does not wait would need, many times over.
  for (int turn = 0; turn < 1000; ++turn) {
    EXPECT_EQ(filler.filled(), 0U);
    std::this_thread::yield();
  }
  fake_cuda_hold(0);
  writer.join();
  EXPECT_TRUE(filler.complete());
}

TEST_F(CudaTest, WhatCannotBeStartedIsToldWhenNothingIsUnderWay) {
  for (const char* function : {"cuMemcpyDtoHAsync", "cuEventRecord", "copy"}) {
    ChunkFiller filler(Places(), kBytes);
    fake_cuda_fail(function, 5, CUDA_ERROR_ILLEGAL_ADDRESS);
    const absl::Status status = Append(&filler, 0, kBytes);
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << function;
    EXPECT_NE(status.message().find("CUDA device 0: it was told to fail"), std::string::npos)
        << status;
    EXPECT_LE(filler.filled(), 5U) << function;
    EXPECT_FALSE(filler.complete()) << function;
    const size_t copies = fake_cuda_copies(0);
    for (int turn = 0; turn < 100; ++turn) {
      std::this_thread::yield();
      EXPECT_EQ(fake_cuda_copies(0), copies) << function;
    }
    fake_cuda_fail(function, 0, CUDA_SUCCESS);
  }
}

TEST_F(CudaTest, RefusesMoreThanTheShardAndOtherOffsets) {
  ChunkFiller filler(Places(), kBytes - 1);
  EXPECT_EQ(Append(&filler, 0, kBytes).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Append(&filler, 5, 10).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(filler.appended(), 0U);
}

TEST_F(CudaTest, HostMemoryAndStrangersAreNamed) {
  EXPECT_EQ(Driver().DeviceOf(content_.data()).status().code(), absl::StatusCode::kInvalidArgument);
  const absl::StatusOr<std::shared_ptr<void>> pin = DeviceOf(source_)->Pin(memory_);
  ASSERT_TRUE(pin.ok()) << pin.status();
  const absl::Status status = Driver().DeviceOf(memory_.data()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(status.message().find("host memory"), std::string::npos) << status;
}

TEST_F(CudaTest, PinsUntilItIsLetGo) {
  absl::StatusOr<std::shared_ptr<void>> pin = DeviceOf(source_)->Pin(memory_);
  ASSERT_TRUE(pin.ok()) << pin.status();
  EXPECT_EQ(fake_cuda_pinned_bytes(), memory_.size());
  EXPECT_FALSE(DeviceOf(source_)->Pin(memory_).ok());  // twice
  const size_t before = fake_cuda_copies(1);
  ChunkFiller filler(Places(), kBytes);
  ASSERT_TRUE(Append(&filler, 0, kBytes).ok());
  EXPECT_GT(fake_cuda_copies(1), before);
  *pin = nullptr;
  EXPECT_EQ(fake_cuda_pinned_bytes(), 0U);
  fake_cuda_fail("cuMemHostRegister", 0, CUDA_ERROR_OUT_OF_MEMORY);
  const absl::Status refused = DeviceOf(source_)->Pin(memory_).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_NE(refused.message().find("CUDA_ERROR_OUT_OF_MEMORY"), std::string::npos) << refused;
}

TEST_F(CudaTest, EachDeviceHasItsOwnContextAndStreams) {
  const CUdeviceptr other = fake_cuda_allocate(1, kBytes);
  fake_cuda_fill(other, content_.data(), kBytes);
  ASSERT_NE(DeviceOf(other), DeviceOf(source_));
  ChunkFiller filler(Places(), kBytes);
  auto first = DeviceOf(source_)->StreamAfter(nullptr);
  auto second = DeviceOf(other)->StreamAfter(nullptr);
  ASSERT_TRUE(first.ok() && second.ok());
  const uint64_t half = kBytes / 2;
  EXPECT_TRUE(filler.AppendFrom(first->get(), 0, {Address(source_), half}).ok());
  EXPECT_TRUE(filler.AppendFrom(second->get(), half, {Address(other) + half, kBytes - half}).ok());
  EXPECT_TRUE(filler.complete());
  EXPECT_EQ(memory_, content_);
}

TEST_F(CudaTest, AStreamThatCannotBeMadeIsToldAndLaterOnesAre) {
  // Streams are kept: hold all that there are, and one more is made.
  std::vector<std::unique_ptr<DeviceStream>> held;
  fake_cuda_fail("cuEventCreate", 3, CUDA_ERROR_OUT_OF_MEMORY);
  absl::Status status;
  while (status.ok() && held.size() < 100) {
    auto stream = DeviceOf(source_)->StreamAfter(nullptr);
    status = stream.status();
    if (stream.ok()) {
      held.push_back(*std::move(stream));
    }
  }
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
  fake_cuda_fail("cuEventCreate", 0, CUDA_SUCCESS);
  EXPECT_TRUE(DeviceOf(source_)->StreamAfter(nullptr).ok());
}

TEST(CudaCalls, WithoutADriverTheLibraryIsNamed) {
  const absl::Status status = LoadCudaFrom("libcuda-of-nowhere.so.1").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(status.message().find("libcuda-of-nowhere.so.1"), std::string::npos) << status;
  EXPECT_EQ(LoadCudaFrom("libc.so.6").status().code(), absl::StatusCode::kFailedPrecondition);
}

}  // namespace
}  // namespace gemel

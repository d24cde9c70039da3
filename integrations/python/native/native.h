// SPDX-License-Identifier: Apache-2.0
//
// gemel._native: Client, Writer, Stage and Restore over the C ABI. No torch: tensors come by
// pointer, buffer protocol or DLPack.
//
// Thread safety: everything that can wait or copies more than a name runs without the interpreter's
// lock. Errors: a failed call raises the class of gemel.errors that gemel.errors.from_code() gives
// for its code; an interrupt (Ctrl-C) ends a wait of the main thread within a tenth of a second.
#pragma once

#include <nanobind/nanobind.h>

#include <cstdint>
#include <functional>
#include <string>

#include "gemel/gemel.h"

namespace gemel::python {

namespace nb = nanobind;

// The interpreter's lock is given up while one lives. A thread that would take it again while the
// interpreter ends stays here for ever: it must not unwind through our frames.
class WithoutLock {
 public:
  WithoutLock() : state_(PyEval_SaveThread()) {}

  WithoutLock(const WithoutLock&) = delete;
  WithoutLock& operator=(const WithoutLock&) = delete;
  ~WithoutLock();

 private:
  PyThreadState* const state_;
};

// Runs call() without the lock, then raises what it failed with.
void RaiseUnlessOk(gemel_status status);

template <typename Call>
void Run(Call&& call) {
  gemel_status status{};
  {
    WithoutLock unlocked;
    status = call();
  }
  RaiseUnlessOk(status);
}

[[noreturn]] void RaiseInvalid(const std::string& message);

// For gemel_client_options.interrupted.
int Interrupted(void* context);
// Remembers the main thread: only it has signals to look for.
void RememberMainThread();

// InvalidArgument for a negative number or none at all.
int64_t MillisecondsOf(double seconds);

// REQUIRES of the caller: `raw` is 16 bytes of what `name` says, or InvalidArgument.
void CopySixteen(const nb::bytes& raw, const char* name, uint8_t* out);

// Calls `write` without the lock for the bytes of a buffer or of a host tensor (DLPack), then
// raises what it failed with.
void WithBytesOf(nb::handle buffer,
                 const std::function<gemel_status(const void* data, size_t size)>& write);

// write(), write_ptr() and write_cuda() of what is written in one go: T has Write, WriteBytes and
// WriteCuda.
template <typename T>
void DefineWrites(nb::class_<T>* bound) {
  bound->def("write", &T::Write, nb::arg("offset"), nb::arg("buf"),
             "Appends a buffer or a host tensor (DLPack); offset is the bytes written so far.");
  bound->def(
      "write_ptr",
      [](T& self, uint64_t offset, uintptr_t ptr, size_t nbytes) {
        // NOLINTNEXTLINE(performance-no-int-to-ptr): tensors tell where they lie as a number
        self.WriteBytes(offset, reinterpret_cast<const void*>(ptr), nbytes);
      },
      nb::arg("offset"), nb::arg("ptr"), nb::arg("nbytes"),
      "Appends nbytes of host memory at address ptr.");
  bound->def(
      "write_cuda",
      [](T& self, uint64_t offset, uintptr_t ptr, size_t nbytes, uintptr_t stream) {
        // NOLINTBEGIN(performance-no-int-to-ptr): as above
        self.WriteCuda(offset, reinterpret_cast<const void*>(ptr), nbytes,
                       reinterpret_cast<void*>(stream));
        // NOLINTEND(performance-no-int-to-ptr)
      },
      nb::arg("offset"), nb::arg("ptr"), nb::arg("nbytes"), nb::arg("stream"),
      "Appends nbytes of CUDA memory, as it is after all that the stream was given so far.");
}

// 32 hexadecimal digits, as the command line prints digests.
std::string HexOf(const uint8_t* digest);

nb::tuple EpochTuple(gemel_epoch epoch);
gemel_epoch EpochOf(nb::handle epoch);

void BindClient(nb::module_& module);
void BindWriter(nb::module_& module);
void BindRestore(nb::module_& module);
void BindStage(nb::module_& module);

// What Client hands out: takes over the handle, which is not null.
nb::object MakeWriter(gemel_writer* handle, std::string name);
nb::object MakeRestore(gemel_restore* handle);
nb::object MakeStage(gemel_stage* handle);

}  // namespace gemel::python

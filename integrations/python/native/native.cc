// SPDX-License-Identifier: Apache-2.0
#include "native.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <utility>

namespace gemel::python {
namespace {

constexpr size_t kIdBytes = 16;
constexpr double kSecondsMax = 30.0 * 24 * 3600;

unsigned long main_thread = 0;  // NOLINT(google-runtime-int): the interpreter's type

bool Ending() {
#if PY_VERSION_HEX >= 0x030d0000
  return Py_IsFinalizing() != 0;
#else
  return _Py_IsFinalizing() != 0;
#endif
}

[[noreturn]] void Raise(int code, const std::string& message) {
  nb::object error = nb::module_::import_("gemel.errors").attr("from_code")(code, message);
  PyErr_SetObject(error.type().ptr(), error.ptr());
  nb::raise_python_error();
}

}  // namespace

WithoutLock::~WithoutLock() {
  while (Ending() && PyThread_get_thread_ident() != main_thread) {
    pause();
  }
  PyEval_RestoreThread(state_);
}

void RaiseUnlessOk(gemel_status status) {
  const std::string message = status.message != nullptr ? status.message : "";
  const int code = status.code;
  gemel_status_free(&status);
  if (code == GEMEL_CANCELLED && PyErr_Occurred() != nullptr) {
    nb::raise_python_error();
  }
  if (code != GEMEL_OK) {
    Raise(code, message);
  }
}

void RaiseInvalid(const std::string& message) { Raise(GEMEL_INVALID_ARGUMENT, message); }

int Interrupted(void* /*context*/) {
  if (PyThread_get_thread_ident() != main_thread || Ending()) {
    return 0;
  }
  nb::gil_scoped_acquire locked;
  return PyErr_CheckSignals() != 0 ? 1 : 0;
}

void RememberMainThread() {
  nb::object thread = nb::module_::import_("threading").attr("main_thread")();
  main_thread = nb::cast<unsigned long>(thread.attr("ident"));  // NOLINT(google-runtime-int)
}

int64_t MillisecondsOf(double seconds) {
  if (!(seconds >= 0.0)) {
    RaiseInvalid("a timeout of " + std::to_string(seconds) + " s: give 0 or more");
  }
  return static_cast<int64_t>(std::ceil(std::min(seconds, kSecondsMax) * 1e3));
}

void CopySixteen(const nb::bytes& raw, const char* name, uint8_t* out) {
  if (raw.size() != kIdBytes) {
    RaiseInvalid(std::string(name) + " has " + std::to_string(raw.size()) + " bytes, not 16");
  }
  std::copy_n(static_cast<const uint8_t*>(raw.data()), kIdBytes, out);
}

void WithBytesOf(nb::handle buffer,
                 const std::function<gemel_status(const void* data, size_t size)>& write) {
  if (PyObject_CheckBuffer(buffer.ptr()) != 0) {
    Py_buffer view{};
    if (PyObject_GetBuffer(buffer.ptr(), &view, PyBUF_SIMPLE) != 0) {
      nb::raise_python_error();
    }
    gemel_status status{};
    {
      WithoutLock unlocked;
      status = write(view.buf, static_cast<size_t>(view.len));
    }
    PyBuffer_Release(&view);
    return RaiseUnlessOk(status);
  }
  using Array = nb::ndarray<nb::ro, nb::c_contig, nb::device::cpu>;
  Array array;
  if (!nb::try_cast(buffer, array, false)) {
    RaiseInvalid(
        "write() takes contiguous bytes in host memory, by buffer protocol or DLPack; "
        "copy a device or strided tensor first");
  }
  Run([&]() { return write(array.data(), array.nbytes()); });
}

std::string HexOf(const uint8_t* digest) {
  // High half first, most significant byte first: the bytes of a digest are low then high, each
  // little-endian.
  constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  for (size_t i = kIdBytes; i > 0; --i) {
    text += kDigits[digest[i - 1] >> 4];
    text += kDigits[digest[i - 1] & 15];
  }
  return text;
}

nb::tuple EpochTuple(gemel_epoch epoch) { return nb::make_tuple(epoch.generation, epoch.counter); }

gemel_epoch EpochOf(nb::handle epoch) {
  if (nb::len(epoch) != 2) {
    RaiseInvalid("an epoch is (generation, counter), as acquire_epoch() gives it");
  }
  return {nb::cast<uint64_t>(epoch[0]), nb::cast<uint64_t>(epoch[1])};
}

}  // namespace gemel::python

NB_MODULE(_native, module) {
  using namespace gemel::python;  // NOLINT(google-build-using-namespace): its own functions
  // The traceback of an error that ends the interpreter keeps clients alive: no leak, and not what
  // the user is to read last.
  nb::set_leak_warnings(false);
  module.doc() = "The client library of Gemel. See gemel.torch for what training programs use.";
  module.attr("__version__") = gemel_version();
  module.def("copied_bytes", &gemel_copied_bytes,
             "Bytes of state that the library copied in this process's memory so far.");
  module.def(
      "cuda_check", []() { Run(&gemel_cuda_check); },
      "Raises why no CUDA memory can be written here, if so.");
  module.def("cuda_unpinned_bytes", &gemel_cuda_unpinned_bytes,
             "Bytes from CUDA memory that went through host memory the driver would not register.");
  RememberMainThread();
  BindWriter(module);
  BindRestore(module);
  BindStage(module);
  BindClient(module);
}

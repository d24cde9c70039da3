// SPDX-License-Identifier: Apache-2.0
#include <string>

#include "native.h"

namespace gemel::python {
namespace {

class Stage {
 public:
  explicit Stage(gemel_stage* handle) : handle_(handle) {
    uint8_t id[16];
    gemel_stage_id(handle, id);
    id_.assign(reinterpret_cast<const char*>(id), sizeof(id));
  }

  Stage(const Stage&) = delete;
  Stage& operator=(const Stage&) = delete;

  ~Stage() { Close(); }

  // InvalidArgument when it is closed.
  gemel_stage* handle() const {
    if (handle_ == nullptr) {
      RaiseInvalid("this stage is closed");
    }
    return handle_;
  }

  nb::bytes id() const { return nb::bytes(id_.data(), id_.size()); }

  void Write(uint64_t offset, nb::handle buffer) {
    gemel_stage* stage = handle();
    WithBytesOf(buffer, [&](const void* data, size_t size) {
      return gemel_stage_write(stage, offset, data, size);
    });
  }

  void WriteBytes(uint64_t offset, const void* data, size_t size) {
    gemel_stage* stage = handle();
    Run([&]() { return gemel_stage_write(stage, offset, data, size); });
  }

  void WriteCuda(uint64_t offset, const void* data, size_t size, void* stream) {
    gemel_stage* stage = handle();
    Run([&]() { return gemel_stage_write_cuda(stage, offset, data, size, stream); });
  }

  void Seal() {
    gemel_stage* stage = handle();
    Run([&]() { return gemel_stage_seal(stage); });
  }

  void Close() {
    gemel_stage_free(handle_);
    handle_ = nullptr;
  }

 private:
  gemel_stage* handle_;
  std::string id_;
};

}  // namespace

nb::object MakeStage(gemel_stage* handle) {
  return nb::cast(new Stage(handle), nb::rv_policy::take_ownership);
}

void BindStage(nb::module_& module) {
  auto stage = nb::class_<Stage>(module, "Stage", "A shard that is written before it has a name.");
  stage.def_prop_ro("id", &Stage::id,
                    "16 bytes for open_snapshot(stage=...), in this process or another.");
  DefineWrites(&stage);
  stage.def("seal", &Stage::Seal, "Ends writing: from here on it can be opened under a name.");
  stage.def("close", &Stage::Close,
            "Frees the memory, unless a snapshot took it over. No call may be in progress. "
            "Idempotent.");
  stage.def("__enter__", [](nb::object self) { return self; });
  stage.def("__exit__", [](Stage& s, const nb::args&) { s.Close(); });
}

}  // namespace gemel::python

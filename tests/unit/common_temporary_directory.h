// SPDX-License-Identifier: Apache-2.0
//
// A directory that goes away with the test, and whole files read and written for it.
// Thread safety: one thread. Ownership: removes the directory and all in it.
#pragma once

#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include "common/check.h"

namespace gemel {

class TemporaryDirectory {
 public:
  TemporaryDirectory() : path_(::testing::TempDir() + "gemel-test-XXXXXX") {
    GEMEL_CHECK(mkdtemp(path_.data()) != nullptr) << path_;
  }

  ~TemporaryDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }

  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;

  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

inline std::string ReadWholeFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  GEMEL_CHECK(file.good()) << path;
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

inline void WriteWholeFile(const std::string& path, const std::string& bytes) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  file.close();
  GEMEL_CHECK(file.good()) << path;
}

}  // namespace gemel

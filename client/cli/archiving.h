// SPDX-License-Identifier: Apache-2.0
//
// `gemel export`, `gemel import` and `gemel archive`: their flags, and what they run.
//
// Thread safety: one thread.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

#include "client/archive/target.h"
#include "common/epoll_loop.h"

namespace CLI {
class App;
}

namespace gemel::cli {

class Archiving {
 public:
  static constexpr const char* kExportHelp = "Write a snapshot as files that other tools read";
  static constexpr const char* kImportHelp = "Bring exported or safetensors files into the cluster";
  static constexpr const char* kArchiveHelp = "Keep exporting the newest snapshot of a job";

  void AddExport(CLI::App* command);
  void AddImport(CLI::App* command);
  void AddArchive(CLI::App* command);

  // The exit code of the command, or the error. `dir`: of the cluster, where nothing else says
  // which.
  absl::StatusOr<int> Export(const std::string& dir, bool json);
  absl::StatusOr<int> Import(const std::string& dir, bool json);
  absl::StatusOr<int> Archive(const std::string& dir, bool json);

 private:
  // What every command stands on: time and signals.
  struct Ground;

  void AddCommon(CLI::App* command);
  absl::StatusOr<std::unique_ptr<Ground>> Prepare() const;
  absl::StatusOr<std::unique_ptr<archive::Target>> OpenTarget(const std::string& address,
                                                              archive::Pace* pace) const;
  // Sockets of this host's servers: --address, GEMEL_ADDRESS, or the cluster below `dir`.
  absl::StatusOr<std::vector<std::string>> Addresses(const std::string& dir) const;
  // Runs a module of the Python package with `arguments` and the flags that all its modules have;
  // its exit code.
  absl::StatusOr<int> RunPython(const std::string& module, std::vector<std::string> arguments,
                                const std::string& dir, bool json) const;
  absl::StatusOr<int> ExportDcp(const std::string& dir, bool json);
  absl::StatusOr<int> VerifyTarget(bool json);
  absl::StatusOr<int> ImportDcp(const std::string& dir, bool json);

  std::string what_;    // JOB[@STEP], or JOB
  std::string target_;  // DIR or s3://…
  std::string address_;
  std::string format_ = "safetensors";
  std::string job_;
  std::string name_;
  std::string interval_ = "0s";
  std::string patience_ = "60s";
  std::string strategy_ = "group";
  uint64_t every_ = 1;
  uint32_t keep_ = 0;
  uint32_t copies_ = 2;
  bool force_ = false;
  bool verify_only_ = false;
  bool verify_ = false;
  bool takeover_ = false;
  bool once_ = false;
  bool insecure_ = false;
};

// "30s", "10m", "2h", "250ms". InvalidArgument naming the text and the forms.
absl::StatusOr<Duration> ParseDuration(const std::string& text);

}  // namespace gemel::cli

// SPDX-License-Identifier: Apache-2.0
#include "client/cli/command_line.h"

#include <algorithm>
#include <cstdio>

#include "client/cli/commands.h"
#include "client/cli/exit_codes.h"
#include "client/cli/host_processes.h"
#include "client/cli/suggest.h"
#include "common/check.h"
#include "common/errors.h"
#include "common/status_macros.h"

namespace gemel::cli {
namespace {

constexpr const char* kExamples = R"(Examples:
  gemel up --servers 3 --memory 1GiB       a cluster on this machine
  gemel run -- torchrun --nproc-per-node 2 train.py
  gemel status                             who is alive
  gemel snapshots gpt                      what could be restored
  gemel persist gpt@7                      step 7 to disk, now
  gemel doctor                             is this machine ready, and how to mend it
  gemel down                               stop; nothing is left behind

)";

constexpr const char* kUpExamples = R"(Examples:
  gemel up                                 three servers of 1 GiB below ~/.gemel
  gemel up --servers 2 --memory 8GiB --dir /var/tmp/mine
  gemel up --listen 127.0.0.1:7601         placement at a port of your choice
  gemel up --server server-1               start a dead server of a running cluster again
)";

constexpr const char* kRunExamples = R"(Examples:
  gemel run -- torchrun --nproc-per-node 2 train.py
  gemel run --memory 8GiB -- python3 train.py --lr 3e-4
A cluster that runs is used; otherwise one is started, and stopped when the command succeeds and
its newest snapshots are on disk. When the command fails, the cluster stays.
)";

constexpr const char* kDownExamples = R"(Examples:
  gemel down                               stop; `gemel up` brings it back
  gemel down --wipe                        and forget it: its folder is removed
)";

using SimpleRunner = absl::Status (*)(const Flags&);

CommandLine::Runner Simple(SimpleRunner run) {
  return [run](const Flags& flags) -> absl::StatusOr<int> {
    GEMEL_RETURN_IF_ERROR(run(flags));
    return kExitDone;
  };
}

std::vector<const CLI::App*> ChildrenOf(const CLI::App* app) {
  return app->get_subcommands([](const CLI::App*) { return true; });
}

// "TEXT:{table,json}" of CLI11's member check: its words.
std::vector<std::string> ChoicesIn(const std::string& type_name) {
  const size_t open = type_name.find('{');
  const size_t close = type_name.find('}', open);
  std::vector<std::string> choices;
  if (open == std::string::npos || close == std::string::npos) {
    return choices;
  }
  std::string word;
  for (const char c : type_name.substr(open + 1, close - open - 1) + ",") {
    if (c == ',') {
      choices.push_back(word);
      word.clear();
    } else {
      word.push_back(c);
    }
  }
  return choices;
}

std::vector<std::string> NamesOf(const CLI::Option& option) {
  std::vector<std::string> names;
  for (const std::string& name : option.get_snames()) {
    names.push_back("-" + name);
  }
  for (const std::string& name : option.get_lnames()) {
    names.push_back("--" + name);
  }
  return names;
}

std::vector<std::string> FlagNames(const CLI::App* command) {
  std::vector<std::string> names;
  for (const CLI::Option* option : command->get_options()) {
    const std::vector<std::string> own = NamesOf(*option);
    names.insert(names.end(), own.begin(), own.end());
  }
  return names;
}

void Describe(const CLI::Option& option, CommandShape* command) {
  if (option.get_positional()) {
    const std::string help = option.get_description();
    command->takes_job = command->takes_job || help.starts_with("JOB");
    command->takes_command = command->takes_command || help.starts_with("the command");
    command->choices = ChoicesIn(option.get_type_name());
    return;
  }
  FlagShape flag;
  flag.names = NamesOf(option);
  flag.help = option.get_description();
  flag.choices = ChoicesIn(option.get_type_name());
  if (option.get_items_expected_max() == 0) {
    flag.value = FlagShape::Value::kNone;
  } else if (!flag.choices.empty()) {
    flag.value = FlagShape::Value::kChoice;
  } else {
    flag.value =
        flag.names.back().ends_with("dir") ? FlagShape::Value::kFolder : FlagShape::Value::kText;
  }
  if (flag.names.back() != "--help") {
    command->flags.push_back(flag);
  }
}

void Collect(const CLI::App* app, const std::string& prefix, std::vector<CommandShape>* shapes) {
  for (const CLI::App* child : ChildrenOf(app)) {
    const std::string name = prefix + child->get_name();
    if (!ChildrenOf(child).empty()) {
      Collect(child, name + " ", shapes);
      continue;
    }
    CommandShape shape;
    shape.name = name;
    shape.help = child->get_description();
    for (const CLI::Option* option : child->get_options()) {
      Describe(*option, &shape);
    }
    shapes->push_back(shape);
  }
}

std::vector<std::string> CommandNames(const CLI::App* app) {
  std::vector<std::string> names;
  for (const CLI::App* child : ChildrenOf(app)) {
    names.push_back(child->get_name());
  }
  return names;
}

// `run` takes everything from the first word that is no flag of its own for the command, so CLI11
// would take a mistyped flag for the beginning of it.
std::string UnknownFlagOfRun(const CLI::App& app, const std::vector<std::string>& arguments) {
  if (arguments[0] != "run") {
    return "";
  }
  const CLI::App* run = app.get_subcommand("run");
  for (size_t i = 1; i < arguments.size(); ++i) {
    const std::string& word = arguments[i];
    if (word == "--" || !word.starts_with('-')) {
      return "";
    }
    const std::string flag = word.substr(0, word.find('='));
    const CLI::Option* option = run->get_option_no_throw(flag);
    if (option == nullptr) {
      return flag;
    }
    i += option->get_items_expected_max() > 0 && flag == word ? 1 : 0;
  }
  return "";
}

}  // namespace

CommandLine::CommandLine()
    : app_("Gemel keeps training state in the memory of the hosts that run it.", "gemel") {
  const std::string home = Environment("HOME");
  flags_.dir = (home.empty() ? "/var/tmp" : home) + "/.gemel";
  app_.footer(kExamples + ExitCodesText() + "\n`gemel COMMAND --help` has the examples of each.");
  app_.require_subcommand(1);
  app_.set_version_flag("--version", GEMEL_VERSION);
  AddCluster();
  AddRun();
  AddQueries();
  AddStorage();
  AddArchiving();
  AddHost();
  AddCompletion();
}

int CommandLine::Run(int argc, char** argv) {
  const std::vector<std::string> arguments(argv + std::min(argc, 1), argv + argc);
  if (arguments.empty()) {
    std::fputs(app_.help().c_str(), stderr);
    return kExitUsage;
  }
  if (const std::string flag = UnknownFlagOfRun(app_, arguments); !flag.empty()) {
    return UsageError("no flag '" + flag + "'", arguments);
  }
  try {  // CLI11's interface: the one place where an exception is caught
    app_.parse(argc, argv);
  } catch (const CLI::ParseError& parse_error) {
    return parse_error.get_exit_code() == 0 ? app_.exit(parse_error)
                                            : UsageError(parse_error.what(), arguments);
  }
  GEMEL_CHECK(chosen_ != nullptr) << "a command without a runner";
  absl::StatusOr<int> code = chosen_(flags_);
  if (!code.ok()) {
    std::fprintf(stderr, "gemel: %s\n", std::string(MessageOf(code.status())).c_str());
    return ExitCodeOf(code.status());
  }
  return *code;
}

std::vector<CommandShape> CommandLine::Shapes() const {
  std::vector<CommandShape> shapes;
  Collect(&app_, "", &shapes);
  GEMEL_CHECK(!shapes.empty());
  return shapes;
}

int CommandLine::UsageError(const std::string& what,
                            const std::vector<std::string>& arguments) const {
  const CLI::App* command = &app_;
  std::string path = "gemel";
  for (const std::string& word : arguments) {
    const std::vector<std::string> names = CommandNames(command);
    if (names.empty() || word.starts_with('-')) {
      break;
    }
    if (std::find(names.begin(), names.end(), word) == names.end()) {
      std::fprintf(stderr, "%s: no command '%s'%s; `%s --help` lists them\n", path.c_str(),
                   word.c_str(), DidYouMean(word, names).c_str(), path.c_str());
      return kExitUsage;
    }
    command = command->get_subcommand(word);
    path += " " + word;
  }
  std::fprintf(stderr, "%s: %s; `%s --help` lists what there is\n", path.c_str(),
               WhatIsWrong(what, command, arguments).c_str(), path.c_str());
  return kExitUsage;
}

std::string CommandLine::WhatIsWrong(const std::string& what, const CLI::App* command,
                                     const std::vector<std::string>& arguments) const {
  const std::vector<std::string> known = FlagNames(command);
  for (const std::string& word : arguments) {
    if (word == "--") {
      break;
    }
    const std::string flag = word.substr(0, word.find('='));
    if (flag.size() > 1 && flag.starts_with('-') &&
        std::find(known.begin(), known.end(), flag) == known.end()) {
      return fmt::format("no flag '{}'{}", flag, DidYouMean(flag, known));
    }
  }
  return what.substr(0, what.find('\n'));
}

CLI::App* CommandLine::Command(CLI::App* parent, const char* name, const char* help, Runner run) {
  GEMEL_CHECK(parent != nullptr && run != nullptr && name != nullptr && help != nullptr);
  CLI::App* command = parent->add_subcommand(name, help);
  command->add_option("--dir", flags_.dir, "the cluster's folder")->capture_default_str();
  command->add_option("-o,--output", flags_.output, "table or json")
      ->check(CLI::IsMember({"table", "json"}))
      ->capture_default_str();
  command->callback([this, run = std::move(run)] { chosen_ = run; });
  return command;
}

CLI::App* CommandLine::Query(const char* name, const char* help, Runner run) {
  CLI::App* command = Command(&app_, name, help, std::move(run));
  command->add_option("--placement", flags_.placement,
                      "address of gemel-placement; default: that of the cluster below --dir");
  return command;
}

void CommandLine::AddSizes(CLI::App* command) {
  ClusterFlags& given = flags_.cluster;
  command->add_option("--servers", given.servers, "how many; default 3, or as many as it had");
  command->add_option("--memory", given.memory, "of each server; default 1GiB, or what it had");
  command->add_option("--slab-bytes", given.slab_bytes,
                      "unit of memory; default a 256th of --memory, 1MiB to 64MiB");
  command->add_option("--listen", given.listen,
                      "address of gemel-placement; default any free port, or where it was");
  command->add_option("--persist-dir", given.persist_dir,
                      "where servers persist; default below the folder of each");
  command->add_flag("--no-persist", given.no_persist, "without a persistent tier");
  command->add_flag("--no-keeper", given.no_keeper,
                    "a server's memory ends with its process; else a gemel-keeper holds it");
}

void CommandLine::AddCluster() {
  CLI::App* up = Command(&app_, "up", "Start a cluster on this machine", Simple(RunUp));
  AddSizes(up);
  up->add_flag("--placement", flags_.cluster.only_placement,
               "restart only the dead placement of a running cluster");
  up->add_option("--server", flags_.cluster.only_server,
                 "restart only this dead server of a running cluster");
  up->footer(kUpExamples);
  CLI::App* down = Command(&app_, "down", "Stop it; nothing is left behind", Simple(RunDown));
  down->add_flag("--wipe", flags_.wipe, "remove its folder too");
  down->footer(kDownExamples);
  CLI::App* placement = app_.add_subcommand("placement", "Operations on gemel-placement");
  placement->require_subcommand(1);
  CLI::App* recover = Command(placement, "recover", "Rebuild a lost MetaStore from the servers",
                              Simple(RunRecover));
  recover->add_flag("--from-servers", flags_.from_servers, "what it is rebuilt from")->required();
  recover->add_flag("--accept-loss", flags_.accept_loss,
                    "go on without a majority of the last members");
  recover->add_flag("--force", flags_.force, "also when placement runs");
  recover->footer(
      "Examples:\n  gemel placement recover --from-servers\n"
      "  gemel placement recover --from-servers --accept-loss   most servers are gone for good");
}

void CommandLine::AddRun() {
  CLI::App* run = Command(
      &app_, "run", "Run a command with GEMEL_ADDRESS set; starts a cluster when there is none",
      [](const Flags& flags) { return RunRun(flags); });
  AddSizes(run);
  run->add_option("--patience", flags_.patience_s,
                  "seconds without progress after which persisting is given up")
      ->capture_default_str();
  run->add_option("command", flags_.command, "the command and its arguments, after --")->required();
  run->positionals_at_end();
  run->prefix_command();
  run->footer(kRunExamples);
}

void CommandLine::AddQueries() {
  CLI::App* status = Query("status", "Who is alive, and how full", Simple(RunStatus));
  status->add_flag("--watch", flags_.watch, "again and again");
  status->footer("Examples:\n  gemel status --watch\n  gemel status -o json | jq .servers");
  Query("jobs", "Jobs and their newest snapshot", Simple(RunJobs))
      ->footer("Examples:\n  gemel jobs\n  gemel jobs --placement 127.0.0.1:7601");
  CLI::App* snapshots = Query("snapshots", "Snapshots of a job", Simple(RunSnapshots));
  snapshots->add_option("job", flags_.target, "JOB")->required();
  snapshots->footer("Examples:\n  gemel snapshots gpt");
  CLI::App* verify = Query("verify", "Re-hash every copy of a snapshot", Simple(RunVerify));
  verify->add_option("what", flags_.target, "JOB or JOB@STEP; default the newest step")->required();
  verify->footer("Examples:\n  gemel verify gpt\n  gemel verify gpt@7");
  CLI::App* explain =
      Query("explain", "Who keeps what and what would be survived", Simple(RunExplain));
  explain->add_option("what", flags_.target, "JOB or JOB@STEP; default the cluster");
  explain->add_option("--copies", flags_.copies, "of a shard")->capture_default_str();
  explain->add_option("--strategy", flags_.strategy, "group or ring")
      ->check(CLI::IsMember({"group", "ring"}))
      ->capture_default_str();
  explain->footer("Examples:\n  gemel explain --copies 3 --strategy ring\n  gemel explain gpt@7");
}

void CommandLine::AddStorage() {
  CLI::App* persist = Query("persist", "A snapshot to disk, now", Simple(RunPersist));
  persist->add_option("what", flags_.target, "JOB or JOB@STEP; default the newest step")
      ->required();
  persist->add_option("--patience", flags_.patience_s, "seconds without progress, then it gives up")
      ->capture_default_str();
  persist->footer("Examples:\n  gemel persist gpt\n  gemel persist gpt@7");
  CLI::App* repair = Query("repair", "Copies that are lacking, made now", Simple(RunRepair));
  repair->add_flag("--no-wait", flags_.no_wait, "say how far it is, and end");
  repair->add_option("--patience", flags_.patience_s, "seconds without progress, then it gives up")
      ->capture_default_str();
  repair->footer(
      "Examples:\n  gemel repair                ends with 0 when every shard has its copies\n"
      "  gemel repair --no-wait -o json");
  CLI::App* drain = Query("drain", "Empty a server, so that it may be stopped", Simple(RunDrain));
  drain->add_option("server", flags_.target, "its name, its domain or its id")->required();
  drain->add_flag("--cancel", flags_.cancel, "it takes work again");
  drain->add_flag("--force", flags_.force, "also when redundancy suffers");
  drain->add_flag("--no-wait", flags_.no_wait, "begin, and end");
  drain->add_option("--patience", flags_.patience_s, "seconds without progress, then it gives up")
      ->capture_default_str();
  drain->footer(
      "Examples:\n  gemel drain server-1\n  gemel drain server-1 --cancel\n"
      "It goes on when this command or placement ends; a drained server takes no work until "
      "--cancel.");
  CLI::App* remove = Query("rm", "Remove a snapshot, or a job", Simple(RunRemove));
  remove->add_option("what", flags_.target, "JOB or JOB@STEP")->required();
  remove->add_flag("--yes", flags_.yes, "yes, remove it");
  remove->footer("Examples:\n  gemel rm gpt@7 --yes\n  gemel rm gpt --yes        the whole job");
}

void CommandLine::AddArchiving() {
  archiving_.AddExport(Command(&app_, "export", Archiving::kExportHelp, [this](const Flags& flags) {
    return archiving_.Export(flags.dir, flags.json());
  }));
  archiving_.AddImport(Command(&app_, "import", Archiving::kImportHelp, [this](const Flags& flags) {
    return archiving_.Import(flags.dir, flags.json());
  }));
  archiving_.AddArchive(
      Command(&app_, "archive", Archiving::kArchiveHelp,
              [this](const Flags& flags) { return archiving_.Archive(flags.dir, flags.json()); }));
}

void CommandLine::AddHost() {
  CLI::App* doctor =
      Query("doctor", "Is this machine ready, is the cluster well, and how to mend it",
            [](const Flags& flags) { return RunDoctor(flags); });
  doctor->add_option("--address", flags_.address,
                     "socket of a server to look at; default: those of the cluster below --dir");
  doctor->add_option("--memory", flags_.cluster.memory, "of each server that is to fit");
  doctor->add_option("--servers", flags_.cluster.servers, "how many are to fit");
  doctor->footer(
      "Examples:\n  gemel doctor\n  gemel doctor --memory 8GiB --servers 2\n"
      "  gemel doctor -o json | jq '.checks[] | select(.level != \"ok\")'\n"
      "Ends with 5 when a check fails, with 0 when there are warnings only.");
}

void CommandLine::AddCompletion() {
  CLI::App* completion = app_.add_subcommand("completion", "Completion for your shell");
  completion->add_option("shell", flags_.target, "which shell")
      ->check(CLI::IsMember({"bash", "zsh"}))
      ->required();
  completion->footer(
      "Examples:\n  source <(gemel completion bash)\n"
      "  gemel completion zsh > \"${fpath[1]}/_gemel\"");
  completion->callback([this] {
    chosen_ = [this](const Flags& flags) -> absl::StatusOr<int> {
      GEMEL_ASSIGN_OR_RETURN(std::string script, CompletionScript(flags.target, Shapes()));
      std::fputs(script.c_str(), stdout);
      return kExitDone;
    };
  });
}

}  // namespace gemel::cli

// SPDX-License-Identifier: Apache-2.0
#include "client/cli/completion.h"

#include <set>

#include "common/check.h"
#include "common/errors.h"

namespace gemel::cli {
namespace {

// The words of a list, with spaces between.
std::string Joined(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& word : words) {
    text += (text.empty() ? "" : " ") + word;
  }
  return text;
}

std::string FirstWord(const std::string& text) { return text.substr(0, text.find(' ')); }

// Names of commands, those of two words by their first; each once, in order.
std::vector<std::string> TopLevel(const std::vector<CommandShape>& commands) {
  std::vector<std::string> names;
  std::set<std::string> seen;
  for (const CommandShape& command : commands) {
    if (seen.insert(FirstWord(command.name)).second) {
      names.push_back(FirstWord(command.name));
    }
  }
  return names;
}

std::vector<std::string> SecondWords(const std::vector<CommandShape>& commands,
                                     const std::string& first) {
  std::vector<std::string> words;
  for (const CommandShape& command : commands) {
    if (command.name.starts_with(first + " ")) {
      words.push_back(command.name.substr(first.size() + 1));
    }
  }
  return words;
}

// ---- bash

constexpr const char* kBashHead = R"sh(# gemel completion for bash:  source <(gemel completion bash)
_gemel_jobs() {
  local job rest
  "${COMP_WORDS[0]}" jobs "$@" 2>/dev/null | while read -r job rest; do
    [[ $job == job || -z $job ]] || echo "$job"
  done
}
_gemel() {
  local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} i dir=()
  local command=${COMP_WORDS[1]} words= jobs=
  COMPREPLY=()
  for ((i = 1; i < COMP_CWORD; i++)); do
    [[ ${COMP_WORDS[i]} == --dir ]] && dir=(--dir "${COMP_WORDS[i+1]}")
    if [[ ${COMP_WORDS[i]} == -- ]]; then
      COMPREPLY=($(compgen -c -f -- "$word"))
      return
    fi
  done
  if ((COMP_CWORD == 1)); then
)sh";

constexpr const char* kBashTail = R"sh(  esac
  [[ -n $jobs && $word != -* ]] && words=$(_gemel_jobs "${dir[@]}")
  COMPREPLY=($(compgen -W "$words" -- "$word"))
}
complete -F _gemel gemel
)sh";

std::string BashCommand(const CommandShape& command) {
  std::vector<std::string> flags = {"--help"};
  std::string values;
  for (const FlagShape& flag : command.flags) {
    GEMEL_CHECK(!flag.names.empty()) << command.name;
    flags.insert(flags.end(), flag.names.begin(), flag.names.end());
    std::string names;
    for (const std::string& name : flag.names) {
      names += (names.empty() ? "" : "|") + name;
    }
    if (flag.value == FlagShape::Value::kFolder) {
      values +=
          fmt::format("        {}) COMPREPLY=($(compgen -d -- \"$word\")); return ;;\n", names);
    } else if (flag.value != FlagShape::Value::kNone) {
      values +=
          fmt::format("        {}) COMPREPLY=($(compgen -W \"{}\" -- \"$word\")); return ;;\n",
                      names, Joined(flag.choices));
    }
  }
  std::string text = fmt::format("    \"{}\")\n", command.name);
  if (!values.empty()) {
    text += "      case $before in\n" + values + "      esac\n";
  }
  if (command.takes_job) {
    text += "      jobs=yes\n";
  }
  const std::string others = command.takes_command ? "--" : Joined(command.choices);
  return text +
         fmt::format("      words=\"{}\"\n      [[ $word == -* ]] && words=\"{}\"\n      ;;\n",
                     others, Joined(flags));
}

std::string Bash(const std::vector<CommandShape>& commands) {
  std::string text = kBashHead;
  text += fmt::format("    words=\"{} --help --version\"\n", Joined(TopLevel(commands)));
  text += "    COMPREPLY=($(compgen -W \"$words\" -- \"$word\"))\n    return\n  fi\n";
  std::string nested;
  for (const std::string& first : TopLevel(commands)) {
    if (const std::vector<std::string> second = SecondWords(commands, first); !second.empty()) {
      nested += fmt::format(
          "    {})\n      if ((COMP_CWORD == 2)); then\n        COMPREPLY=($(compgen -W \"{}\" -- "
          "\"$word\"))\n        return\n      fi\n      command=\"{} ${{COMP_WORDS[2]}}\"\n      "
          ";;\n",
          first, Joined(second), first);
    }
  }
  text += "  case $command in\n" + nested + "  esac\n  case $command in\n";
  for (const CommandShape& command : commands) {
    text += BashCommand(command);
  }
  return text + kBashTail;
}

// ---- zsh

constexpr const char* kZshHead = R"sh(#compdef gemel
# gemel completion for zsh:  gemel completion zsh > a folder of $fpath, as _gemel
_gemel_jobs() {
  local -a found
  found=(${(f)"$(gemel jobs 2>/dev/null | while read -r job rest; do
    [[ $job == job ]] || echo $job; done)"})
  compadd -a found
}
_gemel() {
  local -a commands
  commands=(
)sh";

// Inside single quotes and inside a specification of _arguments.
std::string ZshText(const std::string& text) {
  std::string quoted;
  for (const char c : text) {
    if (c == '\'') {
      quoted += "'\\''";
    } else {
      quoted += c == ':' || c == '[' || c == ']' ? std::string("\\") + c : std::string(1, c);
    }
  }
  return quoted;
}

std::string ZshFlag(const FlagShape& flag) {
  std::string value;
  switch (flag.value) {
    case FlagShape::Value::kNone:
      break;
    case FlagShape::Value::kText:
      value = ":value:";
      break;
    case FlagShape::Value::kFolder:
      value = ":folder:_files -/";
      break;
    case FlagShape::Value::kChoice:
      value = fmt::format(":value:({})", Joined(flag.choices));
      break;
  }
  GEMEL_CHECK_EQ(flag.value == FlagShape::Value::kChoice, !flag.choices.empty());
  std::string text;
  for (const std::string& name : flag.names) {
    text += fmt::format(" '{}[{}]{}'", name, ZshText(flag.help), value);
  }
  return text;
}

std::string ZshCommand(const CommandShape& command) {
  std::string text = fmt::format("    '{}') _arguments '--help'", command.name);
  for (const FlagShape& flag : command.flags) {
    text += ZshFlag(flag);
  }
  if (command.takes_job) {
    text += " '*:job:_gemel_jobs'";
  } else if (command.takes_command) {
    text += " '*::command:_normal'";
  } else if (!command.choices.empty()) {
    text += fmt::format(" '*:value:({})'", Joined(command.choices));
  }
  return text + " ;;\n";
}

std::string Zsh(const std::vector<CommandShape>& commands) {
  std::string text = kZshHead;
  for (const CommandShape& command : commands) {
    text += fmt::format("    '{}:{}'\n", FirstWord(command.name), ZshText(command.help));
  }
  text += "  )\n  if (( CURRENT == 2 )); then\n    _describe command commands\n    return\n  fi\n";
  text += "  local command=$words[2]\n  case $command in\n";
  for (const std::string& first : TopLevel(commands)) {
    if (const std::vector<std::string> second = SecondWords(commands, first); !second.empty()) {
      text += fmt::format(
          "    {}) if (( CURRENT == 3 )); then compadd {}; return; fi; command=\"$words[2] "
          "$words[3]\" ;;\n",
          first, Joined(second));
    }
  }
  text += "  esac\n  shift words; (( CURRENT-- ))\n  case $command in\n";
  for (const CommandShape& command : commands) {
    text += ZshCommand(command);
  }
  return text +
         "  esac\n}\n[[ $funcstack[1] == _gemel ]] && _gemel \"$@\" || compdef _gemel gemel\n";
}

}  // namespace

absl::StatusOr<std::string> CompletionScript(const std::string& shell,
                                             const std::vector<CommandShape>& commands) {
  GEMEL_CHECK(!commands.empty());
  if (shell == "bash") {
    return Bash(commands);
  }
  if (shell == "zsh") {
    return Zsh(commands);
  }
  return error::InvalidArgument("no completion for '{}'; there is one for bash and one for zsh",
                                shell);
}

}  // namespace gemel::cli

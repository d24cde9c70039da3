# SPDX-License-Identifier: Apache-2.0
# Every target has a replay of fixed inputs that any compiler builds; the fuzzers themselves need clang.
set(here ${CMAKE_CURRENT_LIST_DIR})

# gemel_fuzz_target(WHAT SECONDS DEPS ...): <what>_replay_test and, for libFuzzer, <what>_fuzz, run for that long.
function(gemel_fuzz_target what seconds)
  cmake_parse_arguments(ARG "" "" "DEPS" ${ARGN})
  gemel_test(${what}_replay_test SOURCES ${here}/${what}_replay_test.cc DEPS ${ARG_DEPS} LABEL fuzz)
  if(GEMEL_FUZZ)
    gemel_binary(${what}_fuzz SOURCES ${here}/${what}_fuzz.cc DEPS ${ARG_DEPS})
    target_compile_options(${what}_fuzz PRIVATE -fsanitize=fuzzer)
    target_link_options(${what}_fuzz PRIVATE -fsanitize=fuzzer)
    add_test(NAME ${what}_fuzz COMMAND ${what}_fuzz -max_total_time=${seconds} -seed=1 -timeout=20 -max_len=1200
             -len_control=0)
    set_tests_properties(${what}_fuzz PROPERTIES LABELS fuzz TIMEOUT 120)
  endif()
endfunction()

# Two run at a time: the seconds, halved, and the replays stay under two minutes.
gemel_fuzz_target(frame 15 DEPS gemel_transport)
gemel_fuzz_target(messages 15 DEPS gemel_transport)
gemel_fuzz_target(records 20 DEPS gemel_placement_manager gemel_server)
gemel_fuzz_target(text 10 DEPS gemel_server)
gemel_fuzz_target(archive 20 DEPS gemel_archive)
gemel_fuzz_target(placement 35 DEPS gemel_placement_manager)
gemel_fuzz_target(server 35 DEPS gemel_sim)

if(GEMEL_BUILD_SERVICES AND TARGET gemel-server)
  # The settings are part of the binary, not of gemel_server; a build with fuzzers has no binaries.
  gemel_test(config_replay_test
    SOURCES ${here}/config_replay_test.cc ${PROJECT_SOURCE_DIR}/server/config.cc
    DEPS gemel_server gemel_daemon CLI11::CLI11 LABEL fuzz)
  target_compile_definitions(config_replay_test PRIVATE GEMEL_VERSION="${PROJECT_VERSION}")
endif()

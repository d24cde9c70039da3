# SPDX-License-Identifier: Apache-2.0
# Every target has a replay of fixed inputs that any compiler builds; the fuzzers themselves need clang.
set(here ${CMAKE_CURRENT_LIST_DIR})
gemel_test(frame_replay_test SOURCES ${here}/frame_replay_test.cc DEPS gemel_transport LABEL fuzz)

if(GEMEL_FUZZ)
  # gemel_fuzz(NAME SOURCES ... DEPS ...): a libFuzzer program, run for a bounded number of inputs.
  function(gemel_fuzz name)
    cmake_parse_arguments(ARG "" "" "SOURCES;DEPS" ${ARGN})
    gemel_binary(${name} SOURCES ${ARG_SOURCES} DEPS ${ARG_DEPS})
    target_compile_options(${name} PRIVATE -fsanitize=fuzzer)
    target_link_options(${name} PRIVATE -fsanitize=fuzzer)
    add_test(NAME ${name} COMMAND ${name} -runs=200000 -max_total_time=60 -seed=1)
    set_tests_properties(${name} PROPERTIES LABELS fuzz TIMEOUT 300)
  endfunction()

  gemel_fuzz(frame_fuzz SOURCES ${here}/frame_fuzz.cc DEPS gemel_transport)
endif()

# gemel_target_defaults(TARGET): warnings as errors, sanitizers and the include root, on our targets only.
function(gemel_target_defaults target)
  target_include_directories(${target} PUBLIC ${PROJECT_SOURCE_DIR})
  target_compile_options(${target} PRIVATE -Wall -Wextra -Werror -Wno-missing-field-initializers)
  if(CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
    target_compile_options(${target} PRIVATE -Wthread-safety)
  endif()
  if(GEMEL_FUZZ)
    # libFuzzer is guided by what runs in here.
    target_compile_options(${target} PRIVATE -fsanitize=fuzzer-no-link)
  endif()
  if(GEMEL_SANITIZER STREQUAL "address")
    target_compile_options(${target} PUBLIC -fsanitize=address,undefined -fno-omit-frame-pointer
      -fno-sanitize-recover=all)
    target_link_options(${target} PUBLIC -fsanitize=address,undefined)
  elseif(GEMEL_SANITIZER STREQUAL "thread")
    target_compile_options(${target} PUBLIC -fsanitize=thread -fno-omit-frame-pointer)
    target_link_options(${target} PUBLIC -fsanitize=thread)
  endif()
endfunction()

# gemel_library(NAME SOURCES ... DEPS ...): a static library gemel_NAME.
function(gemel_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS" ${ARGN})
  add_library(gemel_${name} STATIC ${ARG_SOURCES})
  gemel_target_defaults(gemel_${name})
  target_link_libraries(gemel_${name} PUBLIC ${ARG_DEPS})
endfunction()

# gemel_binary(NAME SOURCES ... DEPS ...): an executable.
function(gemel_binary name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  gemel_target_defaults(${name})
  target_link_libraries(${name} PRIVATE ${ARG_DEPS})
endfunction()

# gemel_test(NAME SOURCES ... DEPS ... LABEL unit|sim|golden|fuzz): a GoogleTest program registered with ctest.
function(gemel_test name)
  cmake_parse_arguments(ARG "" "LABEL" "SOURCES;DEPS" ${ARGN})
  if(NOT GEMEL_BUILD_TESTS)
    return()
  endif()
  gemel_binary(${name} SOURCES ${ARG_SOURCES} DEPS ${ARG_DEPS} GTest::gtest_main GTest::gmock)
  # A quarter of the compiler's time for a test would go into making fast what runs once.
  target_compile_options(${name} PRIVATE $<$<CONFIG:RelWithDebInfo>:-O1>)
  add_test(NAME ${name} COMMAND ${name})
  set_tests_properties(${name} PROPERTIES LABELS "${ARG_LABEL}" TIMEOUT 300)
endfunction()

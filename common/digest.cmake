# Digests: sources and the instruction set of each. Included by common/CMakeLists.txt, which adds
# GEMEL_DIGEST_SOURCES to gemel_common. xxhash.h is Debian's libxxhash-dev; the header only, nothing linked.
find_path(GEMEL_XXHASH_INCLUDE xxhash.h)
if(NOT GEMEL_XXHASH_INCLUDE)
  message(FATAL_ERROR "xxhash.h not found: apt-get install libxxhash-dev")
endif()

set(GEMEL_DIGEST_SOURCES digest.cc crc32c.cc merkle.cc xxh3.cc xxh3_baseline.cc)
# Optimised in every build type: every byte passes here, tests' too.
set_source_files_properties(crc32c.cc PROPERTIES COMPILE_OPTIONS "-O2")
set_source_files_properties(xxh3_baseline.cc PROPERTIES COMPILE_OPTIONS "-O3")
if(CMAKE_SYSTEM_PROCESSOR STREQUAL "x86_64")
  # The last two: g++ 12 warns of the undefined registers in its own AVX-512 header.
  list(APPEND GEMEL_DIGEST_SOURCES xxh3_avx2.cc xxh3_avx512.cc)
  set_source_files_properties(xxh3_avx2.cc PROPERTIES COMPILE_OPTIONS "-O3;-mavx2")
  set_source_files_properties(xxh3_avx512.cc PROPERTIES COMPILE_OPTIONS
    "-O3;-mavx512f;-mavx512bw;-mavx512vl;$<$<CXX_COMPILER_ID:GNU>:-Wno-uninitialized;-Wno-maybe-uninitialized>")
endif()

# SPDX-License-Identifier: Apache-2.0
set(here ${CMAKE_CURRENT_LIST_DIR})
gemel_test(common_test
  SOURCES ${here}/common_codec_test.cc ${here}/common_disk_test.cc
          ${here}/common_frame_memory_test.cc ${here}/common_ids_test.cc ${here}/common_loop_test.cc
          ${here}/common_random_test.cc ${here}/common_real_disk_test.cc ${here}/common_scheduling_test.cc
          ${here}/common_sim_disk_test.cc ${here}/common_sim_files_test.cc ${here}/common_sim_loop_test.cc
          ${here}/common_spin_policy_test.cc ${here}/common_sync_test.cc ${here}/common_timer_queue_test.cc
  DEPS gemel_common LABEL unit)
if(GEMEL_BUILD_SERVICES)
  gemel_test(common_abort_at_test SOURCES ${here}/common_abort_at_test.cc DEPS gemel_common gemel_daemon LABEL unit)
endif()

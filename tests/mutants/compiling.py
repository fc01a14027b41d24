"""Mutants of the folder of compiled programs, and of the seconds of compiling."""

from tests.mutants import mutants

MUTANTS = (
    *mutants("parallel/compile_cache.py", "parallel/test_compile_cache.py", [
        ("use", "setting == AUTO and now", "False",
         "test_the_setting_moves_it_or_turns_it_off"),
        ("use", "None if now and", "now if now and", "test_the_setting_moves_it_or_turns_it_off"),
        ("use", "_check(folder)", "pass", "test_a_start_removes_what_a_kill_has_cut_short_once"),
        ("use", "_shrink(base)", "pass",
         "test_a_start_makes_room_by_the_oldest_programs_of_all_versions"),
        ("own_folder", "mode=0o700, exist_ok=True)\n    about", "exist_ok=True)\n    about",
         "test_a_second_process_reads_what_the_first_has_compiled"),
        ("own_folder", "about.st_mode & 0o077", "False",
         "test_a_folder_that_others_can_read_is_not_used"),
        ("_set", '"jax_persistent_cache_min_compile_time_secs", 0.0',
         '"jax_persistent_cache_min_compile_time_secs", 9.0',
         "test_a_second_process_reads_what_the_first_has_compiled"),
        ("_check", "entry.stat().st_mtime >= since and", "",
         "test_a_start_removes_what_a_kill_has_cut_short_once"),
        ("_whole", "return unpacker.eof", "return True",
         "test_a_start_removes_what_a_kill_has_cut_short_once"),
        ("_shrink", "sorted(found)", "sorted(found, reverse=True)",
         "test_a_start_makes_room_by_the_oldest_programs_of_all_versions"),
        ("_usable", "hit and OTHER_CPU not in said", "hit",
         "test_a_cpu_that_cannot_read_what_was_written_keeps_nothing[complaint]"),
        ("_usable", "before and sorted", "sorted",
         "test_a_first_process_that_writes_nothing_has_tried_nothing"),
        ("_usable", '== before', "!= []",
         "test_with_other_flags_the_first_process_compiles_the_probe_anew"),
    ]),
    *mutants("training/loop.py", "training/test_loop.py", [
        ("_Log.progress", 'before.get("compile_seconds", 0.0) + ', "",
         "test_the_seconds_of_compiling_count_once_and_add_up_over_calls"),
        ("_Compilations._listen", "self._spans.pop()", "break",
         "test_the_seconds_of_compiling_count_once_and_add_up_over_calls"),
        ("_Compilations._listen", "(COMPILE_EVENT, *TRACE_EVENTS)", "(COMPILE_EVENT,)",
         "test_the_seconds_of_compiling_count_once_and_add_up_over_calls"),
    ]),
    *mutants("runs/run.py", "parallel/test_compile_cache.py", [
        ("Run.__init__", "compile_cache.use(config.parallel.compile_cache)", "pass",
         "test_a_run_uses_the_setting_of_its_config", "Failed"),
    ]),
)  # fmt: skip

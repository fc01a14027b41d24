"""Mutants of durable/."""

from tests.mutants import mutants

FINGERPRINT = mutants(
    "durable/fingerprint.py",
    "durable/test_fingerprint.py",
    [
        ("fingerprint_of", "{CLASS: class_path(type(config))} | known | values", "known | values",
         "test_two_classes_without_fields_differ"),
        ("differences", "_named_alike(name, new)", "new.get(name)",
         "test_a_class_of_an_experiment_file_is_the_same_where_the_file_has_another_name",
         "UserError"),
        ("_counts", "value != field.default", "True",
         "test_a_field_added_later_counts_where_it_is_not_its_default"),
        ("_counts", "value != field.default", "bool(value)",
         "test_a_field_added_later_counts_where_it_is_not_its_default"),
        ("class_path", "{kind.__module__}", "",
         "test_two_classes_without_fields_differ"),
    ],
)  # fmt: skip

FILES = mutants(
    "durable/files.py",
    "durable/test_files.py",
    [
        ("write_atomically", "os.fsync(file.fileno())", "pass",
         "test_the_content_is_on_disk_before_the_name_and_the_name_before_the_return"),
        ("write_atomically", "sync_directory(path.parent)", "pass",
         "test_the_content_is_on_disk_before_the_name_and_the_name_before_the_return"),
        ("write_atomically", "os.unlink(temporary)", "pass",
         "test_an_error_leaves_the_old_file_and_no_other"),
    ],
)  # fmt: skip

FORMATS = (
    *mutants("durable/formats.py", "durable/test_formats.py", [
        ("Format.check", "number > self.now", "number > self.now + 1",
         "test_a_number_is_read_or_refused_with_what_to_do"),
        ("Format.check", "number < self.oldest", "number < 0",
         "test_a_number_is_read_or_refused_with_what_to_do"),
        ("Format.check", "0 if number is None", "self.now if number is None",
         "test_a_number_is_read_or_refused_with_what_to_do"),
        ("Format.check", "or isinstance(number, bool)", "",
         "test_what_is_no_number_is_refused[True]"),
    ]),
    *mutants("durable/checkpoint.py", "durable/test_formats.py", [
        ("_read", "check_format(folder)", "",
         "test_a_later_checkpoint_is_refused_even_where_an_earlier_one_is_good"),
        ("Checkpoints._sign", "{formats.FIELD: formats.CHECKPOINT.now} | about", "about",
         "test_a_checkpoint_without_a_number_is_read"),
    ]),
    *mutants("durable/model_files.py", "durable/test_formats.py", [
        ("load_model", "check_format(directory)", "",
         "test_a_later_model_is_refused_before_it_is_called_damaged"),
        ("save_model.finish", "{formats.FIELD: formats.MODEL.now} | about", "about",
         "test_a_model_without_a_number_is_read"),
    ]),
    *mutants("durable/fingerprint.py", "durable/test_formats.py", [
        ("check_fingerprint", "formats.FIELD: formats.RUN.now, ", "",
         "durable/test_fingerprint.py::test_the_file_holds_the_whole_nested_config"),
        ("stored", "formats.RUN.check(content.get(formats.FIELD), path.parent)", "pass",
         "test_a_run_of_another_format_is_refused_and_stays_as_it_is[later-True]"),
    ]),
    *mutants("durable/formats.py", "durable/test_formats.py", [
        ("RUN", "oldest=1", "oldest=0",
         "test_a_run_of_another_format_is_refused_and_stays_as_it_is[earlier-None]"),
    ]),
)  # fmt: skip

BUCKET = (
    *mutants("durable/checkpoint.py", "durable/test_bucket.py", [
        ("_remove", "(folder / manifest.NAME).unlink(missing_ok=True)", "",
         "test_a_checkpoint_is_removed_manifest_first"),
        ("Checkpoints._sign", "if in_bucket(self._root)", "if False",
         "test_a_checkpoint_is_whole_only_when_all_of_it_is_there"),
    ]),
    *mutants("durable/model_files.py", "durable/test_bucket.py", [
        ("save_model.prepare", "(place / ABOUT).unlink(missing_ok=True)", "",
         "test_a_model_is_whole_when_its_last_file_is_there"),
        ("save_model.finish", """manifest.write(place, {"kind": kind}, later={ABOUT: content})
        write_atomically(place / ABOUT, content)""", """write_atomically(place / ABOUT, content)
        manifest.write(place, {"kind": kind})""",
         "test_a_model_is_whole_when_its_last_file_is_there"),
    ]),
    *mutants("durable/lock.py", "durable/test_bucket.py", [
        ("_Object.replace", ", if_equal=generation", "",
         "test_of_two_that_find_no_lock_one_gets_it"),
        ("_wait_for_silence", "now != generation", "False",
         "test_a_second_process_is_refused_by_the_name_of_the_first"),
        ("_wait_for_silence", "if _is_dead(about)", "if True",
         "test_a_lock_without_signs_is_taken_over"),
        ("_is_dead", "except ProcessLookupError: return True", "except ProcessLookupError:\n"
         "        return False", "test_a_process_of_this_host_that_has_ended_holds_nothing"),
        ("_give_signs", "os._exit(2)", "return", "test_who_lost_the_lock_ends"),
        ("_held_object", "lock_object.replace(None, held[0])", "pass",
         "test_one_process_holds_a_directory_and_lets_it_go"),
    ]),
    *mutants("training/metrics.py", "durable/test_bucket.py", [
        ("_KeptLines.sync", "write_atomically(self._path, bytes(self._content))", "pass",
         "test_metrics_are_there_from_each_sync_on_and_a_resume_cuts_them", "FileNotFoundError"),
        ("_KeptLines.__init__", 'path.read_bytes() if path.exists() else b""', 'b""',
         "test_metrics_are_there_from_each_sync_on_and_a_resume_cuts_them"),
        ("_Board._upload", "if self._some", "if True",
         "test_events_of_each_sync_are_an_object_and_none_is_twice"),
    ]),
    *mutants("data/builder.py", "durable/test_bucket.py", [
        ("_upload", "key=lambda path: path.name == INFO", "key=lambda path: path.name != INFO",
         "test_data_sets_are_read_and_one_cut_short_is_none"),
        ("_open", "or (in_bucket(folder) and not (folder / INFO).exists())", "",
         "test_data_sets_are_read_and_one_cut_short_is_none"),
    ]),
    *mutants("durable/manifest.py", "durable/test_damage.py", [
        ("problems", "[mine::parts]", "",
         "test_processes_share_the_files_and_what_one_finds_all_are_told"),
        ("problems_of_all", "processes.total(len(found)) > len(found)", "False",
         "test_processes_share_the_files_and_what_one_finds_all_are_told"),
    ]),
)  # fmt: skip

MUTANTS = FINGERPRINT + FILES + FORMATS + BUCKET

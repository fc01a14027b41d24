"""Mutants of durable/."""

from tests.mutants import mutants

FINGERPRINT = mutants(
    "durable/fingerprint.py",
    "durable/test_fingerprint.py",
    [
        ("fingerprint_of", "{CLASS: class_path(type(config))} | values", "values",
         "test_two_classes_without_fields_differ"),
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
        ("write_atomically", "Path(temporary).unlink(missing_ok=True)", "pass",
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
        ("stored", "formats.RUN.check(content[formats.FIELD] if numbered else None, path.parent)",
         "", "test_a_later_run_is_refused_and_stays_as_it_is[True]"),
        ("stored", 'content["config"] if numbered else content', 'content["config"]',
         "test_a_run_without_a_number_is_read_and_compared", "KeyError"),
    ]),
)  # fmt: skip

MUTANTS = FINGERPRINT + FILES + FORMATS

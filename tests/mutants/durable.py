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

MUTANTS = FINGERPRINT + FILES

"""Metadata of dataclass fields: whether a field counts in a config's fingerprint.

`field(default=None, metadata=ADDED_LATER)`; durable/fingerprint.py reads it.
"""

# A field that may change between two calls of one run.
NOT_FINGERPRINTED = {"fingerprint": "never"}
# A field that earlier versions did not have. With its default it is left out of the fingerprint, so
# that their runs still have the same config.
ADDED_LATER = {"fingerprint": "unless default"}

"""An experiment and its runs: stages chained in a directory, replayed, read."""

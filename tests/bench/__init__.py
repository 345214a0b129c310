"""Numbers to measure, never asserted: `make bench`. One file a question, each with `rows() -> list[Row]`."""

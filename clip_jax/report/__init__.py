"""A run folder as one HTML page: read.py what is there, words.py what it means, plots.py and curves.py how it looks."""

from clip_jax.report.page import Report, write_report

__all__ = ["Report", "write_report"]

"""A run folder as one HTML page: read.py what is there, figures.py and words.py what it means, the others how it looks."""

from clip_jax.report.page import Report, write_report

__all__ = ["Report", "write_report"]

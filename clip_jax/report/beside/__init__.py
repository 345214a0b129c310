"""Several runs on one HTML page: read.py lines them up, words.py judges, drawings.py and page.py show."""

from clip_jax.report.beside.page import write_beside

__all__ = ["write_beside"]

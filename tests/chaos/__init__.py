"""Runs killed at random, compared with runs that nothing happened to: python -m tests.chaos."""

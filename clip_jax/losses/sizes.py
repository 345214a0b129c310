"""Losses that set a student's rows against a teacher's need both of one size; this says so where they are not."""

import jax


def check_same_size(student: jax.Array, teacher: jax.Array) -> None:
    """Raises ValueError unless [n, D] x2 have the same D."""
    if student.shape[1] != teacher.shape[1]:
        raise ValueError(
            f"embeddings of the student have size {student.shape[1]}, of the teacher {teacher.shape[1]}: project the "
            f"student's to {teacher.shape[1]}, or choose a loss that compares similarities, such as crd or affinity"
        )

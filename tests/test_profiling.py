"""config.profile: the trace of the chosen steps, and of no others, in the run's folder."""

import dataclasses
from pathlib import Path

import jax
import pytest

from clip_jax import run_folder
from clip_jax.cli.configs import to_dataclass
from clip_jax.profiling import check_profile
from clip_jax.train import train
from tests import small_config

# JAX 0.12's own reader of traces aborts the process where the numbers of steps are asked for.
NUMBERS = jax.__version_info__ < (0, 11)


def traced(file: Path) -> tuple[list[int], int]:
    """The numbers that a trace gives its steps, and how many steps ran while it was taken."""
    marks, runs = [], 0
    for plane in jax.profiler.ProfileData.from_file(str(file)).planes:
        for line in plane.lines:
            for event in line.events:
                if NUMBERS and event.name == "train":
                    marks.append(int(next(value for name, value in event.stats if name == "step_num")))
                runs += line.name == "python" and "Execute (jit_step)" in event.name
    return marks, runs


def test_the_chosen_steps_are_traced_and_no_others(tmp_path: Path) -> None:
    small = to_dataclass(small_config.get_config())
    train(dataclasses.replace(small, steps=5, profile=(3, 2), evals={}, eval_every=0), tmp_path)
    (file,) = (tmp_path / run_folder.PROFILE).glob("plugins/profile/*/*.xplane.pb")
    assert traced(file) == ([3, 4] if NUMBERS else [], 2)


@pytest.mark.parametrize("profile", [(-1, 2), (3, -1), (0, 3), (9, 3), (11, 1)])
def test_steps_that_a_run_does_not_have_are_refused(profile: tuple[int, int], tmp_path: Path) -> None:
    small = dataclasses.replace(to_dataclass(small_config.get_config()), steps=10, profile=profile)
    with pytest.raises(
        ValueError, match=r"config.profile is \(.*\); give \(first step, number of steps\) within steps 1 to 10"
    ):
        train(small, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_first_and_the_last_steps_can_be_chosen() -> None:
    for profile in ((1, 10), (10, 1), (0, 0), (5, 0)):
        check_profile(profile, steps=10)

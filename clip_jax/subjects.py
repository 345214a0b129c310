"""What is evaluated: a model from wherever it lies, as an encoder, with what is known of it and where its results go."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from clip_jax.evals.embed import Encoder
from clip_jax.evals.suite import EvalConfig
from clip_jax.interop.recognize import open_weights
from clip_jax.models.clip import CLIPConfig
from clip_jax.run_folder import CHECKPOINTS, CONFIG
from clip_jax.runs import Weights, load_run
from clip_jax.sharding import MeshConfig, make_mesh, replicated


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subject:
    """name, pretrained: which weights, as tables of results name them. folder: where results are written. about: for
    evaluation.json; of a run: run, step, weights, of others: model, said. said: in words. evals: of a run's config; empty
    for others."""

    name: str
    pretrained: str
    config: CLIPConfig
    params: Any
    mesh: Mesh
    folder: Path
    about: dict[str, Any]
    said: str
    evals: Mapping[str, EvalConfig] = dataclasses.field(default_factory=dict)

    @property
    def encoder(self) -> Encoder:
        """Its towers."""
        return Encoder(self.config, self.params, self.mesh)


def is_run(source: str) -> bool:
    """Whether a folder is a run's, which has a checkpoint, and not another project's."""
    return (Path(source) / CONFIG).is_file() and (Path(source) / CHECKPOINTS).is_dir()


def results_folder(source: str) -> Path:
    """A folder itself; for a file, or hf-hub:org/repo, a folder NAME.evaluation beside it, or here."""
    if source.startswith("hf-hub:"):
        return Path(f"{source.removeprefix('hf-hub:').partition('@')[0].rpartition('/')[2]}.evaluation")
    path = Path(source)
    return path if path.is_dir() else path.with_name(f"{path.name}.evaluation")


def open_subject(
    source: str, *, weights: Weights = "auto", step: int | None = None, folder: Path | None = None
) -> Subject:
    """source: as clip_jax.load takes it. step: of a run's checkpoint. folder: where results go, in place of the usual.

    Raises FileNotFoundError or ValueError, also for a step of what is no run.
    """
    folder = folder or results_folder(source)
    if is_run(source):
        run = load_run(Path(source), weights=weights, step=step)
        about = {"run": Path(source).resolve().name, "step": run.step, "weights": run.weights}
        return Subject(
            name=about["run"],
            pretrained=f"step-{run.step}-{run.weights}",
            config=run.config.model,
            params=run.params,
            mesh=run.mesh,
            folder=folder,
            about=about,
            said=f"{source}, step {run.step:,}, {run.weights} weights",
            evals=run.config.evals,
        )
    if step is not None:
        raise ValueError(f"--step {step} is given, and {source} is no run folder; leave it out")
    opened = open_weights(source, weights=weights)
    mesh = make_mesh(MeshConfig())
    return Subject(
        name=source.rstrip("/").rpartition("/")[2],
        pretrained=opened.layout,
        config=dataclasses.replace(opened.config, dtype="float32"),
        params=jax.device_put(opened.params, replicated(mesh)),
        mesh=mesh,
        folder=folder,
        about={"model": source, "said": opened.said},
        said=f"{source}, {opened.said}",
    )

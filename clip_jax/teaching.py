"""Teachers opened: what each offers, what the loader must bring for it, and how it fills a batch's targets."""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from clip_jax import sharding, tree
from clip_jax.accumulate import cut_rows, joined_rows
from clip_jax.data import files
from clip_jax.data.centroids import class_centroids, first_samples
from clip_jax.data.source import Source
from clip_jax.data.taught import Taught, check_generated
from clip_jax.data.teacher_manifest import MANIFEST, TeacherInfo, view_differences
from clip_jax.data.teacher_store import TeacherStore
from clip_jax.evals.embed import eval_target
from clip_jax.experiment import Plan, TrainConfig
from clip_jax.interop.recognize import config_of, open_weights
from clip_jax.masking import settled
from clip_jax.models.clip import CLIPConfig, bind, towers_of
from clip_jax.sharding import parameter_shardings, replicated
from clip_jax.state import TrainState
from clip_jax.teachers import AverageTeacher, LiveTeacher, Offer, StoreTeacher, Targets, check_teachers

_SEARCHED = 100  # samples a class that its centroid is the mean of. Nair 2024


@dataclasses.dataclass(frozen=True, kw_only=True)
class Teachers:
    """The teachers of an experiment. offers: by name, for a Plan. taught: what the training stream must bring for them.

    centroids: of classes, f32[C, D], of the stores that an objective asks for them. models: of live teachers.
    """

    config: TrainConfig
    offers: Mapping[str, Offer]
    taught: Taught
    centroids: Mapping[str, np.ndarray]
    models: Mapping[str, CLIPConfig]

    def verify(self, source: Source) -> None:
        """Reads the stores whole and compares them with the training samples, of which each must hold all.

        Raises ValueError for samples without the generated captions that the objective needs; with the teacher's name, for a
        store that is damaged or of another data set.
        """
        synthetic = self.config.objective.needs("synthetic")
        if synthetic:
            check_generated(source)
        for name, store in self.taught.stores.items():
            teacher = self.config.teachers[name]
            with _named(name):
                if isinstance(teacher, StoreTeacher) and teacher.verify:
                    store.verify()
                store.check_source(source, synthetic=synthetic)

    @property
    def embedded(self) -> dict[str, TeacherInfo]:
        """Who made each store, by the teacher's name."""
        return {name: store.manifest.teacher for name, store in self.taught.stores.items()}

    def on(self, plan: Plan) -> "Filling":
        """Ready to fill batches of this plan; live teachers are read and cut over its mesh."""
        return Filling(self, plan)


def open_teachers(config: TrainConfig, source: Source | None = None) -> Teachers:
    """Opens stores, and reads the settings of live teachers; what costs more is left for Teachers.verify.

    source: the training samples, whose labels class centroids are made by; None in a dry run. Raises ValueError or
    FileNotFoundError, with the teacher's name, for a store that is incomplete or of other views than training draws.
    """
    check_teachers(config.teachers)
    stores: dict[str, TeacherStore] = {}
    models: dict[str, CLIPConfig] = {}
    offers: dict[str, Offer] = {}
    centroids: dict[str, np.ndarray] = {}
    for name, teacher in config.teachers.items():
        with _named(name):
            match teacher:
                case StoreTeacher():
                    stores[name] = _open_store(teacher, config)
                    if config.objective.needs("centroids"):
                        centroids[name] = _centroids(stores[name], source)
                    offers[name] = _offer_of_store(stores[name], config, len(centroids.get(name, ())))
                case LiveTeacher():
                    models[name] = dataclasses.replace(config_of(teacher.model), dtype=teacher.dtype)
                    offers[name] = _offer_of_model(models[name], config)
                case AverageTeacher():
                    offers[name] = _offer_of_model(config.model, config)
    _check_same_views(stores)
    taught = Taught(
        stores=stores,
        live={name: eval_target(model) for name, model in models.items()},
        synthetic=config.objective.needs("synthetic"),
        label=config.objective.needs("label"),
    )
    return Teachers(config=config, offers=offers, taught=taught, centroids=centroids, models=models)


class Filling:
    """Puts `targets` into batches: from what the loader brought, or by running a model.

    identities: what a run that goes on must find unchanged, by the teacher's name: hashes of its weights, and of its store's
    manifest, which holds the checksums of all that is stored.
    """

    def __init__(self, teachers: Teachers, plan: Plan):
        self._config = teachers.config
        whole = replicated(plan.mesh)
        scales = {name: teacher.scale for name, teacher in plan.config.teachers.items() if teacher.scale}
        self._scales = {name: jax.device_put(np.float32(scale), whole) for name, scale in scales.items()}
        self.identities: dict[str, dict[str, str]] = {}
        self._stored: dict[str, dict[str, jax.Array]] = {}
        for name, store in teachers.taught.stores.items():
            own = store.manifest.teacher
            manifest = files.digest(str(store.folder / MANIFEST))
            self.identities[name] = {"weights": own.weights_hash, "manifest": manifest}
            constants = {"scale": np.exp(np.float32(own.logit_scale)), "bias": np.float32(own.logit_bias)}
            self._stored[name] = jax.device_put(constants, whole)
            if name in teachers.centroids:
                self._stored[name]["centroids"] = jax.device_put(teachers.centroids[name].astype(np.float32), whole)
        self._live: dict[str, Any] = {}
        for name in teachers.models:
            teacher = plan.config.teachers[name]
            assert isinstance(teacher, LiveTeacher)
            with _named(name):
                params = open_weights(teacher.model).params
                self.identities[name] = {"weights": tree.weights_hash(params)}
                self._live[name] = _placed(params, plan, teacher)
        self._runs = {name: _run(model, plan) for name, model in teachers.models.items()}
        self._own = _run(plan.config.model, plan)

    def __call__(self, batch: dict[str, Any], state: TrainState) -> dict[str, Any]:
        """A global batch with `targets` in place of `teachers`; the state before its step."""
        if not self._config.teachers:
            return batch
        brought = batch.get("teachers", {})
        targets: dict[str, Targets] = {}
        for name, teacher in self._config.teachers.items():
            match teacher:
                case StoreTeacher():
                    given = brought[name]
                    told = Targets(image=given["image"], text=given.get("text"), **self._stored[name])
                    told = dataclasses.replace(told, synthetic=given.get("synthetic"))
                case LiveTeacher():
                    told = self._runs[name](self._live[name], brought[name])
                case AverageTeacher():
                    assert state.ema is not None
                    own = {key: batch[key] for key in ("image", "text", "synthetic") if key in batch}
                    told = self._own(towers_of(settled(state.ema)), own)
            if name in self._scales:
                told = dataclasses.replace(told, scale=self._scales[name])
            targets[name] = told
        rest = {key: value for key, value in batch.items() if key != "teachers"}
        return rest | {"targets": targets}


def _run(model: CLIPConfig, plan: Plan) -> Any:
    """jit of (parameters, inputs) -> Targets, whose rows lie as the batch's do; in as many parts as the student's."""
    mesh, parts = plan.mesh, plan.config.accumulate
    rows, whole = sharding.batch_sharding(mesh), replicated(mesh)

    def run(params: Any, given: Mapping[str, jax.Array]) -> Targets:
        clip = bind(model, jax.tree.map(jax.lax.stop_gradient, params))

        def embed(piece: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
            with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
                texts = {name: clip.encode_text(piece[name]) for name in ("text", "synthetic") if name in piece}
                return {"image": clip.encode_image(piece["image"])} | texts

        wanted = {name: given[name] for name in ("image", "text", "synthetic") if name in given}
        pieces = wanted if parts == 1 else cut_rows(wanted, parts, mesh)
        embedded = embed(pieces) if parts == 1 else joined_rows(jax.lax.map(embed, pieces), mesh)
        return Targets(**embedded, scale=clip.scale(), bias=clip.bias())

    at: dict[str, Any] = {"image": rows, "text": rows, "synthetic": rows, "scale": whole, "bias": whole}
    return jax.jit(run, out_shardings=Targets(**at))


def _placed(params: Any, plan: Plan, teacher: LiveTeacher) -> Any:
    """A live teacher's weights in its dtype, cut over the mesh by the student's general rule.

    Its temperature stays in f32: in bf16, a factor of 100 would be one of 98.9.
    """
    weights = jax.tree.map(lambda leaf: np.asarray(leaf, jnp.dtype(teacher.dtype) if leaf.ndim else np.float32), params)
    mesh = dataclasses.replace(plan.config.mesh, rules=())
    return jax.device_put(weights, parameter_shardings(weights, plan.mesh, mesh))


def _open_store(teacher: StoreTeacher, config: TrainConfig) -> TeacherStore:
    store = TeacherStore(Path(teacher.path), verify=False)
    views, training = store.manifest.views, config.read.augmentation
    if views is not None and views.augmentation != training and not teacher.any_view:
        raise ValueError(
            f"{teacher.path} holds views made by {views.augmentation}, but training augments by {training}; set "
            "config.read.augmentation to the store's, or embed again with this config"
        )
    if views is None and training is not None and not teacher.any_view:
        raise ValueError(
            f"{teacher.path} holds embeddings of plain images, but training augments them; set "
            "config.read.augmentation=None, embed again with --views, or accept the difference with any_view=True"
        )
    return store


def _offer_of_store(store: TeacherStore, config: TrainConfig, classes: int) -> Offer:
    manifest = store.manifest
    return Offer(
        embed_dim=manifest.teacher.embed_dim,
        text=manifest.captions,
        synthetic=manifest.captions and config.objective.needs("synthetic"),
        has_bias=manifest.teacher.logit_bias != 0,
        classes=classes,
    )


def _offer_of_model(model: CLIPConfig, config: TrainConfig) -> Offer:
    has_bias, synthetic = model.init_logit_bias is not None, config.objective.needs("synthetic")
    return Offer(embed_dim=model.embed_dim, synthetic=synthetic, has_bias=has_bias)


def _check_same_views(stores: Mapping[str, TeacherStore]) -> None:
    """Raises ValueError where two stores hold other views: one image of a batch cannot be both."""
    viewed = {name: store for name, store in stores.items() if store.manifest.views is not None}
    for name, store in viewed.items():
        first = next(iter(viewed))
        if differing := view_differences(viewed[first].manifest, store.manifest):
            raise ValueError(
                f"teachers.{first} and teachers.{name} hold embeddings of other views ({'; '.join(differing)}); embed with "
                "the same --views and --seed"
            )


def _centroids(store: TeacherStore, source: Source | None) -> np.ndarray:
    """Of each class of the source, from the stored images of its first samples; zeros in a dry run."""
    if source is None:
        return np.zeros((1, store.manifest.teacher.embed_dim), np.float32)
    if not source.classes:
        raise ValueError(f"source {source.name!r} has no classes; centroids need labelled samples")
    uids, labels = first_samples(source, _SEARCHED)
    rows = store.rows(uids)
    kept = rows >= 0
    images = store.image(rows[kept], np.zeros(int(kept.sum()), np.int64))
    return class_centroids(images, labels[kept], len(source.classes), first=_SEARCHED)


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    """Errors say whose teacher they are about."""
    try:
        yield
    except (ValueError, FileNotFoundError) as error:
        kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
        raise kind(f"teachers.{name}: {error}") from error

"""The training step of a config, compiled for a pod that need not be there, and what is read off the compiled program."""

import dataclasses
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from clip_jax import sharding, tree
from clip_jax.experiment import Plan, TrainConfig
from clip_jax.models.clip import CLIPConfig, abstract_params
from clip_jax.objectives import Features, objective
from clip_jax.plan.collectives import Collective, collectives
from clip_jax.plan.hlo import parse
from clip_jax.plan.products import product_cost
from clip_jax.plan.traffic import cycles, hbm_bytes
from clip_jax.projections import DISTILL
from clip_jax.teachers import LiveTeacher, Offer, TeacherConfig

_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compiled:
    """Figures of one compiled step; bytes and `*_flops` but for `products` are one device's.

    parameters, optimizer, average, batch: what goes into the step, counted on the abstract arrays and their placement.
    teachers: weights of live ones, counted alike, which lie beside it. temporaries, code: the compiler's own count:
    activations, gradients, the loss's matrices and buffers at their peak. loss: temporaries of the objective with its
    gradient, compiled alone. products: FLOPs over all devices, counted on the traced
    program: loops by their lengths, recomputation too. xla_flops: XLA's own count, loops once. hbm: bytes moved in a step;
    where the program is not the pod's own, those of the products' operands and results and of the update. cycles: the TPU
    compiler's estimate of its own program, 0 elsewhere. needed: bytes, where the compiler refused for lack of memory; all that
    follows from the program is 0 then.
    """

    kind: str
    devices: int
    mesh: dict[str, int]
    seconds: float
    parameters: int
    optimizer: int
    average: int
    batch: int
    products: int
    teachers: int = 0
    temporaries: int = 0
    code: int = 0
    loss: int = 0
    xla_flops: float = 0.0
    hbm: int = 0
    cycles: int = 0
    collectives: tuple[Collective, ...] = ()
    needed: int = 0

    @property
    def total(self) -> int:
        """Bytes a device needs at once; where the compiler refused, at least."""
        given = self.parameters + self.optimizer + self.average + self.batch + self.teachers
        return given + self.temporaries + self.code if not self.needed else max(given, self.needed + self.teachers)

    @property
    def split(self) -> dict[str, int]:
        """An estimate of what the temporaries are: one gradient, f32 and placed as the parameters are; the loss as it is by
        itself; and activations with all else, the rest. What lies elsewhere at the peak, or twice, shifts between them."""
        gradients = min(self.parameters, self.temporaries)
        loss = min(self.loss, self.temporaries - gradients)
        return {"activations": self.temporaries - gradients - loss, "gradients": gradients, "loss": loss}


def compile_step(
    config: TrainConfig,
    offers: Mapping[str, Offer],
    devices: Sequence[Any],
    places: Sequence[Sequence[int]],
    rings: Sequence[int],
    live: Mapping[str, CLIPConfig] | None = None,
) -> Compiled:
    """Compiles it over `devices`, which lie at `places`; allocates nothing. rings: as plan.collectives takes them.

    live: models of live teachers, by name; without them they count nothing.
    Raises ValueError for whatever in the config cannot work.
    """
    plan = Plan(config, offers, devices)
    place_of = {device.id: place for device, place in zip(devices, places, strict=True)}
    state, at, began = plan.state, plan.shardings, time.perf_counter()
    platform = devices[0].platform
    traced = plan.step.trace(state, plan.batch())
    cost = product_cost(traced.jaxpr)
    known: dict[str, Any] = {
        "kind": devices[0].device_kind,
        "devices": len(devices),
        "mesh": dict(plan.mesh.shape),
        "parameters": tree.bytes_per_device(state.params, at.params),
        "optimizer": tree.bytes_per_device(state.opt_state, at.opt_state),
        "average": tree.bytes_per_device(state.ema, at.ema),
        "batch": sum(_bytes_of_shard(leaf) for leaf in jax.tree.leaves(plan.batch())),
        "teachers": sum(_teacher_bytes(plan, config.teachers[name], model) for name, model in (live or {}).items()),
        "products": cost.flops,
    }
    program = _compiled(traced, platform)
    if isinstance(program, int):
        return Compiled(**known, needed=program, seconds=time.perf_counter() - began)
    memory = program.memory_analysis()
    parsed = parse(_text(program))
    order = [place_of[device.id] for device in plan.mesh.devices.flat]
    loss = _compiled(_loss(plan), platform)
    return Compiled(
        **known,
        seconds=time.perf_counter() - began,
        temporaries=memory.temp_size_in_bytes,
        code=memory.generated_code_size_in_bytes,
        loss=loss if isinstance(loss, int) else loss.memory_analysis().temp_size_in_bytes,
        xla_flops=float(program.cost_analysis().get("flops", 0.0)),
        hbm=hbm_bytes(parsed) if platform == "tpu" else cost.bytes // len(devices) + 2 * _updated(known),
        cycles=cycles(parsed),
        collectives=tuple(collectives(parsed, dict(plan.mesh.shape), order, rings)),
    )


def _compiled(traced: Any, platform: str) -> Any:
    """The executable, or the bytes it would need where the compiler says that these are not there."""
    try:
        return traced.lower(lowering_platforms=(platform,)).compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return needed_bytes(str(error))


def _text(program: Any) -> str:
    """Raises ValueError where jaxlib cannot read what a libtpu of another time wrote."""
    try:
        return program.as_text()
    except jax.errors.JaxRuntimeError as error:
        raise ValueError(
            f"jax {jax.__version__} cannot read the compiler's program ({str(error).splitlines()[0]}): libtpu must be the one "
            'that belongs to this jax; pip install "clip_jax[plan]" finds it'
        ) from error


def needed_bytes(message: str) -> int:
    """Bytes that a refusal for lack of HBM names: the largest of its sizes, "(24.81G) exceeds available HBM (15.75G)" or
    "in memory space hbm. Used 21.95G of 15.48G hbm".

    Raises ValueError where it names another memory, such as vmem or smem, which no smaller batch and no more chips enlarge, or
    no size.
    """
    sizes = [float(size) * _UNITS[unit] for size, unit in re.findall(r"(\d+(?:\.\d+)?)([KMGT])\b", message)]
    space = re.search(r"memory space (\w+)", message)
    if not sizes or (space[1].lower() != "hbm" if space else not re.search(r"\bhbm\b", message, re.IGNORECASE)):
        where = f"{space[1]}, memory of the chip other than HBM" if space else "something else than HBM"
        raise ValueError(
            f"the compiler ran out of {where}, so that it is not known whether this fits; another objective.form or "
            f"model.running.remat may do. It said: {message.splitlines()[0][:500]}"
        )
    return int(max(sizes))


def _updated(known: dict[str, Any]) -> int:
    """Bytes of what an update reads and writes."""
    return sum(known[name] for name in ("parameters", "optimizer", "average"))


def _bytes_of_shard(leaf: Any) -> int:
    shape = leaf.sharding.shard_shape(leaf.shape)
    return jax.ShapeDtypeStruct(shape, leaf.dtype).size * leaf.dtype.itemsize


def _teacher_bytes(plan: Plan, teacher: TeacherConfig, model: CLIPConfig) -> int:
    """Of a live teacher's weights on a device: in its dtype but for scalars, cut as the student's are but for rules."""
    assert isinstance(teacher, LiveTeacher)
    params = abstract_params(model)
    at = sharding.parameter_shardings(params, plan.mesh, dataclasses.replace(plan.config.mesh, rules=()))
    kept = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.dtype(teacher.dtype if leaf.ndim else jnp.float32)), params
    )
    return tree.bytes_per_device(kept, at)


def _loss(plan: Plan) -> Any:
    """The objective and its gradient to the student's embeddings, traced alone."""
    config, goal, size = plan.config, plan.config.objective, plan.config.batch_size
    rows, whole = sharding.batch_sharding(plan.mesh), sharding.replicated(plan.mesh)
    embeddings = jax.ShapeDtypeStruct((size, config.model.embed_dim), jnp.dtype(config.model.dtype), sharding=rows)
    number = jax.ShapeDtypeStruct((), jnp.float32, sharding=whole)
    batch = plan.batch()
    wanted = {name for name in ("synthetic", "masked") if goal.needs(name)}
    learned = dict.fromkeys({"image", "text"} | wanted, embeddings) | {"scale": number, "bias": number}

    def value(learned: Any, label: Any, targets: Any, heads: Any, step: jax.Array) -> jax.Array:
        student = Features(**learned, label=label)
        given = {"teachers": config.teachers, "targets": targets, "heads": heads}
        return objective(goal, plan.mesh, student, **given, step=step)[0]

    heads = plan.state.params.get(DISTILL, {})
    return jax.jit(jax.grad(value)).trace(learned, batch.get("label"), batch.get("targets", {}), heads, plan.state.step)

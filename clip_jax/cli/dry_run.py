"""What a config would do, before it does it: parameters, placement, objective, memory, schedule."""

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from clip_jax import tree
from clip_jax.experiment import Plan
from clip_jax.models.clip import count_parameters
from clip_jax.models.flops import macs_per_pair
from clip_jax.objectives import Ramp, serving
from clip_jax.optim import decay_mask, learning_rate, trained_mask
from clip_jax.sharding import batch_shards
from clip_jax.teachers import KINDS, AverageTeacher, StoreTeacher, TeacherConfig


def print_plan(plan: Plan, console: Console) -> None:
    """Prints it all; compiles the step, allocates nothing."""
    console.print(_parameters(plan))
    config = plan.config
    mesh = " x ".join(f"{name} {size}" for name, size in plan.mesh.shape.items() if size > 1) or "of one device"
    rows = config.batch_size // batch_shards(plan.mesh)
    parts = f", in {config.accumulate} parts" if config.accumulate > 1 else ""
    console.print(
        f"\n{count_parameters(config.model):,} parameters  ·  {macs_per_pair(config.model) / 1e9:.2f} GMACs a pair  ·  mesh "
        f"{mesh}, {plan.mesh.devices.size} {plan.mesh.devices.flat[0].device_kind}  ·  batch {config.batch_size:,}, "
        f"{rows:,} a device{parts}\n"
    )
    console.print(_objective(plan))
    if config.teachers:
        console.print(_teachers(plan))
    console.print(_memory(plan))
    console.print(_schedule(plan))


def _parameters(plan: Plan) -> Table:
    view = Table(title="Parameters", box=None, pad_edge=False, title_justify="left")
    for name in ("path", "shape", "elements", "placed", "decay", "trained"):
        view.add_column(name, justify="right" if name == "elements" else "left")
    params = plan.state.params
    rows = zip(
        tree.paths(params),
        jax.tree.leaves(params),
        jax.tree.leaves(decay_mask(params)),
        jax.tree.leaves(trained_mask(plan.config.optim, params)),
        strict=True,
    )
    for path, leaf, decays, trained in rows:
        axes = ", ".join(str(axis) for axis in leaf.sharding.spec) or "copied"
        marks = ["yes" if mark else "·" for mark in (decays, trained)]
        view.add_row(path, str(tuple(leaf.shape)), f"{np.prod(leaf.shape, dtype=int):,}", axes, *marks)
    return view


def _objective(plan: Plan) -> Table:
    goal, teachers = plan.config.objective, plan.config.teachers
    view = Table(title="Objective", box=None, pad_edge=False, title_justify="left")
    for name in ("loss", "weight", "against"):
        view.add_column(name)
    for name, term in goal.used.items():
        weight = goal.weights[name]
        said = f"{weight:g}"
        if isinstance(weight, Ramp):
            said = f"{weight.start:g} to {weight.end:g}, steps {weight.first:,} to {weight.last:,}"
        view.add_row(name, said, "the pairs" if term.of == "student" else ", ".join(serving(name, teachers)))
    if goal.form != "gathered":
        view.caption = f"{goal.form}, {goal.chunk:,} columns of logits at a time"
    return view


def _teachers(plan: Plan) -> Table:
    view = Table(title="\nTeachers", box=None, pad_edge=False, title_justify="left")
    for name in ("teacher", "kind", "from", "embedding", "weight", "scale"):
        view.add_column(name)
    kinds = {cls: kind for kind, cls in KINDS.items()}
    for name, teacher in plan.config.teachers.items():
        size, scale = f"{plan.offers[name].embed_dim:,}", f"{teacher.scale:g}" if teacher.scale else "its own"
        view.add_row(name, kinds[type(teacher)], _place(teacher), size, f"{teacher.weight:g}", scale)
    return view


def _place(teacher: TeacherConfig) -> str:
    match teacher:
        case StoreTeacher():
            return teacher.path
        case AverageTeacher():
            return "the student"
        case _:
            return teacher.model


def _memory(plan: Plan) -> Table:
    view = Table(title="\nMemory a device", box=None, pad_edge=False, title_justify="left")
    view.add_column("what")
    view.add_column("MB", justify="right")
    state, at = plan.state, plan.shardings
    parts = {
        "parameters": tree.bytes_per_device(state.params, at.params),
        "optimizer": tree.bytes_per_device(state.opt_state, at.opt_state),
        "average": tree.bytes_per_device(state.ema, at.ema),
        "batch": sum(tree.bytes_of(leaf) for leaf in plan.batch().values()) // batch_shards(plan.mesh),
    }
    analysis = plan.step.lower(plan.state, plan.batch()).compile().memory_analysis()
    if analysis is not None:
        parts["activations, gradients, temporaries (compiled step)"] = analysis.temp_size_in_bytes
    for what, size in (parts | {"total": sum(parts.values())}).items():
        view.add_row(what, f"{size / 1e6:,.1f}")
    return view


def _schedule(plan: Plan) -> Table:
    config = plan.config
    rate = learning_rate(config.optim, config.steps)
    view = Table(title="\nSchedule", box=None, pad_edge=False, title_justify="left")
    for name in ("step", "learning rate", "pairs seen"):
        view.add_column(name, justify="right")
    marks = {0, config.optim.warmup_steps, config.steps - 1} | {config.steps * i // 4 for i in (1, 2, 3)}
    for step in sorted(mark for mark in marks if mark < config.steps):
        view.add_row(f"{step:,}", f"{float(rate(step)):.3g}", f"{step * config.batch_size:,}")
    return view

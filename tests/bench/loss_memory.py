"""What a loss over a huge batch takes in its ring form: `make bench-loss` writes docs/loss_memory.json and docs/loss_memory.md.

Compiled for TPU chips that need not be there, loss and gradients of 1,048,576 pairs of 512 numbers; and a batch of 65,536 that
really runs, on eight virtual CPU devices. Each row has a process of its own and takes minutes; rows that are there stay.
"""

import argparse
import importlib
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from clip_jax.losses.collect import GlobalBatch
from clip_jax.losses.contrastive import info_nce
from clip_jax.losses.pairs import Pairs
from clip_jax.losses.sigmoid import sigmoid_pairs
from clip_jax.losses.similarities import crd
from clip_jax.plan.child import environment
from clip_jax.plan.chips import parse_pod
from clip_jax.sharding import BATCH, MeshConfig, make_mesh

RESULTS, PAGE = Path("docs/loss_memory.json"), Path("docs/loss_memory.md")
SIZE, CHUNK = 512, 1024
LOSSES = {
    "info_nce": lambda a, b, batch: info_nce(a, batch=batch),
    "sigmoid": lambda a, b, batch: sigmoid_pairs(a, batch=batch),
    "crd": lambda a, b, batch: crd(a, b, batch=batch),
}
PODS = {"v5e:16x16": 2**20, "v5e:4x8": 2**20}
RUN, RUN_PAIRS = "here", 2**16
ROWS = [*((where, loss) for where in PODS for loss in LOSSES), (RUN, "info_nce")]


def main() -> None:
    """All rows that are missing, then the page."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.loss_memory", description=__doc__)
    parser.add_argument("--row", nargs=2, metavar=("WHERE", "LOSS"), help="one row, in this process, as JSON")
    parser.add_argument("--page", action="store_true", help="only the page, from the rows that are there")
    options = parser.parse_args()
    if options.row:
        where, loss = options.row
        print(json.dumps(_run(loss) if where == RUN else _compile(where, loss)))
        return
    rows: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for where, loss in [] if options.page else ROWS:
        if (name := f"{where} {loss}") not in rows:
            print(f"{name} ...", flush=True)
            rows[name] = _in_child(where, loss)
            RESULTS.write_text(json.dumps(rows, indent=1) + "\n")
    PAGE.write_text(_page(rows))
    print(f"wrote {PAGE}")


def _in_child(where: str, loss: str) -> Any:
    command = [sys.executable, "-m", "tests.bench.loss_memory", "--row", where, loss]
    pod = parse_pod("h100:8" if where == RUN else where)  # whose environment is eight virtual CPU devices
    return json.loads(
        subprocess.run(command, env=environment(pod) | {"PJRT_NPROC": "64"}, check=True, stdout=subprocess.PIPE).stdout
    )


def _loss_and_gradients(loss: str, devices: Any) -> Any:
    """(mesh, jitted (x, y, s, x^, y^, s^) -> the loss and its gradients in x, y and s)."""
    mesh = make_mesh(MeshConfig(), devices)

    def local(*args: jax.Array) -> jax.Array:
        return LOSSES[loss](Pairs(*args[:3]), Pairs(*args[3:]), GlobalBatch(axes=BATCH, form="ring", chunk=CHUNK))

    cuts = (jax.P(BATCH), jax.P(BATCH), jax.P()) * 2
    cut = jax.shard_map(local, mesh=mesh, in_specs=cuts, out_specs=jax.P())
    return mesh, jax.jit(jax.value_and_grad(cut, argnums=(0, 1, 2)))


def _compile(where: str, loss: str) -> dict[str, Any]:
    topologies = importlib.import_module("jax.experimental.topologies")
    devices = topologies.get_topology_desc(platform="tpu", topology_name=where).devices
    mesh, step = _loss_and_gradients(loss, devices)
    at = {axes: jax.sharding.NamedSharding(mesh, jax.P(*axes)) for axes in ((BATCH,), ())}
    x = jax.ShapeDtypeStruct((PODS[where], SIZE), jnp.float32, sharding=at[(BATCH,)])
    s = jax.ShapeDtypeStruct((), jnp.float32, sharding=at[()])
    began = time.perf_counter()
    compiled = step.trace(x, x, s, x, x, s).lower(lowering_platforms=("tpu",)).compile()
    temporaries = compiled.memory_analysis().temp_size_in_bytes
    return {
        "pairs": PODS[where],
        "chips": len(devices),
        "temporaries": temporaries,
        "seconds": time.perf_counter() - began,
    }


def _run(loss: str) -> dict[str, Any]:
    mesh, step = _loss_and_gradients(loss, jax.devices())
    at = jax.sharding.NamedSharding(mesh, jax.P(BATCH))
    rng = np.random.default_rng(0)

    def rows() -> jax.Array:
        x = rng.standard_normal((RUN_PAIRS, SIZE), np.float32)
        return jax.device_put(x / np.linalg.norm(x, axis=1, keepdims=True), at)

    args = (rows(), rows(), np.float32(1 / 0.07)) * 2
    compiled = step.lower(*args).compile()
    began = time.perf_counter()
    value, grads = jax.block_until_ready(compiled(*args))
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(grads))
    return {
        "pairs": RUN_PAIRS,
        "chips": len(jax.devices()),
        "temporaries": compiled.memory_analysis().temp_size_in_bytes,
        "seconds": time.perf_counter() - began,
        "value": float(value),
    }


def _page(rows: dict[str, Any]) -> str:
    lines = [
        "# Memory of the losses",
        "",
        f"Loss and gradients in the ring form (`objective.form`), embeddings of {SIZE} numbers in float32, {CHUNK:,} columns of",
        "logits at a time. Written by `make bench-loss`; temporaries are what the compiled program needs on a chip beside its",
        "inputs and results. The aims were at most 300 MB for 256 chips, and 1.44 GB for 32 chips, the figure that Inf-CL",
        "reports of 32 A800.",
        "",
        "| where | chips | batch | loss | temporaries a chip | |",
        "| --- | --: | --: | --- | --: | --- |",
    ]
    for name, row in rows.items():
        where, loss = name.split()
        ran = where == RUN
        told = (
            f"ran in {row['seconds']:.0f} s, value {row['value']:.4f}" if ran else f"compiled in {row['seconds']:.0f} s"
        )
        place = "virtual CPU devices" if ran else f"{where}"
        size = f"{row['temporaries'] / 1e6:,.1f} MB"
        lines.append(f"| {place} | {row['chips']} | {row['pairs']:,} | `{loss}` | {size} | {told} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()

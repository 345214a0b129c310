"""The house has floors: a module imports only from lower ones, and the ground floors stay light."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "clip_jax"

# Lowest first. A new module gets a place here; one that does not fit is a sign to think about what it does.
FLOORS: tuple[tuple[str, ...], ...] = (
    (  # what a sample is, what a tree is, text to ids, figures over scores; packages hold nothing but their docstring
        *(
            "",
            "cli",
            "data",
            "evals",
            "export",
            "interop",
            "interop.files",
            "interop.layouts",
            "interop.proof",
            "losses",
            "models",
            "plan",
            "search",
        ),
        "export.runner",
        *(
            "tree",
            "tokenizer",
            "metrics",
            "ranking",
            "durable",
            "typed",
            "preemption",
            "coordination",
            "proof",
            "state",
            "teachers",
        ),
        *(
            "data.source",
            "data.files",
            "data.mapped",
            "data.tars",
            "data.tfds_fields",
            "data.glyph_words",
            "data.views",
            "data.clip_retrieval_files",
        ),
        *("evals.prompts", "evals.logistic", "interop.proof.outputs", "interop.proof.reference_math"),
        *("losses.collect", "losses.reductions", "losses.sizes", "models.heads", "clock", "profiling"),
        *("search.coarse", "search.schema"),
        *("plan.chips", "plan.hlo", "plan.products"),
    ),
    ("agreement", "peers", "search.exact"),  # of processes
    (  # placement, losses, optimizers, checkpoints, single sources
        *(
            "tokenizer_file",
            "sharding",
            "optim",
            "checkpoint",
            "recovery",
            "interop.rules",
            "losses.logits",
            "export.half",
        ),
        *("writers", "data.teacher_shards", "plan.collectives", "plan.traffic", "cli.start", "search.store"),
        *(
            "data.images",
            "data.centroids",
            "data.digits",
            "data.table",
            "data.tfds",
            "data.mixture",
            "data.tar_index",
            "data.glyph_names",
        ),
    ),
    ("losses.tiles", "accumulate", "search.approximate", "interop.packing"),
    ("losses.pairs", "data.teacher_manifest"),
    (
        *("losses.contrastive", "losses.sigmoid", "losses.robust", "losses.similarities", "losses.anchors"),
        *("losses.features", "losses.gradients", "losses.relational", "losses.dark", "losses.centroids"),
        "interop.files.torchscript",
        "interop.files.torch_files",
        "interop.files.hub",
        "interop.proof.libraries",
        "data.teacher_index",
    ),
    ("losses.fusion", "losses.confidence", "data.teacher_check", "data.clip_retrieval"),
    (
        *(
            "interop.proof.reference_resnet",
            "interop.proof.reference_huggingface",
            "interop.proof.reference_big_vision",
        ),
        "data.teacher_store",
    ),
    ("interop.files.tensors", "interop.proof.reference_clip"),
    ("interop.proof.reference",),
    ("models.layers", "data.taught", "data.webdataset", "data.glyph_fonts"),
    ("models.vit", "models.resnet", "models.text", "data.glyphs", "data.pipeline"),  # one tower each
    (
        "models.clip",
        "models.cut",
        "data.sources",
        "data.contents",
        "data.teacher_items",
        "interop.proof.samples",
        "run_folder",
        "rewinds",
    ),
    (
        "export.graph",
        "inherit",
        "models.masks",
        "models.presets_siglip",
        "models.flops",
        "models.size",
        "models.towers",
        "inputs",
        "projections",
        "interop.layouts.openai",
    ),
    (
        "export.litert",
        "export.onnx",
        "export.program",
        "models.sparsity",
        "models.presets",
        "interop.card_tables",
        "interop.scrub",
        "terms",
        "interop.proof.gate",
        "interop.proof.prepared",
        "interop.layouts.open_clip_trunks",
        "interop.layouts.huggingface_images",
    ),
    (
        "drafts",
        "export.coreml",
        "masking",
        "shrink",
        "objectives",
        "evals.embed",
        "evals.color_words",
        "evals.reorder",
        "evals.aro_relations",
        "model",
        "interop.layouts.huggingface_config",
        "interop.layouts.huggingface_files",
    ),
    (
        "export.coreml_file",
        "export.samples",
        "step",
        "objective_check",
        "interop.layouts.huggingface",
        "interop.layouts.big_vision",
    ),
    ("evals.protocol", "evals.speed", "export.measure"),
    ("evals.lists",),
    (
        "evals.retrieval",
        "evals.zero_shot",
        "evals.linear_probe",
        "evals.showcase",
        "evals.agreement",
        "evals.colors",
        "evals.senses",
        "evals.unseen",
        "evals.winoground",
        "evals.fairface",
        "evals.relations",
        "evals.order",
    ),  # one protocol a file
    ("evals.clip_datasets",),
    ("evals.robustness",),
    ("evals.suite", "evals.side_by_side"),
    ("experiment", "plain", "evals.suites", "evals.clip_benchmark"),
    (
        "runs",
        "store_plan",
        "cli.configs",
        "cli.dry_run",
        "plan.compiled",
        "interop.layouts.open_clip_config",
        "interop.card",
        "interop.folder",
        "export.record",
    ),
    ("export.safetensors", "report.read", "interop.layouts.open_clip", "store_writing", "plan.child", "plan.times"),
    ("interop.recognize", "interop.write", "extract", "store_import", "plan.fit", "export.formats", "export.card"),
    ("loading", "subjects", "init_from", "interop.convert", "masked_run", "students", "plan.words"),
    ("teaching", "search.indexing", "export.folder"),
    ("limits", "search.engine"),
    ("train", "search.server"),
    ("report.svg", "report.render", "report.figures"),
    ("report.words", "report.plots", "report.scatter", "report.dots"),
    ("report.curves", "report.beside.read", "weaknesses"),
    ("report.page", "report.beside.words", "publishing"),
    ("report", "report.beside.drawings", "report.exports", "report.evaluations"),
    ("report.beside.page",),
    ("report.beside",),
    (  # one command a file
        *(
            "cli.train",
            "cli.evaluate",
            "cli.report",
            "cli.convert",
            "cli.export",
            "cli.publish",
            "cli.embed",
            "cli.shrink",
            "cli.plan",
            "cli.search",
        ),
    ),
    ("__main__",),
)
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}
MODULES = {
    ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix("__init__").rstrip("."): file
    for file in sorted(ROOT.rglob("*.py"))
}


def imports(name: str) -> Iterator[tuple[str, bool]]:
    """(absolute name of each imported module, whether it is imported as soon as this one is)."""
    parsed = ast.parse(MODULES[name].read_text())
    at_once = {id(node) for node in parsed.body}
    functions = (node for node in ast.walk(parsed) if isinstance(node, ast.FunctionDef))
    later = {id(node) for function in functions for node in ast.walk(function)}
    for node in ast.walk(parsed):
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) in at_once) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: write imports from the root, not relative ones"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if own(inner) in MODULES else node.module or "", id(node) in at_once
        elif isinstance(node, ast.Call) and "import_module" in ast.unparse(node.func):
            yield from (
                (str(given.value), id(node) not in later) for given in node.args if isinstance(given, ast.Constant)
            )


def own(module: str) -> str | None:
    """`clip_jax.a.b` -> `a.b`, None for modules of others."""
    return module.removeprefix("clip_jax").lstrip(".") if module.split(".")[0] == "clip_jax" else None


def test_every_module_has_one_floor():
    assert set(MODULES) == set(FLOOR)
    assert len(FLOOR) == sum(map(len, FLOORS))


@pytest.mark.parametrize("name", MODULES)
def test_imports_go_down(name):
    for module, at_once in imports(name):
        used = own(module)
        door = name == "" and not at_once  # `clip_jax.load` is imported when it is asked for
        if used is not None and not door:
            assert FLOOR[used] < FLOOR[name], f"{name} (floor {FLOOR[name]}) imports {used} (floor {FLOOR[used]})"


# Which modules may import a heavy package, and whether they may as soon as they are imported themselves.
@pytest.mark.parametrize(
    ("package", "where", "at_once"),
    [
        ("flax", ("models",), True),
        ("matplotlib", ("report",), True),
        ("torch", ("interop",), False),
        ("tensorflow", (), False),
        ("wandb", ("writers",), False),
        ("ml_collections", ("cli",), True),
        ("coremltools", ("export",), False),
        ("jax2onnx", ("export",), False),
        ("litert_converter", ("export",), False),
        ("numkong", ("search",), False),
        ("onnxruntime", ("export",), False),
        ("usearch", ("search",), False),
    ],
)
def test_heavy_packages_stay_where_they_belong(package, where, at_once):
    users = {(name, now) for name in MODULES for module, now in imports(name) if module.split(".")[0] == package}
    assert not {name for name, _ in users if not name.startswith(where)}
    assert at_once or not {name for name, now in users if now}


def test_worker_processes_need_no_jax():
    for name in MODULES:
        if name.startswith(("data", "tokenizer", "metrics")):
            assert not {module for module, _ in imports(name) if module.split(".")[0] in ("jax", "flax", "optax")}, name


def run_python(code: str) -> str:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=ROOT.parent, check=True, capture_output=True, text=True).stdout.strip()


def test_import_clip_jax_is_light():
    seconds, heavy = run_python(
        "import sys, time; began = time.perf_counter(); import clip_jax; print(time.perf_counter() - began, "
        "sorted({m.split('.')[0] for m in sys.modules} & {'jax', 'numpy', 'flax', 'torch', 'tensorflow'}))"
    ).split(" ", 1)
    assert float(seconds) < 0.3
    assert heavy == "[]"


def test_the_pipeline_starts_no_device():
    """Grain itself imports JAX; worker processes must still be free of devices, and of other frameworks."""
    found = run_python(
        "import sys, clip_jax.data.pipeline, clip_jax.data.sources; from jax._src import xla_bridge; "
        "print(xla_bridge.backends_are_initialized(), "
        "sorted({m.split('.')[0] for m in sys.modules} & {'flax', 'optax', 'torch', 'tensorflow', 'matplotlib'}))"
    )
    assert found == "False []"


def test_ranking_waits_for_scipys_statistics():
    assert run_python("import sys, clip_jax.ranking; print('scipy.stats' in sys.modules)") == "False"

"""clip-jax embed: a teacher's embeddings of a data set, written once."""

import contextlib
import time
from pathlib import Path
from typing import Literal, cast

import jax
from absl import flags

from clip_jax.cli.configs import load_config, parse, to_dataclass
from clip_jax.cli.start import define_process_flags, start
from clip_jax.data.clip_retrieval import ClipRetrieval
from clip_jax.data.images import Augmentation
from clip_jax.data.sources import SourceConfig, open_source
from clip_jax.data.teacher_items import ShardedSamples
from clip_jax.data.teacher_manifest import Manifest
from clip_jax.data.teacher_shards import DTYPES
from clip_jax.data.webdataset import WebDatasetConfig
from clip_jax.extract import extract
from clip_jax.loading import load
from clip_jax.peers import watched
from clip_jax.run_folder import CONFIG
from clip_jax.runs import read_config
from clip_jax.store_import import import_embeddings, imported_config
from clip_jax.store_plan import EmbedConfig, plan_store
from clip_jax.store_writing import StoreWriting
from clip_jax.writers import clock

USAGE = """usage: clip-jax embed --model M --data D --store DIR [--views 10] [--nocaptions] [--dtype float32]

Writes the unit embeddings of M, the teacher, for each sample of D into the folder DIR; or goes on where it was stopped.
M: whatever clip_jax.load opens: a run folder, a file or folder of weights, hf-hub:org/repo.
D: a config (configs/X.py[:argument]) or a run folder, whose source and augmentation it takes, or tars with their --name."""


def main(argv: list[str]) -> int:
    """Exit code 0 once the store is finished, whoever finished it."""
    values = flags.FlagValues()
    model = flags.DEFINE_string("model", None, "the teacher", flag_values=values)
    data = flags.DEFINE_string("data", None, "the samples", flag_values=values)
    store = flags.DEFINE_string("store", None, "folder of the embeddings", flag_values=values)
    name = flags.DEFINE_string("name", "", "of the data, where they are tars: that of training", flag_values=values)
    default = EmbedConfig()
    views = flags.DEFINE_integer(
        "views", default.views, "augmented images a sample; 0: the image as evaluation sees it", flag_values=values
    )
    captions = flags.DEFINE_bool("captions", default.captions, "the captions, too", flag_values=values)
    dtype = flags.DEFINE_enum("dtype", default.dtype, DTYPES, "of computing and of what is stored", flag_values=values)
    rows = flags.DEFINE_integer("rows_per_shard", default.rows_per_shard, "samples a file", flag_values=values)
    seed = flags.DEFINE_integer("seed", default.seed, "of the views", flag_values=values)
    batch = flags.DEFINE_integer("batch_size", default.batch_size, "images a device", flag_values=values)
    share = flags.DEFINE_float(
        "max_bad_share", default.max_bad_share, "of samples that may be unreadable", flag_values=values
    )
    retrieval = flags.DEFINE_string(
        "from_clip_retrieval", "", "folder of clip-retrieval's embeddings by M, to import instead", flag_values=values
    )
    define_process_flags(values)
    if extra := parse(values, argv, USAGE):
        raise ValueError(f"unexpected {extra}; see clip-jax embed --help")
    if not (model.value and data.value and store.value):
        raise ValueError("give --model, --data and --store; see clip-jax embed --help")
    config = EmbedConfig(
        views=views.value,
        captions=captions.value,
        dtype=cast(Literal["bfloat16", "float32"], dtype.value),
        rows_per_shard=rows.value,
        seed=seed.value,
        batch_size=batch.value,
        max_bad_share=share.value,
    )
    source, augmentation = samples_of(data.value, name.value or "")
    start(values)
    began, folder = time.monotonic(), Path(store.value)
    with watched(lambda: "start the same command again, it keeps the shards that are written"):
        teacher = load(model.value, dtype=config.dtype)
        samples = ShardedSamples(open_source(source), config.rows_per_shard)
        found = ClipRetrieval(retrieval.value, samples.source) if retrieval.value else None
        if found is not None:
            config = imported_config(config, found, teacher, captions_wanted=bool(values["captions"].present))
        plan = plan_store(teacher, model.value, samples, source, augmentation, config)
        with contextlib.closing(StoreWriting(folder, samples, plan, config.max_bad_share)) as writing:
            if writing.finished:
                said = f"{folder} is finished already: {_content(writing.finished)}"
            else:
                if found is None:
                    extract(teacher, writing)
                else:
                    import_embeddings(found, writing)
                manifest = writing.finish()
                new, seconds = sum(len(samples.of(shard)) for shard in writing.missing), time.monotonic() - began
                pace = f"{new:,} of them now, in {clock(seconds)}, {new / seconds:,.1f} a second"
                said = f"{folder} is finished: {_content(manifest)}; {pace}"
    if jax.process_index() == 0:
        print(said)
    return 0


def _content(manifest: Manifest) -> str:
    size = sum(shard.bytes for shard in manifest.shards) / 1e6
    images, captions = manifest.rows * manifest.image_views, sum(shard.captions for shard in manifest.shards)
    return (
        f"{manifest.rows:,} samples with {images:,} images and {captions:,} captions, {size:,.{1 if size > 1 else 3}f} MB"
        + (f"; {manifest.bad:,} more could not be used" if manifest.bad else "")
    )


def samples_of(data: str, name: str) -> tuple[SourceConfig, Augmentation | None]:
    """The source that `data` names, and how training augments it.

    data: a config file with its argument, a run folder, or tars. name: of tars. Raises ValueError for anything else.
    """
    path = data.partition(":")[0]
    if path.endswith(".py"):
        config = to_dataclass(load_config(data))
    elif (Path(data) / CONFIG).is_file():
        config = read_config(Path(data))
    elif ".tar" in data:
        if not name:
            raise ValueError(f"--data {data} are tars; give --name too, the `name` they have in the training's config")
        return WebDatasetConfig(urls=data, name=name), Augmentation()
    else:
        raise ValueError(f"--data {data} is no config (FILE.py), no run folder and no tars (*.tar); give one of these")
    if name:
        raise ValueError(f"--name {name} is for tars; {data} has a source with a name")
    return config.source, config.read.augmentation

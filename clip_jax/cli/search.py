"""clip-jax search: an index of a folder of pictures, and a local page to search in it."""

import ipaddress
from collections.abc import Callable
from pathlib import Path

from absl import flags
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from clip_jax.cli.configs import parse
from clip_jax.cli.start import prepare
from clip_jax.loading import load
from clip_jax.search.engine import Searcher, pick
from clip_jax.search.indexing import update
from clip_jax.search.server import Server
from clip_jax.search.store import Store

USAGE = """usage: clip-jax search index --model M FOLDER --out I
       clip-jax search serve I [--model M] [--model2 S] [--host 127.0.0.1] [--port 8000]

index: embeds all pictures below FOLDER; again: only what is new or has changed. Damaged files are listed in I/damaged.jsonl.
Another --model adds its embeddings to the same I. serve: a page at http://127.0.0.1:8000 to search by words and pictures;
with --model2 both models side by side."""


def main(argv: list[str]) -> int:
    """Exit code 0 once the index is complete or the server was stopped, 130 where indexing was."""
    values = flags.FlagValues()
    model = flags.DEFINE_string(
        "model", "", "a run, a file or folder of weights, or hf-hub:org/repo", flag_values=values
    )
    model2 = flags.DEFINE_string("model2", "", "serve: a second model of the index, shown beside", flag_values=values)
    out = flags.DEFINE_string("out", "", "index: the folder of the index", flag_values=values)
    host = flags.DEFINE_string("host", "127.0.0.1", "serve: the address to listen at", flag_values=values)
    port = flags.DEFINE_integer("port", 8000, "serve: 0 takes any free one", 0, 65535, flag_values=values)
    given = parse(values, argv, USAGE)
    if len(given) != 2 or given[0] not in ("index", "serve"):
        raise ValueError(f"give index FOLDER or serve I, got {given or 'nothing'}; see clip-jax search --help")
    serving = given[0] == "serve"
    if not serving and not (model.value and out.value):
        raise ValueError("search index needs --model and --out; see clip-jax search --help")
    wrong = ("out",) if serving else ("model2", "host", "port")
    if odd := [name for name in wrong if values[name].present]:
        raise ValueError(f"search {given[0]} takes no --{odd[0]}; see clip-jax search --help")
    prepare()
    console = Console(soft_wrap=True)
    if serving:
        return _serve(console, Path(given[1]), model.value or "", model2.value or "", host.value or "", port.value or 0)
    return _index(console, Path(given[1]), model.value or "", Path(out.value or ""))


def _index(console: Console, folder: Path, source: str, out: Path) -> int:
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder; give the folder that holds the pictures")
    model = load(source)
    store = Store(out, create=True)
    rate = TextColumn("{task.fields[rate]}")
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TaskProgressColumn(),
        rate,
        TimeRemainingColumn(),
    )
    try:
        with Progress(*columns, console=console) as bar:
            pictures, graph = _shown(bar, "indexing"), _shown(bar, "connecting")
            done = update(store, model, source, folder, progress=pictures, connecting=graph)
    except KeyboardInterrupt:
        console.print("stopped; the same command goes on from here")
        return 130
    finally:
        store.close()
    console.print(f"{done.pictures:,} pictures in {out}: {done.added:,} embedded now, {done.gone:,} gone", markup=False)
    if done.damaged:
        console.print(f"{done.damaged:,} damaged files: {out / 'damaged.jsonl'} names them", markup=False)
    return 0


def _shown(bar: Progress, said: str) -> Callable[[int, int], None]:
    """For (done, to do): a line of its own from the first call on."""
    task = bar.add_task(said, total=None, rate="", visible=False)

    def show(done: int, total: int) -> None:
        speed = next(one.speed for one in bar.tasks if one.id == task)
        bar.update(task, completed=done, total=total, visible=True, rate=f"{speed:,.0f} pictures/s" if speed else "")

    return show


def _serve(console: Console, out: Path, source: str, second: str, host: str, port: int) -> int:
    store = Store(out)
    chosen = [pick(store, source)] + ([pick(store, second)] if second else [])
    searchers = [Searcher(store, one, load(one.source)) for one in chosen]
    try:
        server = Server(host, port, store, searchers)
    except OSError as error:
        raise ValueError(f"cannot listen at {host}:{port} ({error.strerror}); give another --host or --port") from error
    if host != "localhost" and not _loopback(host):
        console.print(f"warning: {host} can be reached from other machines, and there is no password", markup=False)
    console.print(f"{store.count():,} pictures at {server.url} (Ctrl-C ends)", markup=False)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        console.print("stopped")
    finally:
        server.server_close()
        store.close()
    return 0


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

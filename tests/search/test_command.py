"""clip-jax search: its flags and what it says."""

import sys

import pytest

from clip_jax import __main__ as entry
from clip_jax.cli import search as cli
from clip_jax.search.indexing import update
from clip_jax.search.store import Store


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give index FOLDER or serve I"),
        (("index", "x"), "needs --model and --out"),
        (("index", "absent", "--model", "m", "--out", "I"), "absent is no folder"),
        (("index", "x", "--model", "m", "--out", "I", "--port", "1"), "search index takes no --port"),
        (("serve", "absent"), "absent is no search index"),
        (("serve", "I", "--out", "J"), "search serve takes no --out"),
        (("serve", "I", "--port", "99999"), "port"),
    ],
)
def test_bad_flags(monkeypatch, capsys, tmp_path, arguments, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["clip-jax", "search", *arguments])
    with pytest.raises(SystemExit) as exit_info:
        entry.main()
    assert exit_info.value.code == 2
    assert message in capsys.readouterr().err


def test_the_command_indexes_an_empty_folder(monkeypatch, capsys, tmp_path, models):
    (tmp_path / "none").mkdir()
    words = [
        "clip-jax",
        "search",
        "index",
        "--model",
        models[0][0],
        str(tmp_path / "none"),
        "--out",
        str(tmp_path / "I"),
    ]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as exit_info:
        entry.main()
    assert exit_info.value.code == 0
    assert "0 pictures" in capsys.readouterr().out
    (tmp_path / "I" / "index.sqlite").write_bytes(b"not a database, but long enough to be looked at" * 30)
    with pytest.raises(ValueError, match="cannot be read as an index"):
        Store(tmp_path / "I")


def test_it_listens_to_this_machine_only_unless_told_otherwise(monkeypatch, capsys, tmp_path, models, folder):
    store = Store(tmp_path / "I", create=True)
    update(store, models[0][1], models[0][0], folder)
    store.close()

    class Listening:
        url = "http://here/"

        def __init__(self, *address_and_more):
            asked.append(address_and_more[:2])

        def serve_forever(self):
            raise KeyboardInterrupt

        def server_close(self):
            pass

    asked = []
    monkeypatch.setattr(cli, "Server", Listening)
    assert cli.main(["search", "serve", str(tmp_path / "I")]) == 0
    said = capsys.readouterr().out
    assert "20 pictures at http://here/" in said
    assert "warning" not in said
    assert cli.main(["search", "serve", str(tmp_path / "I"), "--host", "0.0.0.0", "--port", "1"]) == 0
    assert "warning: 0.0.0.0 can be reached from other machines" in capsys.readouterr().out
    assert asked == [("127.0.0.1", 8000), ("0.0.0.0", 1)]
    with pytest.raises(ValueError, match="has no embeddings of absent"):
        cli.main(["search", "serve", str(tmp_path / "I"), "--model2", "absent"])

"""Models from the Hugging Face Hub, the few files of a repository that weights, settings and tokenizer need; and onto it."""

import fnmatch
import glob
import re
from collections.abc import Sequence
from pathlib import Path

_SETTINGS = ("*.json", "merges.txt", "vocab.txt", "*.model")
# Groups of files that hold the same weights, the best first: one safetensors file in the layout that the settings name,
# then any safetensors, npz, and what needs torch. Flax, TensorFlow and ONNX files are never among them.
_WEIGHTS: tuple[tuple[str, ...], ...] = (
    ("open_clip_model.safetensors",),
    ("model.safetensors", "model-*-of-*.safetensors"),
    ("*.safetensors",),
    ("*.npz",),
    ("open_clip_pytorch_model.bin",),
    ("pytorch_model.bin",),
    ("*.bin", "*.pt", "*.pth"),
)


def fetch(reference: str) -> Path:
    """The local folder of `hf-hub:org/repo` or `hf-hub:org/repo@revision`, downloaded unless it is in the hub's cache.

    Without a network the cache answers. Raises ValueError, in one line, for what is no such reference, a repository or
    revision that is not there, one that must be asked for, one without weights, and a download that fails.
    """
    repo, revision = _parts(reference)
    from huggingface_hub import HfApi, errors, snapshot_download

    refusals = (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.HFValidationError)
    try:
        names = HfApi().list_repo_files(repo, revision=revision)
    except refusals as error:
        raise ValueError(_explained(reference, repo, revision, error)) from error
    except Exception as error:  # no network: a type of whichever HTTP library huggingface_hub is built on
        return _from_cache(reference, repo, revision, error)
    wanted = chosen(names)
    if not wanted:
        raise ValueError(f"{reference} holds no weights that clip_jax reads; it holds {_listed(names)}")
    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=[glob.escape(name) for name in wanted]))
    except Exception as error:
        raise ValueError(_explained(reference, repo, revision, error)) from error


def repo_of(reference: str) -> str:
    """`org/repo` of hf-hub:org/repo. Raises ValueError for what is no such reference, and for one with a revision."""
    repo, revision = _parts(reference)
    if revision:
        raise ValueError(f"{reference} names a revision; weights are published as a new one: write hf-hub:{repo}")
    return repo


def check_login() -> None:
    """Raises ValueError where the hub does not know who asks."""
    from huggingface_hub import HfApi

    try:
        HfApi().whoami()
    except Exception as error:  # no token, a wrong one, no network: types of several libraries
        raise ValueError(f"the hub does not let us in ({_first_line(error)}); run `hf auth login` first") from error


def upload(folder: Path, repo: str, *, private: bool) -> str:
    """The address of the repository, made where it is not there, with the folder's files in a new commit.

    Raises ValueError, in one line, for an upload that fails, and for a repository that is to be `private` and is there
    already for all to see; the folder stays.
    """
    from huggingface_hub import HfApi

    try:
        api = HfApi()
        api.create_repo(repo, private=private, exist_ok=True)
        seen = private and not api.repo_info(repo).private
        if not seen:
            api.upload_folder(
                repo_id=repo, folder_path=folder, commit_message="Weights, settings and model card by clip_jax"
            )
    except Exception as error:
        raise ValueError(
            f"{folder} is complete, but cannot be uploaded: {type(error).__name__}: {_first_line(error)}; try again with "
            f"`hf upload {repo} {folder}{' --private' * private}`"
        ) from error
    if seen:
        raise ValueError(
            f"{repo} is there, and public, so nothing was uploaded: leave --private out, or make it private at "
            f"https://huggingface.co/{repo}/settings; {folder} is complete"
        )
    return f"https://huggingface.co/{repo}"


def _parts(reference: str) -> tuple[str, str | None]:
    match = re.fullmatch(r"hf-hub:([\w.-]+/[\w.-]+)(?:@([^@\s]+))?", reference)
    if not match:
        raise ValueError(f"{reference!r} names no repository; write hf-hub:org/repo, or hf-hub:org/repo@revision")
    repo, revision = match.groups()
    return repo, revision


def chosen(names: Sequence[str]) -> list[str]:
    """Of a repository's files those to download: settings, tokenizer, and the weights once; [] where there are none."""
    top = sorted(name for name in names if "/" not in name)
    for group in _WEIGHTS:
        weights = [name for name in top if _matches(name, group)]
        if weights:
            return [name for name in top if _matches(name, _SETTINGS)] + weights
    return []


def _from_cache(reference: str, repo: str, revision: str | None, reason: Exception) -> Path:
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(repo, revision=revision, local_files_only=True, allow_patterns=["config.json"]))
    except Exception as error:
        raise ValueError(
            f"{reference} is not in the local cache, and the hub cannot be reached ({_first_line(reason)}); download it "
            "where there is a network, or give a local folder"
        ) from error
    names = [file.name for file in folder.iterdir()]
    if not chosen(names):
        raise ValueError(
            f"{reference} is in the local cache without weights (it has {_listed(names)}), and the hub cannot be reached "
            f"({_first_line(reason)})"
        )
    return folder


def _explained(reference: str, repo: str, revision: str | None, error: Exception) -> str:
    from huggingface_hub import errors

    page = f"https://huggingface.co/{repo}"
    if isinstance(error, errors.GatedRepoError):
        return f"{reference} is gated: accept its terms at {page}, then run `hf auth login` here"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"{reference} is not on the hub, or private: check the name at {page}, or run `hf auth login` first"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{reference}: the repository has no revision {revision!r}; see the branches and tags at {page}"
    return f"{reference} cannot be downloaded: {type(error).__name__}: {_first_line(error)}"


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(sorted(names)[:8]) or "nothing"


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__

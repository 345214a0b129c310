"""Image files and captions listed in a csv, tsv or parquet table, as open_clip's csv data sets are."""

import dataclasses
import difflib

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from clip_jax.data import files
from clip_jax.data.source import BadSample, Sample, sample_uid

_SEPARATORS = {".csv": ",", ".tsv": "\t", ".txt": "\t"}
_PROBED = 32  # images looked for at construction


@dataclasses.dataclass(frozen=True, kw_only=True)
class TableConfig:
    """Which table and which of its columns.

    path: local or remote; .parquet, or text with a header line. name: stands in uids; keep it when data move.
    label_key: a column with class names, or with indices into `classes`. synthetic_key: one with generated captions, of
    which a row may have none. separator: of a text table, by default a comma for .csv and a tab for .tsv and .txt. root:
    what image paths are relative to, by default the table's folder.
    """

    path: str
    name: str
    img_key: str = "filepath"
    caption_key: str = "title"
    label_key: str = ""
    synthetic_key: str = ""
    classes: tuple[str, ...] = ()
    separator: str = ""
    root: str = ""

    def __post_init__(self):
        if self.synthetic_key and self.synthetic_key == self.caption_key:
            raise ValueError(
                f"{self.name}: column {self.caption_key!r} is both caption_key and synthetic_key; give two"
            )


class Table:
    """A Source of one sample a row. A caption, generated or not, is a text, or in parquet also a list of texts.

    A uid comes from the image's path as the table gives it and the captions, so it stays when rows move. Construction
    raises ValueError for a table that lacks a column, has no rows, or of whose images none is found.
    """

    def __init__(self, config: TableConfig):
        self.name, self._path = config.name, config.path
        self._root = config.root or config.path.rpartition("/")[0]
        files.stat([config.path])
        wanted = [config.img_key, config.caption_key, *filter(None, [config.label_key, config.synthetic_key])]
        try:
            table = _read(config, wanted)
        except pa.ArrowException as error:
            raise ValueError(f"{config.path} is no readable table: {error}") from error
        if not table.num_rows:
            raise ValueError(f"{config.path} has no rows; give a table with at least one image and caption")
        self._images = _strings(table, config.img_key, config.path)
        self._captions = _texts(table, config.caption_key, config.path)
        self._synthetic = _texts(table, config.synthetic_key, config.path) if config.synthetic_key else None
        self.classes, self._labels = config.classes, None
        if config.label_key:
            labels = _strings(table, config.label_key, config.path)
            self.classes, self._labels = _labels(labels, config)
        self._probe()

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Sample:
        """Row `index` with its image's bytes. Raises BadSample for an unreadable file and for empty captions."""
        path, captions = self._row(index)
        captions = _stripped(captions)
        if not captions:
            raise BadSample("empty caption")
        if not path:
            raise BadSample("no image path")
        try:
            image = files.read(files.join(self._root, path))
        except (OSError, ValueError) as error:  # a ValueError for what no path can hold
            raise BadSample(f"cannot be read: {error}") from error
        label = None if self._labels is None else int(self._labels[index])
        synthetic = () if self._synthetic is None else _stripped(_listed(self._synthetic[index].as_py()))
        return Sample(uid=self.uid(index), image=image, captions=captions, label=label, synthetic=synthetic)

    def shard(self, index: int) -> str:
        """The table."""
        return self._path

    def uid(self, index: int) -> int:
        """From the config's name, the image's path as the table gives it and the captions."""
        path, captions = self._row(index)
        return sample_uid(self.name, "\t".join([path, *(caption or "" for caption in captions)]))

    @property
    def path(self) -> str:
        """The table."""
        return self._path

    def _row(self, index: int) -> tuple[str, list[str | None]]:
        if not 0 <= index < len(self):
            raise IndexError(f"{self.name}: sample {index} of {len(self)}")
        return self._images[index].as_py() or "", _listed(self._captions[index].as_py())

    def _probe(self):
        rows = np.unique(np.linspace(0, len(self) - 1, _PROBED).astype(int)).tolist()
        paths = [files.join(self._root, self._row(row)[0]) for row in rows]
        if not any(map(files.exists, paths)):
            raise ValueError(
                f"{self._path}: none of {len(paths)} images looked for exists, for example {paths[0]}; "
                "set root to the folder that the column's paths begin in"
            )


def _read(config: TableConfig, wanted: list[str]) -> pa.Table:
    suffix = "." + files.base_name(config.path).rpartition(".")[2].lower()
    if suffix == ".parquet":
        with files.open_stream(config.path) as stream:
            parquet = pyarrow.parquet.ParquetFile(stream)
            _check_columns(config, wanted, parquet.schema_arrow.names)
            return parquet.read(columns=wanted)
    if not (separator := config.separator or _SEPARATORS.get(suffix, "")):
        raise ValueError(f"{config.path}: its extension tells no separator; set separator, or name it .csv or .tsv")
    options = pyarrow.csv.ParseOptions(delimiter=separator, newlines_in_values=True)
    with files.open_stream(config.path) as stream:
        _check_columns(config, wanted, pyarrow.csv.open_csv(stream, parse_options=options).schema.names)
    with files.open_stream(config.path) as stream:
        return pyarrow.csv.read_csv(
            stream,
            parse_options=options,
            convert_options=pyarrow.csv.ConvertOptions(
                include_columns=wanted, column_types=dict.fromkeys(wanted, pa.string()), strings_can_be_null=False
            ),
        )


def _check_columns(config: TableConfig, wanted: list[str], present: list[str]):
    for column in wanted:
        if column not in present:
            near = difflib.get_close_matches(column, present, 1)
            hint = f"; did you mean {near[0]!r}?" if near else "; set img_key, caption_key, other keys or separator"
            raise ValueError(f"{config.path} has no column {column!r} but {', '.join(map(repr, present))}{hint}")


def _strings(table: pa.Table, column: str, path: str) -> pa.Array:
    try:
        return table[column].cast(pa.large_string()).combine_chunks()
    except pa.ArrowException as error:
        raise ValueError(f"{path}: column {column!r} holds {table[column].type}, not texts") from error


def _texts(table: pa.Table, column: str, path: str) -> pa.Array:
    kind = table[column].type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return table[column].cast(pa.large_list(pa.large_string())).combine_chunks()
    return _strings(table, column, path)


def _listed(value: str | list[str | None] | None) -> list[str | None]:
    return value if isinstance(value, list) else [value]


def _stripped(texts: list[str | None]) -> tuple[str, ...]:
    return tuple(text.strip() for text in texts if text and text.strip())


def _labels(values: pa.Array, config: TableConfig) -> tuple[tuple[str, ...], np.ndarray]:
    """Class names, and i32[rows] into them: the config's where given, else the names in the column, sorted."""
    distinct = [value or "" for value in values.unique().to_pylist()]
    classes = config.classes or tuple(sorted(distinct))
    numbers = {str(number): number for number in range(len(classes))} if config.classes else {}
    if not config.classes and all(value.isdecimal() for value in distinct):
        raise ValueError(f"{config.path}: column {config.label_key!r} holds numbers; set classes to their names")
    index = numbers | {name: number for number, name in enumerate(classes)}
    unknown = [value for value in distinct if value not in index]
    if unknown:
        raise ValueError(f"{config.path}: label {unknown[0]!r} is none of {len(classes)} classes, nor an index of one")
    return classes, np.array([index[value or ""] for value in values.to_pylist()], np.int32)

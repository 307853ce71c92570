"""Fields of single episodes from the files that Minari writes, without running code of a set."""

import io
import json
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import h5py
import numpy as np
from gymnasium import Space, spaces
from minari.dataset.minari_storage import is_image_space
from PIL import Image

from lit_offrl.data.soundness import stored_array
from lit_offrl.errors import InputError


class EpisodeReader(Protocol):
    """Reads one field of one episode at a time; a missing one raises KeyError."""

    padding: int
    """Rows that all fields but the observations have more than there are steps."""

    def __enter__(self) -> "EpisodeReader": ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    def has(self, episode: int) -> bool:
        """Tell whether an episode is stored, in whatever state."""

    def n_steps(self, episode: int) -> int:
        """Return the number of steps T of an episode, cheaply."""

    def read(self, episode: int, field: str, space: Space[Any] | None = None) -> Any:
        """Return a field stacked on axis 0: arrays, or dicts and tuples of them by ``space``."""


def open_reader(data_path: Path, data_format: str, jpeg: bool) -> EpisodeReader:
    """Open a set's files.

    Args:
        data_path: The set's ``data`` folder.
        data_format: Minari's name of the storage: hdf5, arrow or parquet.
        jpeg: Whether images are stored as JPEG.
    """
    if data_format == "hdf5":
        return Hdf5Reader(data_path / "main_data.hdf5", jpeg)
    if data_format in ("arrow", "parquet"):
        return ArrowReader(data_path, data_format, jpeg)
    raise InputError(f"{data_path}: storage format `{data_format}` is not known.")


class Hdf5Reader:
    """Minari's HDF5 storage: one group per episode.

    Args:
        path: The file.
        jpeg: Whether images are stored as JPEG.
    """

    padding = 0

    def __init__(self, path: Path, jpeg: bool) -> None:
        if not path.is_file():
            raise FileNotFoundError(f"{path.name} is not there, or not a file")
        self._file = h5py.File(path, "r")
        self._jpeg = jpeg
        self._opened: tuple[int, Any] = (-1, None)

    def __enter__(self) -> "Hdf5Reader":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()

    def has(self, episode: int) -> bool:
        """Tell whether an episode is stored, in whatever state."""
        return f"episode_{episode}" in self._file

    def n_steps(self, episode: int) -> int:
        """Return the number of steps T of an episode."""
        return len(stored_array(_child(self._group(episode), "rewards")))

    def read(self, episode: int, field: str, space: Space[Any] | None = None) -> Any:
        """Return a field of an episode."""
        node = self._group(episode)
        for part in field.split("/"):
            node = _child(node, part)
        return self._decode(node, space)

    def _group(self, episode: int) -> Any:
        if self._opened[0] != episode:
            self._opened = (episode, _child(self._file, f"episode_{episode}"))
        return self._opened[1]

    def _decode(self, node: Any, space: Space[Any] | None) -> Any:
        if isinstance(space, spaces.Dict):
            return {k: self._decode(_child(node, k), part) for k, part in space.items()}
        if isinstance(space, spaces.Tuple):
            parts = enumerate(space.spaces)
            return tuple(self._decode(_child(node, f"_index_{i}"), part) for i, part in parts)
        values = stored_array(node)[()]
        if self._jpeg and space is not None and is_image_space(space):
            return _decode_jpeg(values)
        return values


def _child(group: Any, name: str) -> Any:
    """Return a member; KeyError only if there is none, OSError if it is damaged."""
    if isinstance(group, h5py.Dataset):
        raise KeyError(name)
    try:
        return group[name]
    except KeyError as error:  # h5py's word for both
        if name in group:
            raise OSError(str(error)) from None
        raise KeyError(name) from None


class ArrowReader:
    """Minari's Arrow and Parquet storage: one folder per episode.

    Args:
        data_path: The folder of the folders.
        data_format: "arrow" or "parquet".
        jpeg: Whether images are stored as JPEG.
    """

    padding = 1

    def __init__(self, data_path: Path, data_format: str, jpeg: bool) -> None:
        try:
            import pyarrow.dataset
        except ImportError:
            raise InputError(
                f"{data_path} is stored in {data_format}: to read it, pip install "
                "'lit_offrl[arrow]'."
            ) from None
        self._open = pyarrow.dataset.dataset
        self._path = data_path
        self._format = data_format
        self._jpeg = jpeg
        self._loaded: tuple[int, Any] = (-1, None)

    def __enter__(self) -> "ArrowReader":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._loaded = (-1, None)

    def has(self, episode: int) -> bool:
        """Tell whether an episode is stored, in whatever state."""
        return (self._path / str(episode)).exists()

    def n_steps(self, episode: int) -> int:
        """Return the number of steps T of an episode."""
        metadata = json.loads((self._path / str(episode) / "metadata.json").read_text())
        return int(metadata["total_steps"])

    def read(self, episode: int, field: str, space: Space[Any] | None = None) -> Any:
        """Return a field of an episode."""
        if self._loaded[0] != episode:
            folder = self._path / str(episode)
            files = self._open(
                str(folder), format=self._format, ignore_prefixes=["_", ".", "metadata.json"]
            )
            self._loaded = (episode, files.to_table().combine_chunks())
        name, *parts = field.split("/")
        column = self._loaded[1].column(name).combine_chunks()
        for part in parts:
            column = _arrow_child(column, part)
        return self._decode(column, space)

    def _decode(self, column: Any, space: Space[Any] | None) -> Any:
        if isinstance(space, spaces.Dict):
            return {k: self._decode(_arrow_child(column, k), part) for k, part in space.items()}
        if isinstance(space, spaces.Tuple):
            parts = enumerate(space.spaces)
            return tuple(self._decode(_arrow_child(column, str(i)), part) for i, part in parts)
        if self._jpeg and space is not None and is_image_space(space):
            return _decode_jpeg(column.to_pylist())
        if hasattr(column, "flatten") and hasattr(column.type, "list_size"):
            numbers = column.flatten().to_numpy(zero_copy_only=False)
            return numbers.reshape(len(column), column.type.list_size)
        return column.to_numpy(zero_copy_only=False)


def _arrow_child(column: Any, name: str) -> Any:
    parts = column.type
    if not hasattr(parts, "get_field_index") or parts.get_field_index(name) < 0:
        raise KeyError(name)
    return column.field(name)


def _decode_jpeg(frames: Any) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Decode JPEG byte strings to stacked frames."""
    return np.stack([np.asarray(Image.open(io.BytesIO(bytes(frame)))) for frame in frames])

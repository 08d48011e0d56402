"""Python values as options of the command line, and arrays and configs as files."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ._errors import InputRefused
from ._frames import write_frame

# Options that take a file of numbers, and may be given an array.
ARRAYS = {"data", "noise", "step_noise", "generated", "reference", "floor", "train", "test"}
ARRAYS |= {"samples"}
# Options that take a table, and may be given a data frame.
TABLES = {"log_density"}
# Options that take a YAML file, and may be given a dictionary.
FILES = {"config", "claims"}
# Options of the form NAME=VALUE, which take a dictionary.
NAMED = {"condition", "hub_dataset", "layout", "set"}
# Keys of configs whose values are files.
CONFIG_FILES = {"model", "data", "noise", "reference", "floor", "train", "test", "extractor"}
CONFIG_FILES |= {"energy", "observables", "sigmas", "conditions"}


def to_array(value: Any) -> np.ndarray[Any, Any] | None:
    """The array in a value: of NumPy, or of a library that offers `__array__`, such as torch.

    It is `None` for everything else. Lists are no arrays.
    """
    if isinstance(value, np.ndarray):
        return value
    if hasattr(value, "detach"):
        value = value.detach().cpu()
    if hasattr(value, "__array__") and not isinstance(value, (np.generic, os.PathLike)):
        return np.asarray(value)
    return None


def save_array(array: np.ndarray[Any, Any], folder: Path, name: str) -> Path:
    """Writes an array under a name that follows from its bytes: the same array, the same file."""
    array = np.ascontiguousarray(array) if array.ndim else array
    digest = hashlib.sha256(array.tobytes() + repr((array.shape, array.dtype)).encode())
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}-{digest.hexdigest()[:12]}.npy"
    np.save(file, array, allow_pickle=False)
    return file


def plain_value(value: Any) -> Any:
    """A value of JSON for numbers of NumPy, paths and tuples.

    >>> plain_value({"probes": np.int64(8), "tol": (1, 2)})
    {'probes': 8, 'tol': [1, 2]}
    """
    if isinstance(value, Mapping):
        return {str(key): plain_value(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_value(item) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value


def spec(value: Any) -> str:
    """An estimator, a solver or the like as the command line takes it: its YAML in one line.

    >>> spec("exact"), spec({"heun": {"steps": 40}}), spec(1.5)
    ('exact', '{"heun": {"steps": 40}}', '1.5')
    """
    return value if isinstance(value, str) else json.dumps(plain_value(value))


def condition(name: str, value: Any, folder: Path) -> str:
    """The value of a condition: an array has one value per sample, `None` is the null value."""
    if isinstance(value, (list, tuple)):
        raise InputRefused(
            f"condition {name}: a list may mean one value per sample, or one vector for all; "
            f"expected a NumPy array for the first, or the text {json.dumps(str(value))} "
            "for the second",
            2,
        )
    array = to_array(value)
    if array is not None and array.ndim:
        return str(save_array(array, folder, "condition"))
    return "null" if value is None else spec(array.item() if array is not None else value)


def options(values: Mapping[str, Any], folder: Path) -> list[str]:
    """The options of a command for keyword arguments. What is `None` or `False` is left out.

    Arrays, tables and configs become files in `folder`.
    """
    found: list[str] = []
    for key, value in values.items():
        flag = "--" + key.replace("_", "-")
        if value is None or value is False:
            continue
        if value is True:
            found.append(flag)
        elif key in NAMED and isinstance(value, Mapping):
            for name, item in value.items():
                text = condition(name, item, folder) if key == "condition" else spec(item)
                found.append(f"{flag}={name}={text}")
        elif key in ("metric", "convention", "observable", *NAMED):
            several = value if isinstance(value, (list, tuple)) else [value]
            found += [f"{flag}={_text(key, item, folder)}" for item in several]
        elif key == "range" and not isinstance(value, str):
            found.append(f"{flag}={','.join(spec(end) for end in value)}")
        else:
            found.append(f"{flag}={_text(key, value, folder)}")
    return found


def _text(key: str, value: Any, folder: Path) -> str:
    array = to_array(value) if key in ARRAYS else None
    if array is not None:
        return str(save_array(array, folder, key))
    if key in TABLES and hasattr(value, "samples"):
        value = value.samples
    if key in TABLES and (hasattr(value, "columns") or isinstance(value, Mapping)):
        folder.mkdir(parents=True, exist_ok=True)
        write_frame(value, folder / f"{key}.csv")
        return str(folder / f"{key}.csv")
    if key in FILES and isinstance(value, Mapping):
        return str(write_config(value, folder, f"{key}.yaml"))
    return os.fspath(value) if isinstance(value, os.PathLike) else spec(value)


def write_config(config: Mapping[str, Any], folder: Path, name: str) -> Path:
    """Writes a config as JSON, which is YAML. Its arrays become files beside it.

    Files that it names are looked for from the current folder, and named by their whole path.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(_resolved(config, None, folder), indent=2, allow_nan=False)
    (folder / name).write_text(text + "\n", encoding="utf-8")
    return folder / name


def _resolved(value: Any, key: str | None, folder: Path) -> Any:
    if isinstance(value, Mapping):
        inner = (lambda name: "conditions") if key == "conditions" else str
        return {str(k): _resolved(v, inner(k), folder) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_resolved(item, key, folder) for item in value]
    array = to_array(value)
    if array is not None and array.ndim:
        return str(save_array(array, folder.absolute(), key or "array"))
    if isinstance(value, os.PathLike):
        return os.path.abspath(value)
    if isinstance(value, str) and key in CONFIG_FILES:
        return _whole_path(value)
    return plain_value(array.item() if array is not None else value)


def _whole_path(text: str) -> str:
    """The whole path of a file that exists; other texts, such as the name of a preset, stay."""
    prefix = "all:" if text.startswith("all:") else ""
    file, colon, member = text.removeprefix("all:"), "", ""
    if not Path(file).exists() and ":" in file:
        file, colon, member = file.rpartition(":")
    return prefix + os.path.abspath(file) + colon + member if file and Path(file).exists() else text


def several(values: Any) -> Sequence[Any]:
    """One value, or a list of them, as a list."""
    return values if isinstance(values, (list, tuple)) else [values]

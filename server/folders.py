"""What lies in a repository's folder: models and their versions, without loading anything.

A version is taken to have changed when any of its files is another one, or of another size or time.
"""

import json
import re
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from lazyneuron.engine.artifact import MANIFEST_FILE, manifest_bytes, versions
from lazyneuron.engine.confine import confined, plain_name
from lazyneuron.engine.errors import ArtifactError
from lazyneuron.engine.signature import SIGNATURE_FILE

__all__ = ["Found", "Scan", "Scanner"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True, slots=True)
class Found:
    """A version's folder.

    Attributes
    ----------
    folder
        Where it lies.
    fingerprint
        Differs once anything in it does.
    root
        The folder that none of its files may lead out of.
    """

    folder: Path
    fingerprint: Hashable
    root: Path


@dataclass(frozen=True, slots=True)
class Scan:
    """What was found.

    Attributes
    ----------
    models
        Versions by number, by the model's name.
    broken
        Why a folder is no model, by the folder's name.
    unreadable
        The folders of which that is not known, since they cannot be read just now.
    """

    models: dict[str, dict[int, Found]] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)
    unreadable: set[Path] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class _Peek:
    """What a manifest says of itself, unchecked: name, version, and the files that belong to it."""

    name: str | None = None
    version: int = 1
    files: tuple[str, ...] = ()


class Scanner:
    """Looks at a folder again and again.

    Parameters
    ----------
    path
        A folder of models, one model's, or one version's.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._peeks: dict[Path, tuple[Hashable, _Peek]] = {}
        self._earlier = self._peeks

    def scan(self) -> Scan:
        """Return what is there now.

        Raises
        ------
        ArtifactError
            If the folder is not there or cannot be read.
        """
        self._earlier, self._peeks = self._peeks, {}
        if not self._path.is_dir():
            raise ArtifactError(f"{self._path}: no such folder; give a model, or a folder of models")
        try:
            root = self._path.resolve()
            if (root / MANIFEST_FILE).is_file():
                return self._single(root, {self._peek(root).version: root})
            if found := versions(root):
                return self._single(root, {number: root / str(number) for number in found})
            return self._folders(root)
        except OSError as error:
            raise ArtifactError(f"{self._path}: cannot be read ({error.strerror or error})") from error

    def _single(self, root: Path, folders: dict[int, Path]) -> Scan:
        """Return the one model that the folder is."""
        found = {number: self._found(folder, root) for number, folder in folders.items()}
        highest = folders[max(folders)]
        outer = highest.parent if highest.name.isdecimal() else highest
        return Scan({self._named(found) or outer.name: found})

    def _folders(self, root: Path) -> Scan:
        scan = Scan()
        claims: dict[str, dict[str, dict[int, Found]]] = {}
        for folder in sorted(_visible(root)):
            try:
                if _begun(folder):
                    continue
                found = self._versions(folder, root)
            except ArtifactError as error:
                scan.broken[folder.name] = str(error)
                continue
            except OSError as error:
                scan.broken[folder.name] = f"{folder}: cannot be read ({error.strerror or error})"
                scan.unreadable.add(folder)
                continue
            claims.setdefault(self._named(found) or folder.name, {})[folder.name] = found
        for name, folders in claims.items():
            owner = name if name in folders else next(iter(folders))
            scan.models[name] = folders[owner]
            for other in folders.keys() - {owner}:
                scan.broken[other] = f"a second model named {name!r} (its manifest's name); export it under another"
        return scan

    def _versions(self, folder: Path, root: Path) -> dict[int, Found]:
        if _NAME.fullmatch(folder.name) is None:
            raise ArtifactError(f"{folder}: not a model's name; expected letters, digits, '.', '_' and '-'")
        confined(folder, root)
        if (folder / MANIFEST_FILE).is_file():
            return {self._peek(folder).version: self._found(folder, root)}
        numbers = versions(folder)
        if not numbers:
            raise ArtifactError(f"{folder}: not a model; expected {MANIFEST_FILE} in a numbered version folder")
        return {number: self._found(folder / str(number), root) for number in numbers}

    def _named(self, found: dict[int, Found]) -> str | None:
        """Return the name that the highest readable manifest gives."""
        for number in sorted(found, reverse=True):
            name = self._peek(found[number].folder).name
            if name is not None:
                return name
        return None

    def _found(self, folder: Path, root: Path) -> Found:
        files = {*self._peek(folder).files, MANIFEST_FILE, SIGNATURE_FILE}
        stats = tuple((name, _stat(folder / name)) for name in sorted(files))
        return Found(folder, (folder.resolve(), stats), root)

    def _peek(self, folder: Path) -> _Peek:
        """Read the manifest's name and files, again only where it has changed; it is checked when it is loaded."""
        path = folder / MANIFEST_FILE
        stat = _stat(path)
        known = self._peeks.get(path) or self._earlier.get(path)
        if known is None or known[0] != stat:
            known = (stat, _read(folder))
        self._peeks[path] = known
        return known[1]


def _read(folder: Path) -> _Peek:
    try:
        document = json.loads(manifest_bytes(folder))
        name, version, files = document["name"], document["version"], document["files"]
        if isinstance(name, str) and isinstance(version, int) and isinstance(files, dict) and _NAME.fullmatch(name):
            return _Peek(name, version, tuple(file for file in files if plain_name(file)))
    except (ArtifactError, ValueError, KeyError, TypeError, RecursionError):
        pass  # whoever loads it says what is wrong
    return _Peek()


def _visible(root: Path) -> Iterator[Path]:
    """Give the folders in `root`; a name that begins with a dot is somebody's scratch."""
    return (folder for folder in root.iterdir() if not folder.name.startswith(".") and folder.is_dir())


def _begun(folder: Path) -> bool:
    """Say whether nothing but scratch is in a folder, as while its first version is exported."""
    names = [path.name for path in folder.iterdir()]
    return bool(names) and all(name.startswith(".") for name in names)


def _stat(path: Path) -> Hashable:
    try:
        stat = path.stat()
    except OSError:
        return None
    return (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)

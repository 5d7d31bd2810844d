"""Files that must stay where they are said to be: no link, `..` or absolute path leads out of a folder."""

from pathlib import Path

from lazyneuron.engine.errors import ArtifactError

__all__ = ["confined", "plain_name"]


def plain_name(name: str) -> bool:
    """Say whether `name` is that of a file in a folder, not a path to somewhere."""
    return name == Path(name).name and name not in {"", ".", ".."} and "\\" not in name and "\0" not in name


def confined(path: Path, root: Path) -> Path:
    """Return where `path` really is, links followed.

    Raises
    ------
    ArtifactError
        If that is not in `root`.
    """
    try:
        real, inside = path.resolve(), root.resolve()
    except (OSError, RuntimeError) as error:  # links in a circle
        raise ArtifactError(f"{path}: cannot be followed ({error})") from error
    if not real.is_relative_to(inside):
        raise ArtifactError(
            f"{path}: leads to {real}, outside {inside}; expected the file itself, not a link out of it"
        )
    return real

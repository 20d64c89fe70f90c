"""How large an installation is: the files of every package that the core, and each extra, brings along.

python docs/install_sizes.py

Reads the environment it runs in, where everything must be installed (``make test`` does that). What the project itself
needs is read from ``pyproject.toml``: the environment may have been made before the last change of that. One JSON line
a row. Needs Python 3.11.
"""

import json
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import click
import tomllib
from packaging.requirements import Requirement

PROJECT = "mmcl-edge"
ROOT = Path(__file__).parents[1]
ROWS = {"core": (), "export": ("export",), "all": ("export", "defaults", "quickstart")}


def main() -> None:
    """Print a row for each kind of installation."""
    for name, extras in ROWS.items():
        sizes = {package: size_bytes(package) for package in needed(PROJECT, extras)}
        cuda = sum(size for package, size in sizes.items() if package.startswith(("nvidia-", "cuda-", "triton")))
        row = {"install": name, "packages": len(sizes), "megabytes": megabytes(sum(sizes.values()))}
        click.echo(json.dumps({**row, "of_it_cuda_for_torch": megabytes(cuda), "torch": megabytes(sizes["torch"])}))


def needed(name: str, extras: Iterable[str], found: dict[str, set[str]] | None = None) -> set[str]:
    """The package and everything it needs, by normalised names."""
    found = {} if found is None else found
    key, wanted = name.lower().replace("_", "-"), {"", *extras}
    if wanted <= found.get(key, set()):
        return set(found)
    found.setdefault(key, set()).update(wanted)
    for requirement in map(Requirement, own() if name == PROJECT else distribution(name).requires or ()):
        if requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in wanted):
            try:
                needed(requirement.name, requirement.extras, found)
            except PackageNotFoundError as error:
                raise SystemExit(f"{error.name} is not installed here; run 'make test' first.") from error
    return set(found)


def own() -> list[str]:
    """What the project needs, as ``pyproject.toml`` says; what an extra needs is marked so."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found = [*project["dependencies"]]
    for extra, requirements in project["optional-dependencies"].items():
        for requirement in map(Requirement, requirements):
            marker = f'extra == "{extra}"' + (f" and ({requirement.marker})" if requirement.marker else "")
            requirement.marker = None
            found.append(f"{requirement} ; {marker}")
    return found


def size_bytes(name: str) -> int:
    """Of all files that a package installed and that exist."""
    installed = distribution(name)
    paths = (installed.locate_file(file) for file in installed.files or ())
    return sum(path.stat().st_size for path in paths if path.is_file())


def megabytes(size: int) -> int:
    """Millions of bytes."""
    return round(size / 1e6)


if __name__ == "__main__":
    main()

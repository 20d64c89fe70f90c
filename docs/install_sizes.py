"""How large an installation is: the files of every package that the core, and each extra, brings along.

python docs/install_sizes.py

Reads the environment it runs in, where everything must be installed (``make test`` does that). One JSON line a row.
"""

import json
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, distribution

import click
from packaging.requirements import Requirement

PROJECT = "mmcl-edge"
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
    for requirement in map(Requirement, distribution(name).requires or ()):
        if requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in wanted):
            try:
                needed(requirement.name, requirement.extras, found)
            except PackageNotFoundError as error:
                raise SystemExit(f"{error.name} is not installed here; run 'make test' first.") from error
    return set(found)


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

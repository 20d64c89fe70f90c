"""Refuses to build from a checkout whose folder links were turned into text files; all else is in pyproject.toml."""

from pathlib import Path

from setuptools import setup

for name in ("export", "runtime", "calibration"):
    if not (Path(__file__).parent / "mmcl_edge" / name / "__init__.py").is_file():
        raise SystemExit(
            f"mmcl_edge/{name} should be a link to ../{name}, but this checkout does not have it as one "
            "(git wrote it as a text file). Clone again with 'git clone -c core.symlinks=true'."
        )

setup()

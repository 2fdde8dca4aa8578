"""The scans that a store was prepared from, found again by their salted hashes."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from harvester.config.data import ArchiveSettings
from harvester.datasets.archive import archive
from harvester.datasets.archive.nifti import is_nifti
from harvester.errors import StoreError, VolumeError
from harvester.export.file_grid import FileGrid, dicom_grid, nifti_grid


class SourceScans:
    """The files of each volume under a folder. Ids are hashes of UIDs or paths with the salt beside the store."""

    def __init__(self, root: Path, settings: ArchiveSettings, seed: int, salt: str) -> None:
        # The archive may have grown: a better reconstruction must not hide the one that was stored.
        dicom = settings.dicom.model_copy(update={"reconstructions": "all"})
        cases = archive.discover(root, settings.model_copy(update={"dicom": dicom}), seed, salt).cases
        self._max_voxels, self._form = settings.max_voxels, settings.nifti_form
        self._files = {case.volume_id: [root / file for file in case.files] for case in cases}

    def require(self, volume_ids: Iterable[str]) -> None:
        """Raise StoreError, naming the first few by their hashed ids, where scans of these volumes are missing."""
        wanted = sorted(set(volume_ids))
        missing = [each for each in wanted if each not in self._files]
        if missing:
            raise StoreError(
                f"{len(missing)} of {len(wanted)} volumes have no scan under --source: {', '.join(missing[:3])}; "
                "give the folder that the store was prepared from, or --skip-missing to export the others (of "
                "DeepLesion no PNG files are taken: --to csv names them)"
            )

    def grid(self, volume: Mapping[str, Any]) -> FileGrid:
        """The file's grid for a manifest row. Raises VolumeError where it is not there or not the stored volume's."""
        files = self._files.get(volume["volume_id"])
        if not files:
            raise VolumeError("missing", f"volume {volume['volume_id']}: no scan under --source")
        if is_nifti(files[0].name):
            return nifti_grid(files[0], volume, self._max_voxels, self._form)
        return dicom_grid(files, volume)

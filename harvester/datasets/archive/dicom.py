"""The DICOM part of an archive: which series are taken, what is refused, and the marks of objects beside them.

`index` reads every header once; `SeriesIndex.take` picks among reconstructions when the tables are known.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from harvester.config.data import ArchiveSettings
from harvester.datasets.archive.tables import ScanFiles
from harvester.datasets.discovery import salted_hash
from harvester.datasets.file_walk import FileList
from harvester.errors import VolumeError
from harvester.imaging.dicom.header import Header, read_headers
from harvester.imaging.dicom.series import Series, checked, chosen, gather
from harvester.records import Reject

TABLES: Final = ("marks.csv", "volumes.csv", "marks.json", "annotations.json")
OTHERS: Final = (".nii", ".nii.gz")
"""What other parts of the archive read."""
ADVICE: Final = {
    "derived": "no images of a scanner (ImageType); data.archive.dicom.refused_image_types lists such",
    "dicomdir": "a DICOMDIR; not needed, every file is looked at",
    "link": "symbolic links; not followed, give --source the folder that they lead to",
    "localizer": "localizers (scouts); nothing to do",
    "multi_frame": "many frames in a file (enhanced CT); convert to one file per slice",
    "no_geometry": "no position, orientation or PixelSpacing; export the series again",
    "no_image": "DICOM objects without an image; nothing to do",
    "no_permission": "files or folders that may not be read; let this user read them",
    "no_pixel_data": "CT objects without pixels; export the series again",
    "no_rescale": "no RescaleSlope and RescaleIntercept, so no Hounsfield units; export the series again",
    "no_series": "marks that refer to no series that was taken; nothing to do, or add the series",
    "not_ct": "images of another modality; nothing to do",
    "not_dicom": "files that are not DICOM; nothing to do",
    "not_grey": "images that are not grey with 16 bits; nothing to do",
    "not_hu": "values that are no Hounsfield units (RescaleType); nothing to do",
    "odd_slices": "slices of another size, spacing or orientation than most of their series; left out",
    "other_reconstruction": "another reconstruction of an acquisition that was taken; "
    "data.archive.dicom.reconstructions = all takes each",
    "secondary_capture": "secondary captures or other classes that are no CT image; nothing to do",
    "unreadable": "a broken file; export it again, or delete it",
}


@dataclass(frozen=True)
class SeriesIndex:
    """The DICOM series of an archive by their headers.

    root     of the archive
    series   what may be taken, checked, by UID
    objects  files that may hold marks, as headers
    rejects  what is refused whatever the tables say
    names    what a table may call a series: its UID, or a folder that it has for itself; refused ones too
    """

    root: Path
    series: dict[str, Series]
    objects: Sequence[Header]
    rejects: Sequence[Reject]
    names: dict[str, str]

    def take(
        self, named: Collection[str], settings: ArchiveSettings, salt: str
    ) -> tuple[list[ScanFiles], list[Reject]]:
        """The series to be stored, each with the files of its mark objects, and all that is refused.

        Of several reconstructions those are taken that are marked, or `named`: keys of what the tables name.
        """
        marked = {uid for each in self.objects for uid in each.refers}
        taken = chosen(list(self.series.values()), marked | set(named), settings.dicom)
        scans = {each.uid: self._scan(each, settings.dicom.machine_marks) for each in taken}
        left = {
            (uid, "other_reconstruction"): len(each.slices) for uid, each in self.series.items() if uid not in scans
        }
        for each in self.objects:
            used = sorted(each.refers & scans.keys())
            for uid in used:
                scans[uid].objects.append(each.file)
            if not used:
                left[each.file, "no_series"] = 1
        return list(scans.values()), [*self.rejects, *_rejected_rows(left, salt)]

    def _scan(self, series: Series, machine_marks: bool) -> ScanFiles:
        files = [self.root / each.file for each in series.slices]
        return ScanFiles(series.uid, series.first.patient, files, set(), machine_marks=machine_marks)


def index(root: Path, listed: FileList, settings: ArchiveSettings, salt: str) -> SeriesIndex:
    """Every listed file under `root` by its header. Nothing is raised for a bad one, nothing read of pixels
    (but of two files with one UID)."""
    files = [file for file in listed.files if file.lower() not in TABLES and not file.lower().endswith(OTHERS)]
    found = gather(read_headers(root, files, settings.dicom))
    found.rejected.update((file, "link") for file in listed.links if not file.lower().endswith(OTHERS))
    found.rejected.update((file, "no_permission") for file in listed.unreadable)
    good, bad = _sifted(found.series, root, settings, salt)
    series = {each.uid: each for each in good}
    return SeriesIndex(
        root, series, found.objects, [*bad, *_rejected_rows(found.rejected, salt)], _names(found.folders, series.keys())
    )


def _sifted(
    found: Sequence[Series], root: Path, settings: ArchiveSettings, salt: str
) -> tuple[list[Series], list[Reject]]:
    good, bad = [], []
    for each in found:
        try:
            good.append(checked(each, root, settings))
        except VolumeError as error:
            message = f"a series of {len(each.slices)} files: {error}"
            bad.append(Reject(salted_hash(each.uid, salt), error.reason, message))
    return good, bad


def _rejected_rows(rejected: Mapping[tuple[str, str], int], salt: str) -> list[Reject]:
    """A row per series and reason; what is no DICOM in one row, whatever its number."""
    foreign = sum(files for (_, reason), files in rejected.items() if reason == "not_dicom")
    counts = {key: files for key, files in rejected.items() if key[1] != "not_dicom"}
    counts["not_dicom", "not_dicom"] = foreign
    return [
        Reject(salted_hash(uid, salt), reason, f"{files} files: {ADVICE[reason]}")
        for (uid, reason), files in counts.items()
        if files
    ]


def _names(folders: Mapping[str, Collection[str]], good: Collection[str]) -> dict[str, str]:
    """UIDs, and folders that hold one series: one that may be taken, or else one that is refused."""
    names = {uid: uid for uids in folders.values() for uid in uids}
    for folder, uids in folders.items():
        inside = [uid for uid in uids if uid in good] or list(uids)
        if len(inside) == 1:
            names[folder] = inside[0]
    return names

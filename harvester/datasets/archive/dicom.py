"""The DICOM part of an archive: which series are taken, what is refused, and the marks of objects beside them.

`index` reads every header once; `SeriesIndex.take` picks among reconstructions when the tables are known.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path, PurePosixPath
from typing import Final

from harvester.config.data import ArchiveSettings
from harvester.datasets.archive.marks import WITH_OBJECTS
from harvester.datasets.archive.tables import ScanFiles
from harvester.datasets.discovery import salted_hash
from harvester.datasets.file_walk import FileList
from harvester.imaging.dicom.file import silence_dicom_loggers
from harvester.imaging.dicom.header import THREADS, Header, read_headers
from harvester.imaging.dicom.mark_objects import look_at
from harvester.imaging.dicom.series import Series, chosen, folder_of, gather, in_order, scans_of
from harvester.labels.dicom.lesions import files_of
from harvester.labels.dicom.rules import MarkRules, Passed, doubtful
from harvester.records import Reject

TABLES: Final = ("marks.csv", "volumes.csv", "marks.json", "annotations.json")
OTHERS: Final = (".nii", ".nii.gz")
"""What other parts of the archive read."""
FOREIGN: Final = {
    "packed": (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".7z", ".rar", ".gz", ".bz2", ".xz"),
    "other_format": (".mhd", ".mha", ".raw", ".zraw", ".nrrd", ".nhdr", ".hdr", ".img", ".mgz", ".npy", ".npz"),
    "tables_not_read": (".json", ".csv", ".tsv", ".xls", ".xlsx", ".xml"),
}
"""By the ending of a file that is no DICOM: it may hold scans or marks."""
PASSED_OVER: Final = (
    "parts of a DICOM object that give no mark, and may be lesions; their scan does not count as completely marked. "
    "See data.archive.dicom.lesion_names, other_names, lesion_codes and machine_marks, or take the object out"
)
ADVICE: Final = {
    "derived": "no images of a scanner (ImageType); data.archive.dicom.refused_image_types lists such",
    "dicomdir": "a DICOMDIR; not needed, every file is looked at",
    "link": "symbolic links; not followed, give --source the folder that they lead to",
    "localizer": "localizers (scouts); nothing to do",
    "multi_frame": "many frames in a file that are no stack of CT slices; convert to one file per slice",
    "no_geometry": "no position, orientation or PixelSpacing; export the series again",
    "no_image": "DICOM objects without an image; nothing to do",
    "no_permission": "files or folders that may not be read; let this user read them",
    "no_pixel_data": "CT objects without pixels; export the series again",
    "no_rescale": "no RescaleSlope and RescaleIntercept, so no Hounsfield units; export the series again",
    "no_series": "marks that refer to no series that was taken: they are lost; add it, or see why it is refused",
    "not_ct": "images of another modality; nothing to do",
    "not_dicom": "files that are not DICOM, NIfTI or a known table, by their endings neither scans nor marks",
    "not_grey": "images that are not grey with 16 bits; nothing to do",
    "not_hu": "values that are no Hounsfield units (RescaleType); nothing to do",
    "other_format": "scans of a format that is not read (MetaImage, NRRD, Analyze and others); convert them to NIfTI, "
    "with SimpleITK for example",
    "odd_slices": "slices of another size, spacing or orientation than most of their series; left out",
    "other_reconstruction": "another reconstruction of an acquisition that was taken; "
    "data.archive.dicom.reconstructions = all takes each",
    "packed": "packed files; unpack them",
    "tables_not_read": "tables or texts by their endings; marks are read from marks.csv, volumes.csv and COCO's "
    "marks.json or annotations.json in the archive's root",
    "secondary_capture": "secondary captures or other classes that are no CT image; nothing to do",
    "unreadable": "a broken file; export it again, or delete it",
}


@dataclass(frozen=True)
class SeriesIndex:
    """The DICOM series of an archive by their headers.

    root     of the archive
    series   what may be taken, checked, by key
    objects  files that may hold marks, as headers
    rejects  what is refused whatever the tables say
    names    key of what a table may call a series: its key, its UID, or a folder that it has for itself; refused ones
             too, "" for what several have
    """

    root: Path
    series: dict[str, Series]
    objects: Sequence[Header]
    rejects: Sequence[Reject]
    names: dict[str, str]

    def slice_of(self, name: str) -> tuple[str, int] | None:
        """Key and slice, as tables count them, by a slice's file or SOPInstanceUID."""
        return self._slices.get(name)

    @cached_property
    def _slices(self) -> dict[str, tuple[str, int]]:
        found: dict[str, tuple[str, int]] = {}
        for key, each in self.series.items():
            every = in_order(each)
            own_file = len({part.file for part in every}) == len(every)  # not so in a file of many frames
            for z, part in enumerate(every):
                found |= {part.sop: (key, z)} | ({part.file: (key, z)} if own_file else {})
        return found

    def take(
        self, named: Collection[str], settings: ArchiveSettings, salt: str
    ) -> tuple[list[ScanFiles], list[Reject]]:
        """The series to be stored, each with the files of its mark objects, and all that is refused.

        Of several reconstructions those are taken that are marked, or `named`: keys of what the tables name.
        """
        named_by_objects = {uid for each in self.objects for uid in each.refers}
        marked = {key for key, each in self.series.items() if each.uid in named_by_objects}
        taken = {each.key: each for each in chosen([*self.series.values()], marked | set(named), settings.dicom)}
        scans = {key: self._scan(each) for key, each in taken.items()}
        left = {
            (key, "other_reconstruction"): [part.file for part in each.slices]
            for key, each in self.series.items()
            if key not in scans
        }
        every = [*zip(self.objects, self._seen(taken, settings), strict=True)]
        for each, seen in every:
            for key in seen:
                scans[key].objects += [each.file] if each.kind == "object" else []
            if each.kind == "unread" and not any(counts.total() for counts in seen.values()):
                left[each.file, "no_image"] = [each.file]
            elif not seen:
                left[each.file, "no_series"] = [each.file]
        passed = [row for each, seen in every for row in _passed_over(each.file, seen, scans, salt)]
        return list(scans.values()), [*self.rejects, *_rejected_rows(left, salt), *passed]

    def _seen(self, taken: Mapping[str, Series], settings: ArchiveSettings) -> list[dict[str, Counter[Passed]]]:
        """Of each object the scans that it marks, and what of it gives no lesion there."""
        owners = _Owners(taken)
        if settings.marks not in WITH_OBJECTS:
            return [{key: Counter() for key in owners.named(each)} for each in self.objects]
        rules = MarkRules.of(settings.dicom)
        held = {each.sop for each in self.objects if each.kind == "object"}
        with silence_dicom_loggers(), ThreadPoolExecutor(THREADS) as pool:
            return [*pool.map(lambda each: self._judged(each, owners, held, rules), self.objects)]

    def _judged(
        self, header: Header, owners: "_Owners", held: Collection[str], rules: MarkRules
    ) -> dict[str, Counter[Passed]]:
        """held: SOPInstanceUIDs of the objects that are read: what they hold is no doubt in one that names them."""
        keys = owners.named(header)
        if not keys and header.refers:
            return {}
        look = look_at(self.root / header.file)
        if look is None:
            return {key: Counter() for key in keys}
        keys = owners.narrowed(look.sops, keys, header.frame)
        frames = {key: owners.taken[key].first.frame for key in keys}
        seen = {
            key: look.passed_over(owners.sops(key), frame, rules, {*frames.values()} - {frame})
            for key, frame in frames.items()
        }
        if not look.sops.isdisjoint(held):
            for passed in seen.values():
                passed.pop(Passed.SEGMENT, None)
        return seen

    def _scan(self, series: Series) -> ScanFiles:
        files = [self.root / file for file in dict.fromkeys(each.file for each in series.slices)]
        return ScanFiles(series.key, series.first.patient, files, set(), skipped=list(series.skipped))


class _Owners:
    """Which scans an object marks. A series' slices are looked through when they are first asked for."""

    def __init__(self, taken: Mapping[str, Series]) -> None:
        self.taken = taken
        self.of_uid: dict[str, list[str]] = defaultdict(list)
        for key, each in sorted(taken.items()):
            self.of_uid[each.uid].append(key)
        self.sops = cache(lambda key: frozenset(each.sop for each in taken[key].slices))

    def named(self, header: Header) -> list[str]:
        """The scans of the series that an object names."""
        return [key for uid in sorted(header.refers) for key in self.of_uid.get(uid, ())]

    def narrowed(self, sops: Collection[str], named: Sequence[str], frame: str) -> list[str]:
        """Of a series that holds several scans, those whose slices the object names. Of an object that names no series
        those whose slices it names, else the one in its frame of reference."""
        if named and len(named) == len({self.taken[key].uid for key in named}):
            return [*named]
        ours = [key for key in named or sorted(self.taken) if not files_of(self.sops(key)).isdisjoint(sops)]
        if ours or named:
            return ours or [*named]
        framed = [key for key, each in self.taken.items() if frame and each.first.frame == frame]
        return framed if len(framed) == 1 else []


def _passed_over(
    file: str, seen: Mapping[str, Counter[Passed]], scans: Mapping[str, ScanFiles], salt: str
) -> list[Reject]:
    """A row for an object that may hold more lesions than are read of it; its scans are not completely marked."""
    worst: Counter[Passed] = Counter()
    for key, passed in seen.items():
        count = doubtful(passed)
        scans[key].doubtful += count
        worst = max(worst, passed, key=doubtful) if count else worst
    if not worst:
        return []
    causes = ", ".join(f"{count} {why}" for why, count in sorted(worst.items()))
    return [Reject(salted_hash(file, salt), "marks_passed_over", f"{causes}: {PASSED_OVER}", (file,))]


def index(root: Path, listed: FileList, settings: ArchiveSettings, salt: str) -> SeriesIndex:
    """Every listed file under `root` by its header. Nothing is raised for a bad one, nothing read of pixels
    (but of two files with one UID). What macOS puts beside files is left out."""
    wanted = [file for file in listed.files if not _is_of_macos(file)]
    files = [file for file in wanted if file.lower() not in TABLES and not file.lower().endswith(OTHERS)]
    found = gather(read_headers(root, files, settings.dicom))
    links = {(file, "link"): [file] for file in listed.links if not file.lower().endswith(OTHERS)}
    found.rejected |= links | {(file, "no_permission"): [file] for file in listed.unreadable}
    good, bad = _sifted(found.series, root, settings, salt)
    series = {each.key: each for each in good}
    rejects = [*bad, *_rejected_rows(found.rejected, salt)]
    return SeriesIndex(root, series, found.objects, rejects, _names(found.folders, good))


def _is_of_macos(file: str) -> bool:
    parts = PurePosixPath(file).parts
    return parts[-1].startswith("._") or parts[-1] == ".DS_Store" or "__MACOSX" in parts


def _sifted(
    found: Sequence[Series], root: Path, settings: ArchiveSettings, salt: str
) -> tuple[list[Series], list[Reject]]:
    good, bad = [], []
    for each in found:
        scans, refused = scans_of(each, root, settings)
        good += scans
        for part, error in refused:
            files = tuple(dict.fromkeys(one.file for one in part.slices))
            message = f"a series of {len(files)} files: {error}"
            bad.append(Reject(salted_hash(part.key, salt), error.reason, message, files))
    return good, bad


def _rejected_rows(rejected: Mapping[tuple[str, str], Sequence[str]], salt: str) -> list[Reject]:
    """A row per series and reason; what is no DICOM in a row per ending that says what to do, whatever its number."""
    files: dict[tuple[str, str], list[str]] = defaultdict(list)
    for (name, reason), theirs in rejected.items():
        files[(_foreign(name),) * 2 if reason == "not_dicom" else (name, reason)] += theirs
    return [
        Reject(salted_hash(name, salt), reason, f"{len(theirs)} files: {ADVICE[reason]}", tuple(theirs))
        for (name, reason), theirs in files.items()
        if theirs
    ]


def _foreign(name: str) -> str:
    """The reason of a file that is no DICOM, by its ending."""
    lower = name.lower()
    return next((reason for reason, endings in FOREIGN.items() if lower.endswith(endings)), "not_dicom")


def _names(folders: Mapping[str, Collection[str]], good: Sequence[Series]) -> dict[str, str]:
    """Keys, UIDs, files that are a scan, and folders that hold one: one that may be taken, or else a refused one."""
    keys_of: dict[str, set[str]] = defaultdict(set)
    for each in good:
        files = {part.file for part in each.slices}
        for name in {each.key, each.uid, *map(folder_of, files), *(files if len(files) == 1 else ())}:
            keys_of[name].add(each.key)
    refused: dict[str, set[str]] = {uid: {uid} for uids in folders.values() for uid in uids}
    refused |= {folder: set(uids) for folder, uids in folders.items() if len(uids) == 1}
    return {name: min(keys) if len(keys) == 1 else "" for name, keys in (refused | keys_of).items()}

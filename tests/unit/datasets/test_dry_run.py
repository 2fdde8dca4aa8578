"""What --dry-run and splits.csv say of an archive."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harvester.certificate.preconditions import Archive, obstacles, told
from harvester.config.settings import Settings
from harvester.datasets.deeplesion.deeplesion import DeepLesionCase
from harvester.datasets.discovery import Discovery
from harvester.datasets.dry_run import dry_run_table, known_tables
from harvester.datasets.lists import rejects_csv, scans_csv, split_rows, splits_csv
from harvester.records import Reject
from tests.dicom_files import put_series


@dataclass(frozen=True)
class Case:
    volume_id: str
    patient_id: str
    split: str
    marks: list[dict[str, Any]] = field(default_factory=list)
    mask: str = ""
    split_origin: str = "drawn"


def told_of(found: Discovery) -> list[str]:
    """But that few patients prove nothing, which all of these are."""
    every = told(obstacles(Archive.of(*known_tables(found)), Settings()))
    return [line for line in every if "prove nothing at a precision" not in line]


MARKS = [{"where": f"marks.csv line {line}", "lesion": lesion} for line, lesion in ((2, ""), (3, "a"), (4, "a"))]
FOUND = Discovery(
    [
        Case("v1", "pb", "vm", MARKS, split_origin="given"),
        Case("v2", "pb", "vm", split_origin="given"),
        Case("v3", "pa", "vh", mask="a.mask.nii.gz"),
    ],
    [Reject("1", "not_3d", "one"), Reject("2", "link", "two"), Reject("3", "not_3d", "three")],
)


def test_scans_patients_and_lesions_are_counted_by_split_and_refusals_by_reason() -> None:
    assert dry_run_table(FOUND).splitlines() == [
        "split  scans  patients  with marks  marks  marks in files",
        "vm         2         1           1      2               0",
        "vh         1         1           0      0               1",
        "taken: 3 scans, refused: 3",
        "       1 link, the first: two",
        "       2 not_3d, the first: one",
    ]


def test_an_empty_archive_and_missing_roles_are_told() -> None:
    assert "taken: 0 scans, refused: 0" in dry_run_table(Discovery([]))
    assert len(told_of(Discovery([]))) == 2
    assert "nothing to harvest" in told_of(Discovery([Case("v", "p", "vm"), Case("u", "q", "vm")]))[0]
    assert "complete = 1" in told_of(Discovery([Case("v", "p", "vh")]))[0]


def test_what_is_known_before_a_file_is_read_is_judged() -> None:
    one, other = ({"where": str(at), "clinical": at == 0} for at in (0, 1))
    vm = [Case(f"m{at}", f"pm{at}", "vm", [one, other]) for at in range(3)]
    vh = [Case(f"h{at}", f"ph{at}", "vh", [one, other]) for at in range(3)]
    assert told_of(Discovery([*vm, *vh])) == []
    all_clinical = [Case(case.volume_id, case.patient_id, "vm", [one]) for case in vm]
    (line,) = told_of(Discovery([*all_clinical, *vh]))
    assert line.startswith("cannot be harvested with these settings: all 3 marks of V_M are clinical")
    # Marks that are read later, or drawn when all are there, are not judged.
    assert told_of(Discovery([*all_clinical, *vh[1:], Case("h", "ph", "vh", mask="a.mask.nii.gz")])) == []
    drawn = Discovery([*all_clinical, *vh], unflagged=frozenset(case.volume_id for case in vm))
    assert told_of(drawn) == [] and "lesions of 3 completely marked scans" in dry_run_table(drawn)


def test_that_few_patients_prove_nothing_is_told_before_anything_is_read() -> None:
    def noted(patients: int) -> list[str]:
        cases = [Case(f"m{at}", f"pm{at}", "vm", mask="a") for at in range(patients)] + [
            Case("h", "ph", "vh", mask="b")
        ]
        return told(obstacles(Archive.of(*known_tables(Discovery(cases))), Settings()))

    (line,) = noted(12)
    assert line.startswith("note: V_M has 12 patients, and fewer than 13 prove nothing")
    assert "--set operating_point.certificate=audit" in line
    assert "13 patients: fewer than some 39 rarely prove" in noted(13)[0]
    assert noted(39) == []


def test_splits_are_a_row_a_patient() -> None:
    rows = split_rows(FOUND)
    assert rows == [
        {"patient_id": "pa", "split": "vh", "origin": "drawn"},
        {"patient_id": "pb", "split": "vm", "origin": "given"},
    ]
    assert splits_csv(rows) == "patient_id,split,origin\npa,vh,drawn\npb,vm,given\n"


def test_refused_files_are_told_a_row_each_also_of_volumes_that_could_not_be_read() -> None:
    @dataclass(frozen=True)
    class WithFiles(Case):
        files: tuple[str, ...] = ("a/1.dcm", "a/2.dcm")

    found = Discovery([WithFiles("v1", "p", "vh")])
    rows = [
        Reject("9", "packed", "unpack, then", ("z.zip",)),
        Reject("h1", "not_hu", "no HU"),
        Reject("x", "link", "a link"),
    ]
    assert rejects_csv(Path("/data"), found, rows, {"v1": "h1"}).splitlines() == [
        "file,reason,message,volume_id",
        "/data,link,a link,",
        "/data/a/1.dcm,not_hu,no HU,v1",
        "/data/a/2.dcm,not_hu,no HU,v1",
        '/data/z.zip,packed,"unpack, then",',
    ]


def test_a_volumes_scan_is_found_again(tmp_path: Path) -> None:
    put_series(tmp_path / "s")
    (tmp_path / "a.nii").write_bytes(b"")

    @dataclass(frozen=True)
    class WithFiles(Case):
        files: tuple[str, ...] = ()

    cases = [WithFiles("v2", "p", "vh", files=("s/000.dcm", "s/001.dcm")), WithFiles("v1", "q", "vm", files=("a.nii",))]
    published = DeepLesionCase("000001_01_01_008-039", "000001", "vm", "000001_01_01", 8, 39, (1, 1, 1), (2, 2), 0, [])
    assert scans_csv(tmp_path, [published]).splitlines()[1:] == [
        f"000001_01_01_008-039,000001,vm,{tmp_path}/Images_png/000001_01_01/008.png,"
    ]
    assert scans_csv(tmp_path, [*cases, Case("v3", "r", "vh")]).splitlines() == [
        "volume_id,patient_id,split,file,SeriesInstanceUID",
        f"v1,q,vm,{tmp_path}/a.nii,",
        f"v2,p,vh,{tmp_path}/s/000.dcm,1.2.3",
        "v3,r,vh,,",
    ]

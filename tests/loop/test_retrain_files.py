"""A fit whose tubelets are broken is made anew by the next start, and the user is told so."""

from pathlib import Path

import pytest

from harvester.errors import StoreError
from harvester.records import TubeletTable, empty
from harvester.retrain import read_tubelets
from harvester.storage.location import Location


def test_a_fit_with_a_broken_file_counts_as_not_done(tmp_path: Path) -> None:
    fits = Location.of(tmp_path)
    (fits / "fcos.parquet").write_table(empty(TubeletTable))
    (fits / "fcos.json").write_text("{}")
    assert read_tubelets(fits, "fcos").num_rows == 0 and (tmp_path / "fcos.json").is_file()
    whole = (tmp_path / "fcos.parquet").read_bytes()
    (tmp_path / "fcos.parquet").write_bytes(whole[:100])
    with pytest.raises(StoreError, match=r"fcos\.parquet: is gone or broken; start the same command again"):
        read_tubelets(fits, "fcos")
    assert not (tmp_path / "fcos.json").exists()

"""What tune shows of a run."""

from harvester.cli.tune import by_vm
from harvester.config.loading import resolve


def test_where_people_are_to_prove_it_tune_shows_what_v_m_proves() -> None:
    left = resolve(None, ["operating_point.certificate=audit", "operating_point.target_precision=0.8"])
    shown = by_vm(left)
    assert (left.operating_point.certificate, shown.operating_point.certificate) == ("audit", "calibration")
    assert shown.operating_point.target_precision == 0.8
    both = resolve(None, ["operating_point.certificate=both"])
    assert by_vm(both) == both

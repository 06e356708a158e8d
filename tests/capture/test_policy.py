from ftvm.capture.pages import CapturePolicy, Way
from ftvm.units import Nanos

POLICY = CapturePolicy(
    pause_target_ns=Nanos(1_000_000), fused_page_ns=500.0, staged_page_ns=250.0, staged_pages_max=9000
)


def test_fused_while_it_keeps_the_pause_within_the_target() -> None:
    assert POLICY.choose(2000) is Way.FUSED
    assert POLICY.choose(2001) is Way.STAGED


def test_more_pages_than_staging_has_room_for_are_fused() -> None:
    assert POLICY.choose(9001) is Way.FUSED


def test_policy_follows_the_pauses_that_were_measured() -> None:
    policy = POLICY

    for _ in range(40):
        policy = policy.measured(Way.FUSED, pages=1000, pause_ns=Nanos(2_000_000))

    assert policy.choose(1000) is Way.STAGED
    assert policy.measured(Way.STAGED, pages=100, pause_ns=Nanos(100_000)).staged_page_ns > policy.staged_page_ns


def test_tiny_captures_teach_nothing() -> None:
    assert POLICY.measured(Way.FUSED, pages=3, pause_ns=Nanos(1_000_000)) == POLICY

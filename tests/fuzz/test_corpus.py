"""What the fuzzers once found worth keeping, run with every codec that this machine has, without clang."""

from pathlib import Path

import pytest

from ftvm.encode.delta import codec_names, delta_decode
from ftvm.errors import BadFrame
from ftvm.units import PAGE_BYTES

CORPUS = Path(__file__).parent / "corpus" / "delta_decode"
BASE = bytes(7 * i % 256 for i in range(PAGE_BYTES))


def decoded(delta: bytes, codec: str) -> bytes | None:
    try:
        return delta_decode(delta, BASE, codec=codec)
    except BadFrame:
        return None


@pytest.mark.parametrize("codec", codec_names())
def test_kept_inputs_are_decoded_or_refused_alike(codec: str) -> None:
    deltas = [path.read_bytes()[1:] for path in sorted(CORPUS.iterdir())]

    assert len(deltas) > 50
    assert [decoded(delta, codec) for delta in deltas] == [decoded(delta, "scalar") for delta in deltas]

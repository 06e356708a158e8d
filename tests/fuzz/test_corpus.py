"""What the fuzzers once found worth keeping, run with every codec that this machine has, without clang."""

from pathlib import Path

import pytest

from ftvm.errors import BadFrame
from ftvm.units import PAGE_BYTES

from ..encode.delta import codec_names, delta_decode

CORPUS = Path(__file__).parent / "corpus" / "delta_decode"
BASE = bytes(7 * i % 256 for i in range(PAGE_BYTES))


def decoded(kept: bytes, codec: str) -> bytes | None:
    slack = min(kept[0], len(kept) - 1)  # as delta_decode.c reads its input
    delta, behind = kept[1 : len(kept) - slack], kept[len(kept) - slack :]
    try:
        return delta_decode(delta, BASE, codec=codec, behind=behind)
    except BadFrame:
        return None


@pytest.mark.parametrize("codec", codec_names())
def test_kept_inputs_are_decoded_or_refused_alike(codec: str) -> None:
    inputs = [kept for path in sorted(CORPUS.iterdir()) if (kept := path.read_bytes())]

    assert len(inputs) > 50
    assert [decoded(kept, codec) for kept in inputs] == [decoded(kept, "scalar") for kept in inputs]

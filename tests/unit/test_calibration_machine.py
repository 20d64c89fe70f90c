"""What a processor says of itself decides how its int8 is made and spoken of."""

import platform

import pytest

from mmcl_edge.calibration.machine import int8_support, may_saturate

INTEL = "processor : 0\nflags\t\t: fpu sse2 avx2 {}\n"
CASES = {
    "avx512": (INTEL.format("avx512f avx512_vnni"), "x86_64", "avx512_vnni", False),
    "avx vnni": (INTEL.format("avx_vnni"), "x86_64", "avx_vnni", False),
    "old intel": (INTEL.format("avx512f"), "x86_64", None, True),
    "arm": ("processor : 0\nFeatures : fp asimd asimddp\n", "aarch64", "asimddp", False),
    "old arm": ("processor : 0\nFeatures : fp asimd\n", "aarch64", None, False),
}


@pytest.mark.parametrize(("text", "kind", "words", "saturates"), CASES.values(), ids=CASES)
def test_support_is_read_from_the_flags(tmp_path, monkeypatch, text, kind, words, saturates):
    monkeypatch.setattr(platform, "machine", lambda: kind)
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(text)
    found = int8_support(cpuinfo)
    assert found is None if words is None else words in found
    assert may_saturate(cpuinfo) is saturates


def test_where_nothing_is_said_nothing_is_claimed(tmp_path):
    assert int8_support(tmp_path / "none") is None

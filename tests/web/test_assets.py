"""The files of the page: compiled from the sources that are here, typed as they are, and small."""

import hashlib
import re

from web_decoder import SITE, page_bytes

from export.web.folder import assets

CHECKSUMS = SITE.parent / "kernels" / "checksums"
MAX_PACKED_BYTES = 60_000


def test_kernels_are_compiled_from_their_sources():
    lines = [line.split() for line in CHECKSUMS.read_text().splitlines()]
    sources = {str(path.relative_to(SITE.parent)) for path in CHECKSUMS.parent.glob("*.[ch]")}
    assert {name for _, name in lines} == sources | {
        "site/kernels.wasm",
        "site/kernels-fused.wasm",
    }
    for digest, name in lines:
        data = (SITE.parent / name).read_bytes()
        assert hashlib.sha256(data).hexdigest() == digest, "make wasm"


def test_page_is_small():
    assert page_bytes() < MAX_PACKED_BYTES


def test_types_are_those_of_the_player():
    script = (SITE / "nervcast.js").read_text()
    types = (SITE / "nervcast.d.ts").read_text()
    members = re.findall(r"^  (?:async |get |set )?([a-z]\w*)(?:\(| =|;)", script, re.MULTILINE)
    declared = re.findall(
        r"^  (?:readonly )?(\w+)(?:\(|:|<)", types.split("class NervPlayer")[1], re.MULTILINE
    )
    assert set(members) - {"if", "for"} <= set(declared)
    assert set(declared) <= set(members) | {"addEventListener"}
    statistics = re.search(r"get statistics\(\) \{.*?return \{(.*?)\n    \};", script, re.DOTALL)[1]
    listed = re.findall(r"^      (\w+):", statistics, re.MULTILINE)
    described = re.findall(
        r"^  (\w+):", types.split("interface NervStatistics {")[1].split("}")[0], re.MULTILINE
    )
    assert listed == described


def test_scripts_load_nothing_from_elsewhere():
    for name, data in assets():
        if name.endswith((".js", ".html", ".css")):
            assert b"http:" not in data
            assert b"https:" not in data

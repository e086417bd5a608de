"""The table of metrics, its page in the documentation, and what a server shows of it."""

import re
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from player.metrics import TABLE, Metrics

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "metrics.md"
ROW = re.compile(r"\| `(\w+)` \| (\w+) \| ([\w, ]+) \| (.+) \|")


def described():
    """Return the kind, labels and meaning of each metric of the page, by its name."""
    rows = ROW.findall(PAGE.read_text())
    return {name: (kind, labels, text[0].upper() + text[1:]) for name, kind, labels, text in rows}


def shown():
    """Return the kind, labels and help text of each metric of a server, by its name."""
    labels = {f"nervcast_{row.name}": ", ".join(row.labels) for row in TABLE}
    families = text_string_to_metric_families(Metrics().text().decode())
    return {
        family.name + ("_total" if family.type == "counter" else ""): (
            family.type,
            labels[family.name],
            family.documentation,
        )
        for family in families
    }


def test_page_describes_exactly_these_metrics():
    assert described() == shown()
    assert len(shown()) == len(TABLE)


def test_metrics_of_a_clip_are_there_from_the_start():
    metrics = Metrics()
    metrics.of("bunny")
    text = metrics.text().decode()
    for row in TABLE:
        is_there = f'nervcast_{row.name}{{clip="bunny"}}' in text.replace("_total", "").replace(
            "_count", ""
        )
        assert is_there == (row.labels == ("clip",)), row.name


def test_metrics_of_clips_and_codecs_are_counted_apart():
    metrics = Metrics()
    one, two = metrics.of("one"), metrics.of("two")
    one.sent.inc(3)
    two.sent.inc()
    one.encoded("H264").inc(2)
    one.encode_seconds("VP8").observe(0.5)
    metrics.responses.labels("404").inc()
    lines = metrics.text().decode().splitlines()
    assert 'nervcast_frames_sent_total{clip="one"} 3.0' in lines
    assert 'nervcast_frames_sent_total{clip="two"} 1.0' in lines
    assert 'nervcast_frames_encoded_total{clip="one",codec="H264"} 2.0' in lines
    assert 'nervcast_encode_seconds_sum{clip="one",codec="VP8"} 0.5' in lines
    assert 'nervcast_http_responses_total{status="404"} 1.0' in lines


def test_metrics_of_a_name_are_the_same():
    metrics = Metrics()
    metrics.of("one").viewers.set(2)
    assert metrics.of("one").viewers is metrics.of("one").viewers

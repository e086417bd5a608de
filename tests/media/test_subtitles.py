"""Subtitles and metadata of sources, through the commands, and into video files."""

import json
from fractions import Fraction

import av
import pytest
from media import numbered, write, yuv

import encoder
from encoder.cli.main import main as encoder_main
from encoder.codec.about import Chapter
from encoder.codec.clip import Clip
from encoder.codec.subtitles import Cue
from encoder.common.errors import SourceError
from encoder.media.metadata import read_about
from encoder.media.source import Source
from encoder.media.subtitles import read_subtitles, webvtt_text
from player.cli.main import main as player_main
from player.playback.subtitle_writer import apart

UNIT = Fraction(1, 1000)
RIGHT = [(0, 300, "One & <i>all</i>"), (300, 700, "Two\nlines"), (1200, 2900, "Late")]


def film(path, *, tracks=(("eng", RIGHT),), codec="subrip", chapters=(), delay=0, **metadata):
    """Write three seconds of video with subtitles; `delay` is the time of the first picture, in ms."""
    with av.open(path, "w") as container:
        container.metadata.update(metadata)
        if chapters:
            starts = [start for start, _ in chapters]
            container.set_chapters(
                [
                    {
                        "id": n,
                        "start": start,
                        "end": end,
                        "time_base": UNIT,
                        "metadata": {"title": title},
                    }
                    for n, ((start, title), end) in enumerate(
                        zip(chapters, [*starts[1:], 3000 + delay], strict=True)
                    )
                ]
            )
        video = container.add_stream("libx264", 25, options={"qp": "20"})
        video.width = video.height = 32
        video.metadata["language"] = "eng"
        texts = []
        for language, _ in tracks:
            stream = container.add_stream(codec)
            stream.codec_context.time_base = UNIT
            stream.codec_context.subtitle_header = b"[Script Info]\n"
            stream.codec_context.open(strict=False)
            stream.metadata["language"] = language
            texts.append(stream)
        for stream, (_, cues) in zip(texts, tracks, strict=True):
            for start, stop, text in cues:
                packet = av.Packet(text.encode())
                packet.stream, packet.time_base = stream, UNIT
                packet.pts = packet.dts = start + delay
                packet.duration = (stop or start) - start
                container.mux_one(packet)
        for number, picture in enumerate(numbered(75, step=3)):
            frame = yuv(picture)
            frame.pts, frame.time_base = number * 40 + delay, UNIT
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
    return path


def texts(path):
    """Return the cues of each text track of a video: start and end in ms, and FFmpeg's text."""
    found = []
    with av.open(path) as container:
        for stream in container.streams.subtitles:
            cues = []
            for packet in container.demux(stream):
                events = stream.codec_context.decode2(packet) if packet.size else ()
                for event in events or ():
                    start, length = (
                        round(1000 * t * packet.time_base) for t in (packet.pts, packet.duration)
                    )
                    cues.append((start, start + length, webvtt_text(event.ass.decode())))
            found.append((stream.metadata["language"], cues))
            container.seek(0)
    return found


@pytest.mark.parametrize("delay", [0, 1400])
def test_cues_are_in_time_with_the_pictures(tmp_path, delay):
    source = Source(film(tmp_path / "a.mkv", delay=delay))
    (track,) = read_subtitles(source, "all")
    assert track.language == "eng"
    assert track.cues == [
        Cue(0, 300, "One &amp; <i>all</i>"),
        Cue(300, 700, "Two\nlines"),
        Cue(1200, 2900, "Late"),
    ]


def test_cues_beyond_the_pictures_are_cut(tmp_path):
    cues = [(0, 500, "kept"), (2500, 9000, "cut"), (3500, 4000, "gone")]
    source = Source(film(tmp_path / "a.mkv", tracks=[("eng", cues)]))
    (track,) = read_subtitles(source, "all")
    assert track.cues == [Cue(0, 500, "kept"), Cue(2500, 3000, "cut")]


def test_cues_without_an_end_last_until_the_next(tmp_path):
    cues = [(0, None, "one"), (700, None, "two")]
    source = Source(film(tmp_path / "a.mkv", tracks=[("eng", cues)]))
    (track,) = read_subtitles(source, "all")
    assert track.cues == [Cue(0, 700, "one"), Cue(700, 3000, "two")]


def test_languages_are_chosen_and_repeated_tracks_left_out(tmp_path):
    other = [(0, 300, "Eins")]
    tracks = [("eng", RIGHT), ("ger", other), ("eng", RIGHT)]
    source = Source(film(tmp_path / "a.mkv", tracks=tracks))
    assert [x.language for x in read_subtitles(source, "all")] == ["eng", "ger"]
    assert [x.language for x in read_subtitles(source, "ger")] == ["ger"]
    assert read_subtitles(source, "none") == []
    with pytest.raises(SourceError, match=r"no subtitles in 'fra' in .*, which has eng, ger, eng"):
        read_subtitles(source, "eng,fra")


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (r"{\an8\i1}Up{\i0} & on", "<i>Up</i> &amp; on"),
        (r"{\b700}{\i1}both{\r}none", "<b><i>both</i></b>none"),
        (r"one\Ntwo\n three\hfour", "one\ntwo  three\N{NO-BREAK SPACE}four"),
        (r"a\N\N \Nb", "a\nb"),
        (r"{\p1}m 0 0 l 9 9{\p0}shown", "shown"),
        (r"{\blur2}{\iclip(1)}plain", "plain"),
        (r"<v Ann>a --> b", "&lt;v Ann&gt;a --&gt; b"),
        ("bell\x07, comma, " + "é" * 2000, "bell , comma, " + "é" * 386),
        (r"{\i1} {\i0}", "<i> </i>"),
        (r"{\p1}m 0 0", ""),
    ],
)
def test_text_of_ass_becomes_that_of_webvtt(event, text):
    assert webvtt_text(f"0,0,Default,,0,0,0,,{event}") == text


def test_metadata_of_sources(tmp_path):
    chapters = [(0, "Begin"), (1000, "Middle"), (2000, "End")]
    path = film(tmp_path / "a.mkv", chapters=chapters, delay=400, title=" A\nfilm ", date="2024")
    about = read_about(Source(path))
    assert (about.title, about.language, about.date) == ("A film", "eng", "2024")
    assert about.chapters == (Chapter(0, "Begin"), Chapter(600, "Middle"), Chapter(1600, "End"))


@pytest.mark.parametrize(
    ("date", "kept"),
    [
        ("1970-01-01T00:00:00.000000Z", ""),
        ("1904-01-01T00:00:00", ""),
        ("1970-01-02T10:00:00Z", "1970-01-02T10:00:00Z"),
    ],
)
def test_dates_that_stand_for_none(tmp_path, date, kept):
    assert read_about(Source(film(tmp_path / "a.mkv", date=date))).date == kept


def test_subtitles_and_metadata_go_through_all_commands(tmp_path, capsys):
    chapters = [(0, "Begin"), (2000, "End")]
    source = film(tmp_path / "a.mkv", chapters=chapters, title="Film", date="2024")
    clip = tmp_path / "a.nerv"
    fit = ["fit", str(source), "-o", str(clip), "--epochs", "1", "--size", "XS"]
    assert encoder_main([*fit, "--segment-frames", "25"]) == 0
    capsys.readouterr()
    assert encoder_main(["info", str(clip), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert [facts[name] for name in ("subtitles", "cues", "title", "date", "chapters")] == [
        "eng",
        3,
        "Film",
        "2024",
        2,
    ]
    read = Clip.read(clip)
    assert read.extra_bytes == clip.stat().st_size - round(
        facts["picture_bits_per_pixel"] * 32 * 32 * 75 / 8
    )
    shown = [(0, 300, "One &amp; <i>all</i>"), (300, 700, "Two\nlines"), (1200, 2900, "Late")]
    for name in ("out.mkv", "out.mp4", "out.webm"):
        assert player_main(["decode", str(clip), str(tmp_path / name)]) == 0
        ((language, cues),) = texts(tmp_path / name)
        assert language == "eng"
        assert cues == shown
        with av.open(tmp_path / name) as container:
            assert container.metadata["title"] == "Film"
            told = [
                (x["metadata"]["title"], x["start"] * x["time_base"]) for x in container.chapters()
            ]
        assert told == [("Begin", 0), ("End", 2)]
    part = ["--frames", "10:65", "--fps", "50"]
    assert player_main(["decode", str(clip), str(tmp_path / "part.mkv"), *part]) == 0
    ((_, cues),) = texts(tmp_path / "part.mkv")
    assert cues == [(0, 300, "Two\nlines"), (800, 2200, "Late")]
    with av.open(tmp_path / "part.mkv") as container:
        assert [x["start"] * x["time_base"] for x in container.chapters()] == [0, Fraction(8, 5)]


def test_subtitles_and_metadata_can_be_left_out(tmp_path):
    source = film(tmp_path / "a.mkv", title="Film")
    plain = encoder.fit(source, epochs=1, size="XS", subtitles="none", metadata=False)
    assert plain.extra_bytes == 0
    assert "--subtitles none --no-metadata" in plain.header.settings
    clip = encoder.fit(source, epochs=1, size="XS")
    assert len(clip.extras.subtitles[0].cues) == 3
    figures = encoder.evaluate(clip, source)
    assert figures.picture_bits_per_pixel < figures.bits_per_pixel


def test_options_of_the_command_line_leave_them_out(tmp_path):
    source = film(tmp_path / "a.mkv", title="Film", tracks=[("eng", RIGHT), ("ger", RIGHT[:1])])
    clip = tmp_path / "a.nerv"
    fit = ["fit", str(source), "-o", str(clip), "--epochs", "1", "--size", "XS"]
    assert encoder_main([*fit, "--subtitles", "ger", "--no-metadata"]) == 0
    extras = Clip.read(clip).extras
    assert [track.language for track in extras.subtitles] == ["ger"]
    assert extras.about.title == ""
    assert encoder_main([*fit, "--subtitles", "fra"]) == 2


def test_tracks_without_a_decoder_are_left_out(tmp_path):
    path = film(tmp_path / "a.mkv", tracks=[("eng", RIGHT), ("ger", RIGHT)])
    data = path.read_bytes()
    assert data.count(b"S_TEXT/UTF8") == 2
    path.write_bytes(data.replace(b"S_TEXT/UTF8", b"S_TEXT/XXXX", 1))
    assert [track.language for track in read_subtitles(Source(path), "all")] == ["ger"]


def test_a_crowd_of_cues_is_bounded():
    crowd = [Cue(number, 5000, f"{number}") for number in range(2000)]
    made = apart(crowd)
    assert max(len(cue.text.split("\n")) for cue in made) == 8
    assert made[-1].text.split("\n")[-1] == "1999"


def test_cues_that_overlap_are_taken_apart_for_timed_text():
    cues = [Cue(0, 400, "a"), Cue(100, 200, "b"), Cue(100, 500, "c"), Cue(600, 700, "d")]
    assert apart(cues) == [
        Cue(0, 100, "a"),
        Cue(100, 200, "a\nb\nc"),
        Cue(200, 400, "a\nc"),
        Cue(400, 500, "c"),
        Cue(600, 700, "d"),
    ]


def test_pictures_as_subtitles_are_left_out(tmp_path):
    write(tmp_path / "a.mp4", [yuv(picture) for picture in numbered(10)])
    assert read_subtitles(Source(tmp_path / "a.mp4"), "all") == []

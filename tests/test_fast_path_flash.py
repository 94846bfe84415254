"""Flash analysis against rendered clips with a known number of flashes, and against a slow obvious oracle."""

import itertools
import json
from dataclasses import replace

import media
import numpy as np
import pytest

from fast_path.detectors import flash as flash_detector
from fast_path.flash import FlashAnalyzer, FlashResult, FlashSettings, FlashSink, analyse
from fast_path.flash.light import LINEAR, grid_size, measure
from fast_path.flash.settings import BROADCAST
from fast_path.router import Config as RouterConfig
from fast_path.router import build as build_router
from guard.errors import InvalidConfig
from guard.limits import Limits
from guard.types import Coverage, Frames, Policy, RouteReason, Rule
from guard.video.sandbox import SandboxedDecoder
from guard.video.source import open_video

PASS, WARNING, EXTENDED, FAIL = FlashResult
BLACK, WHITE, RED, BLUE, GREY = (0, 0, 0), (255, 255, 255), (255, 0, 0), (0, 0, 255), (128, 128, 128)


def picture(colour, *, size=(24, 42), box=(0.0, 0.0, 1.0, 1.0), ground=GREY):
    """Paint `colour` in a box (top, left, bottom, right, as fractions) on a ground."""
    height, width = size
    image = np.empty((height, width, 3), np.uint8)
    image[:] = ground
    top, left, bottom, right = box
    image[round(top * height) : round(bottom * height), round(left * width) : round(right * width)] = colour
    return image


def square_wave(hertz, seconds, *, fps=30.0, colours=(BLACK, WHITE), **how):
    """A clip that changes between two colours `hertz` times there and back per second."""
    for index in range(round(seconds * fps)):
        now = index / fps
        yield picture(colours[int(now * hertz * 2 + 1e-9) % 2], **how), now


@pytest.mark.parametrize(
    ("hertz", "changes", "result"),
    [(1, 2, PASS), (2, 4, EXTENDED), (3, 6, EXTENDED), (3.5, 7, FAIL), (4, 8, FAIL), (6, 12, FAIL), (15, 30, FAIL)],
)
def test_flashes_per_second_are_counted(hertz, changes, result):
    report = analyse(square_wave(hertz, 8.0))
    assert report.general.peak_transitions == changes
    assert (report.general.result, report.result, report.rounds) == (result, result, 1)
    assert report.red.peak_transitions == 0


def test_three_flashes_in_one_second_are_allowed_and_a_fourth_is_not():
    def burst(flashes):
        lit = {30 + 6 * n for n in range(flashes)}
        return ((picture(WHITE if index in lit else BLACK), index / 30) for index in range(240))

    assert analyse(burst(3)).result is WARNING
    assert analyse(burst(3)).general.peak_flashes == 3
    assert analyse(burst(4)).result is FAIL


def test_worst_second_and_spans_say_when():
    clip = list(square_wave(6, 6.0))
    calm = [(picture(BLACK), at) for _, at in clip]
    mixed = [clip[i] if 2.0 <= calm[i][1] < 4.0 else calm[i] for i in range(len(clip))]
    report = analyse(mixed)
    assert report.result is FAIL
    failing = [span for span in report.general.spans if span.result is FAIL]
    assert [2.5 <= span.start_seconds < span.end_seconds <= 5.0 for span in failing] == [True]
    assert 2.0 <= report.general.worst_second_start + 0.05 <= 3.0


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 80, 0),  # luminance 0 to 0.080
        (0, 90, 12),  # 0 to 0.102
        (100, 123, 0),  # 0.127 to 0.198
        (230, 255, 12),  # 0.791 to 1
        (235, 255, 0),  # 0.831 to 1: over a tenth, but neither state is dark
    ],
)
def test_a_general_flash_needs_a_tenth_and_a_dark_state(low, high, expected):
    assert (LINEAR[high] - LINEAR[low] >= 0.1 and LINEAR[low] < 0.8) == (expected > 0)
    peak = analyse(square_wave(6, 3.0, colours=((low,) * 3, (high,) * 3))).general.peak_transitions
    assert peak == expected


def test_a_ramp_is_one_change():
    levels = np.concatenate([np.linspace(0, 255, 15), np.linspace(255, 0, 15)]).astype(np.uint8)
    clip = ((picture((level,) * 3), index / 30) for index, level in enumerate(np.tile(levels, 6)))
    assert analyse(clip).general.peak_transitions == 2


@pytest.mark.parametrize(
    ("box", "local", "screen"),
    [
        ((0.0, 0.0, 1.0, 1.0), True, True),
        ((0.0, 0.0, 0.5, 0.5), True, True),
        ((0.4, 0.4, 0.6, 0.6), True, False),  # 4 % of the screen, more than a quarter of a third by a third
        ((0.0, 0.0, 0.1, 0.1), False, False),
    ],
)
def test_area_counts_in_the_visual_field_or_on_the_whole_screen(box, local, screen):
    clip = list(square_wave(6, 6.0, box=box))
    assert (analyse(clip).result is FAIL) == local
    assert (analyse(clip, BROADCAST).result is FAIL) == screen


def test_halves_that_flash_in_turn_are_not_added_up():
    def clip():
        for index in range(240):
            lit = int(index / 30 * 2 * 2) % 2  # 2 Hz
            image = picture(WHITE if lit else BLACK, box=(0, 0, 1, 0.5), ground=BLACK if lit else WHITE)
            yield image, index / 30

    assert analyse(clip()).general.peak_transitions == 4


def test_flashes_at_different_places_are_not_added_up():
    def clip():
        for index in range(240):
            place = index // 3 % 10  # a light runs over ten places, each lit once a second for a tenth
            yield picture(WHITE, box=(0, place / 10, 1, (place + 1) / 10), ground=BLACK), index / 30

    assert analyse(clip()).general.peak_transitions == 2


@pytest.mark.parametrize("rule", ["wcag22", "wcag20"])
@pytest.mark.parametrize(
    ("colours", "expected"),
    [((RED, BLUE), 12), ((RED, BLACK), 12), ((RED, WHITE), 12), ((BLUE, BLACK), 0), (((40, 0, 0), BLACK), 0)],
)
def test_red_flashes(rule, colours, expected):
    settings = FlashSettings(red_rule=rule)
    assert analyse(square_wave(6, 6.0, colours=colours), settings).red.peak_transitions == expected


def test_a_brief_clip_is_played_again():
    clip = list(square_wave(5, 0.4))  # two flashes: harmless once, five a second when it loops
    assert analyse(clip).result is FAIL
    assert analyse(clip).rounds > 1
    assert analyse(clip, FlashSettings(loop_below_seconds=0.0)).result is PASS
    still = [(picture(WHITE), 0.0)]
    assert (analyse(still).result, analyse(still).rounds) == (PASS, 1)


def test_uneven_frame_times_are_counted_by_time():
    random = np.random.default_rng(1)
    times = np.cumsum(random.uniform(0.01, 0.08, 200))
    clip = ((picture(WHITE if int(at * 10) % 2 else BLACK), float(at)) for at in times)
    assert analyse(clip).general.peak_transitions in (10, 11)


def oracle(clip, settings):
    """Per-frame numbers by plain loops over cells, windows and earlier events. Slow and obvious."""
    h, w = clip[0][0].shape[:2]
    wh, ww = round(h * settings.window_fraction), round(w * settings.window_fraction)
    need = settings.area_fraction * wh * ww
    windows = list(itertools.product(range(h - wh + 1), range(w - ww + 1)))
    values, counted, waiting, numbers = {}, [], {}, []
    for image, now in clip:
        light = measure(image, (h, w), settings.red_ratio).luminance
        for y, x in itertools.product(range(h), range(w)):
            value = light[y, x]
            low, high = values.get((y, x), (value, value))
            low = min(low, value) if low is not None else None
            high = max(high, value) if high is not None else None
            if low is not None and value - low >= np.float32(settings.luminance_step) and low < settings.dark_below:
                waiting[y, x, 0], (low, high) = now, (None, value)
            elif (
                high is not None and high - value >= np.float32(settings.luminance_step) and value < settings.dark_below
            ):
                waiting[y, x, 1], (low, high) = now, (value, None)
            values[y, x] = (low, high)
        for direction in (0, 1):
            ready = {
                (y, x) for (y, x, d), at in waiting.items() if d == direction and now - at <= settings.together_seconds
            }
            chosen = set()
            for top, left in windows:
                inside = {(y, x) for y, x in ready if top <= y < top + wh and left <= x < left + ww}
                if len(inside) >= need:
                    chosen |= inside
            for y, x in chosen:
                del waiting[y, x, direction]
                counted.append((now, y, x))
        counts = np.zeros((h, w), int)
        for at, y, x in counted:
            counts[y, x] += now - at < 1.0 - 1e-6
        best = 0
        for n in range(1, counts.max() + 1):
            if any((counts[t : t + wh, u : u + ww] >= n).sum() >= need for t, u in windows):
                best = n
        numbers.append(best)
    return numbers


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("fraction", [1 / 3, 1.0])
def test_the_fast_analysis_equals_the_oracle(seed, fraction):
    random = np.random.default_rng(seed)
    h, w = 8, 12
    blobs = random.integers(0, 2, (5, h, w))
    periods = random.integers(3, 9, 5)

    def clip():
        for index in range(45):
            image = np.full((h, w), 60.0)
            for blob, period in zip(blobs, periods, strict=True):
                image += blob * 90 * ((index // period) % 2)
            image += random.normal(0, 8, (h, w))
            yield np.repeat(np.clip(image, 0, 255).astype(np.uint8)[..., None], 3, axis=2), index / 15

    frames = list(clip())
    settings = FlashSettings(window_fraction=fraction, loop_below_seconds=0.0, max_side_cells=8)
    expected = oracle(frames, settings)
    assert analyse(frames, settings).general.transitions.tolist() == expected
    assert max(expected) >= 3  # the clip does flash, or equality would prove little


def frames(clip, *, every=True):
    images, times = zip(*clip, strict=True)
    count = len(images)
    return Frames(
        images=np.stack(images), pts_seconds=np.array(times), burst_ids=np.zeros(count, np.int32),
        coverage=Coverage(
            frames_scored=count, frames_decoded=count if every else count * 4, largest_gap_seconds=0.1,
            full_decode=every,
            decoded_seconds=times[-1], declared_seconds=times[-1], complete=True, sampler="every", seed=0,
        ),
    )  # fmt: skip


def flashing_policy():
    rules = {name: Rule(category=name, state="block") for name in flash_detector.CATEGORIES}
    return Policy(name="p", version="1", hash="h", rules=rules)


@pytest.mark.parametrize(
    ("hertz", "seconds", "reason"),
    [
        (1, 6.0, RouteReason.CONFIDENT_CLEAR),
        (3, 6.0, RouteReason.UNCERTAIN),  # a long sequence of allowed flashes
        (4, 6.0, RouteReason.CONFIDENT_VIOLATION),
    ],
)
def test_detector_scores_fit_the_default_thresholds(hertz, seconds, reason):
    video = frames(square_wave(hertz, seconds))
    scores = flash_detector.build(flash_detector.Config()).score([video])
    found = build_router(RouterConfig()).route(scores, flashing_policy(), video.coverage)
    assert found.reason is reason


def test_detector_never_clears_a_sample():
    video = frames(square_wave(1, 6.0), every=False)
    scores = flash_detector.tiny().score([video])[0]
    assert scores.probability.tolist() == [0.5, 0.5]


def test_detector_gives_one_moment_per_frame_with_the_fail_limit_at_half():
    video = frames(square_wave(6, 4.0))
    scores = flash_detector.tiny().score([video])[0]
    assert scores.per_moment.shape == (120, 2)
    report = analyse(zip(video.images, video.pts_seconds.tolist(), strict=True), FlashSettings(max_side_cells=24))
    above = scores.per_moment[:, 0] >= 0.5
    assert above.tolist() == [result in (FAIL, EXTENDED) for result in report.general.results]


def test_fingerprint_changes_with_the_settings():
    default = flash_detector.build(flash_detector.Config())
    other = flash_detector.build(flash_detector.Config(settings=BROADCAST))
    assert default.fingerprint != other.fingerprint


@pytest.mark.parametrize(
    ("image", "at", "match"),
    [
        (np.zeros((8, 8), np.uint8), 0.0, "uint8"),
        (np.zeros((8, 8, 3), np.float32), 0.0, "uint8"),
        (picture(BLACK), float("nan"), "finite"),
    ],
)
def test_bad_frames_are_refused(image, at, match):
    with pytest.raises(ValueError, match=match):
        FlashAnalyzer().update(image, at)


def test_sink_equals_the_whole_and_can_start_over():
    video = frames(square_wave(6, 4.0))
    sink = FlashSink(side_px=32)
    assert sink.needs.every_frame
    sink.take(frames(square_wave(1, 4.0)))
    sink.restart()
    for start in range(0, 120, 50):
        part = slice(start, min(start + 50, 120))
        sink.take(
            replace(
                video, images=video.images[part], pts_seconds=video.pts_seconds[part], burst_ids=video.burst_ids[part]
            )
        )
    report = sink.finish()
    whole = analyse(zip(video.images, video.pts_seconds.tolist(), strict=True))
    assert report.as_dict() == whole.as_dict()
    assert report.general.transitions.tolist() == whole.general.transitions.tolist()


def test_report_becomes_json():
    report = analyse(square_wave(6, 6.0))
    content = json.loads(json.dumps(report.as_dict()))
    assert content["result"] == content["general"]["result"] == "fail"
    assert content["red"] == {"result": "pass", "peak_transitions": 0, "worst_second_start": 0.0, "spans": []}
    assert content["general"]["spans"][-1]["end_seconds"] == content["duration_seconds"] == 6.0
    assert report.kind("red") is report.red


def test_frames_must_advance_and_keep_their_size():
    analyzer = FlashAnalyzer()
    analyzer.update(picture(BLACK), 0.0)
    with pytest.raises(ValueError, match="increasing"):
        analyzer.update(picture(BLACK), 0.0)
    with pytest.raises(ValueError, match="one size"):
        analyzer.update(picture(BLACK, size=(30, 30)), 1.0)
    with pytest.raises(ValueError, match="at least one"):
        FlashAnalyzer().finish()


@pytest.mark.parametrize(
    "bad",
    [{"area_fraction": 0}, {"red_rule": "x"}, {"warn_transitions": 7}, {"max_side_cells": 1}, {"extended_seconds": 9}],
)
def test_bad_settings_are_refused(bad):
    with pytest.raises(InvalidConfig):
        FlashSettings(**bad)


def test_grid_keeps_the_shape_and_never_enlarges():
    assert grid_size(360, 640, 72) == (72, 128)
    assert grid_size(10, 40, 72) == (10, 40)
    assert grid_size(2000, 1, 72) == (2000, 1)


def test_averaging_is_done_in_linear_light():
    fine = np.zeros((16, 16, 3), np.uint8)
    fine[::2] = 255
    light = measure(fine, (8, 8), 0.8)
    np.testing.assert_allclose(light.luminance, 0.5, atol=1e-6)  # averaging the stored values would give 0.216


@pytest.mark.parametrize(("hertz", "expected"), [(1, PASS), (2, EXTENDED), (3, EXTENDED), (4, FAIL), (6, FAIL)])
def test_encoded_clips_are_measured_through_the_decoder(decoder, hertz, expected):
    """The whole way: H.264, the sandboxed decoder at low resolution, every frame."""

    def draw(number):
        lit = number * hertz * 2 // 30 % 2
        return picture(WHITE if lit else BLACK, size=(96, 160), box=(0.1, 0.1, 0.9, 0.9))

    clip = media.render(frames=180, size=(160, 96), draw=draw)
    sink = FlashSink()
    fed = decoder.feed(open_video(clip, limits=Limits()), sink.needs, sink)
    report = sink.finish()
    assert len(report.frame_seconds) == fed.coverage.frames_decoded == 180
    assert report.result is expected
    assert report.general.peak_transitions == 2 * hertz


@pytest.fixture(scope="module")
def decoder():
    with SandboxedDecoder() as found:
        yield found

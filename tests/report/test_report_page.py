"""What the report says, and that it says it of any build."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from certification.build_folders import WRONG, context, without_certify_samples, write_folder
from PIL import Image
from pydantic import ValidationError
from report.report_folders import HOSTILE, decide, other_samples, whole_folder, write_board

from sgsc_edge import api
from sgsc_edge.artifacts import read_json, write_json, write_manifest
from sgsc_edge.certification import Certificate, RuntimeRun
from sgsc_edge.certification.certificate import seal
from sgsc_edge.certification.records import Statement
from sgsc_edge.certification.verify import certify_folder
from sgsc_edge.errors import FileFormatError, FolderInUseError
from sgsc_edge.report import costs_only_the_report, read_build, render, report_key, write_report
from sgsc_edge.report.decided import decided
from sgsc_edge.report.sections.flips import SHOWN, SIDE

VOID = {"meta", "link", "br", "img"}


class Page(HTMLParser):
    """The page's elements: every tag must be closed in its order."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.said: list[str] = []
        self.feed(page.decode())
        self.close()
        assert self.open == []
        assert len(set(self.ids)) == len(self.ids)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.append((tag, given))
        self.ids += [value for name, value in attrs if name == "id" and value is not None]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.said.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.said))

    def having(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A failed build with every file; read only."""
    return whole_folder(tmp_path_factory.mktemp("report") / "build", max_drop=0.01)


def copied(folder: Path, to: Path) -> Path:
    to.mkdir()
    for path in folder.iterdir():
        (to / path.name).write_bytes(path.read_bytes())
    return to


def test_it_says_verdict_sizes_training_boards_and_hashes(folder: Path) -> None:
    page = Page(render(read_build(folder)))
    text = page.text
    assert "Failed Compressed model against float: accuracy drop against float is 2.00 points" in text
    # 48 + 108 weights, 6 + 3 channels with a bias and two scales of their own.
    assert (
        "plain int8 every channel at 8 bits: weights, biases and their scales in model.tflite 408 10.2 %"
        in text
    )
    assert "float32 4 bytes for each of the model's parameters 4,000 100.0 %" in text
    assert "4.5 (2.0 to 8.0)" in text
    assert "because of plain" in text
    assert "3 epochs; the control, a float model fine-tuned alike, had 3" in text
    assert "Over epoch 1 to 3: training from 1 to 0.3333; watch from 0.5 to 0.5" in text
    assert "1,234,567" in text
    assert "56 of 56 equal to TFLite Micro" in text
    assert "tensorflow optional" in text
    certificate = api.verify(folder)
    assert certificate.predicate.digest in text
    assert all(digest in text for digest in certificate.subjects.values())


def test_nothing_is_asked_of_the_outside(folder: Path) -> None:
    page = Page(render(read_build(folder)))
    assert not page.having("script")
    for _, attributes in page.tags:
        for name in ("src", "href"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#"))
    policy = next(meta for meta in page.having("meta") if meta.get("http-equiv"))["content"]
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_every_chart_is_said_in_words(folder: Path) -> None:
    page = Page(render(read_build(folder)))
    pictures = [one for one in page.having("svg") if one.get("aria-hidden") is None]
    assert len(pictures) > 3
    assert all(
        one.get("role") == "img" and (one.get("aria-label") or one.get("aria-labelledby")) for one in pictures
    )
    assert "The controller acted at 1." in page.text


def test_names_from_elsewhere_are_text(tmp_path: Path) -> None:
    folder = whole_folder(tmp_path / "build", name=HOSTILE)
    page = render(read_build(folder))
    parsed = Page(page)
    assert not parsed.having("script")
    assert b"<script" not in page
    assert "\u202e" not in page.decode()
    for place in (
        "because of {}",
        "{} 1 ",
        "(Grad-CAM at {})",
        "every cluster of what {} is given",
        "{} cortex-m4",
    ):
        assert place.format(HOSTILE.replace("\u202e", "\\u202e")) in parsed.text, place


def test_decisions_of_runtimes_are_their_own(folder: Path) -> None:
    """The compressed model decides three samples wrongly; the runtime one of them, and another one."""

    def runs(sets: Any) -> dict[str, RuntimeRun]:
        outputs = {part: one.compressed_logits.copy() for part, one in sets.items()}
        outputs["certify"][0] = 100 * np.eye(3, dtype=np.int8)[sets["certify"].labels[0]]
        outputs["certify"][9] = np.roll(outputs["certify"][9], 2)
        return {"numpy": RuntimeRun("ok", "2", outputs=outputs)}

    build = other_samples(folder, (4, 4, 1), stated=(1, 4, 4), edit=lambda a: decide(a, 3), runs=runs)
    found = decided(build, "certify")
    labels = found.labels
    assert found.by_model["float"].tolist() == labels.tolist()
    assert np.flatnonzero(found.by_model["compressed"] != labels).tolist() == [0, 1, 2]
    assert np.flatnonzero(found.by_model["numpy"] != labels).tolist() == [1, 2, 9]
    assert found.by_model["numpy"][9] == (labels[9] + 2) % 3
    text = Page(render(build)).text
    assert (
        "4 samples of certify and must_keep are not decided alike by float, the compressed model and every "
        "runtime that ran." in text
    )
    # Class 0 has samples 0, 3, .. 48: the compressed model lost sample 0, the runtime sample 9.
    assert re.search(r"class 0 17 17 16 −1 16 −1", text)
    assert "class 0 class 0 class 2 right → wrong 1 numpy" in text
    assert "✓ class 0 numpy ✕" not in text  # the order of decisions: float, compressed, then who differs


def test_pictures_are_the_samples(folder: Path) -> None:
    build = other_samples(folder, (4, 4, 1), stated=(1, 4, 4), edit=lambda a: decide(a, 1))
    page = Page(render(build))
    (image,) = page.having("img")
    assert image["alt"] == "Sample of class class 0. float: class 0; compressed and every runtime: class 1."
    shown = np.asarray(
        Image.open(io.BytesIO(base64.b64decode((image["src"] or "").split(",")[1]))).convert("L")
    )
    fed = build.sets["certify"].inputs[0][..., 0].astype(int)
    factor = SIDE // 4
    assert shown.shape == (SIDE, SIDE)
    expected = np.rint((fed - fed.min()) * 255 / (fed.max() - fed.min()))
    assert np.abs(shown[::factor, ::factor] - expected).max() <= 1


@pytest.mark.parametrize(
    ("shape", "stated"),
    [((1, 40, 2), (2, 40)), ((64,), (64,)), ((1,), (1,)), ((5, 7, 4), (4, 5, 7)), ((1, 3000, 1), (1, 3000))],
)
def test_samples_that_are_no_images_are_plots(
    folder: Path, shape: tuple[int, ...], stated: tuple[int, ...]
) -> None:
    build = other_samples(folder, shape, stated=stated, edit=lambda a: decide(a, 2))
    page = render(build)
    parsed = Page(page)
    assert not parsed.having("img")
    plots = [one for one in parsed.having("svg") if one.get("class") == "plot"]
    assert len(plots) == 2
    assert len(page) < 100_000
    per_line = stated[-1]
    assert f"{per_line:,} values" in parsed.text


def test_hundreds_of_flips_and_classes_stay_small(folder: Path) -> None:
    def every(arrays: dict[str, np.ndarray]) -> None:
        size = 600
        labels = (np.arange(size) % 100).astype(np.int64)
        chance = np.random.default_rng(3)
        arrays["certify_inputs"] = chance.integers(-128, 128, (size, 120, 130, 3)).astype(np.int8)
        arrays["certify_labels"] = labels
        arrays["certify_ids"] = np.array([f"c{number:05d}" for number in range(size)], "<U16")
        arrays["certify_float_logits"] = np.eye(100, dtype=np.float32)[labels]
        arrays["certify_compressed_logits"] = 100 * np.eye(100, dtype=np.int8)[(labels + 1) % 100]

    build = other_samples(folder, (120, 130, 3), classes=100, stated=(3, 120, 130), edit=every)
    page = render(build)
    assert len(page) < 3_000_000
    parsed = Page(page)
    assert len(parsed.having("img")) == SHOWN
    assert "600 samples of certify and must_keep are not decided alike" in parsed.text
    assert f"; the {SHOWN} that matter most are shown" in parsed.text
    assert "class 99" in parsed.text


def test_must_keep_and_lost_decisions_come_first(folder: Path) -> None:
    def edit(arrays: dict[str, np.ndarray]) -> None:
        decide(arrays, 3)
        logits = arrays["must_keep_compressed_logits"]
        logits[4] = np.roll(logits[4], 1)
        arrays["certify_float_logits"][1] = np.roll(arrays["certify_float_logits"][1], 2)  # wrong before, too
        arrays["certify_float_logits"][7] = np.roll(arrays["certify_float_logits"][7], 2)

    page = Page(render(other_samples(folder, (4, 4, 1), stated=(1, 4, 4), edit=edit)))
    kinds = re.findall(r"right decision lost|runtimes differ|decided better|wrong otherwise", page.text)
    assert kinds == ["right decision lost"] * 3 + ["decided better", "wrong otherwise"]
    assert page.text.index("must_keep must_keep0004") < page.text.index("certify certify0000")


def test_a_build_without_changes_says_so(folder: Path) -> None:
    page = Page(render(other_samples(folder, (4, 4, 1), stated=(1, 4, 4))))
    assert (
        "Passed On 50 certify samples the compressed model's accuracy is not worse than float's" in page.text
    )
    assert "and 1 required runtime decided every sample as it did." in page.text
    assert (
        "None. On every sample of certify and must_keep, float, the compressed model and every runtime that "
        "ran decide alike. Classes"
    ) in page.text
    assert "Not run on" not in page.text


def test_what_was_not_measured_is_said(tmp_path: Path) -> None:
    missing = write_folder(tmp_path / "missing")
    certify_folder(missing, context(("numpy", "tensorflow")))
    text = Page(render(read_build(missing))).text
    assert re.search(
        r"Not measured must_keep on tensorflow: not installed: .* \(and 1 more\)\. Unmeasured is no pass\.",
        text,
    )
    empty = write_folder(tmp_path / "empty", without_certify_samples)
    certify_folder(empty, context(max_drop=1.0))
    text = Page(render(read_build(empty))).text
    assert "Not measured Compressed model against float: the certify set has no samples" in text
    # Made by hand: no history, no plan, no selection; nor anything that a compression leaves.
    assert "Nothing was trained: the model was given" in text
    assert "None was chosen: the samples were given." in text
    assert "None. On every sample of must_keep, float, the compressed model and every runtime" in text
    assert "Right decisions lost – of 0 certify samples" in text
    assert "does not hold the size of: float32, plain int8" in text


def test_what_a_compression_did_not_leave_is_said(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "build")
    certify_folder(folder, context())
    build = read_build(folder)
    files = {**build.manifest.files, "compressed.safetensors": "0" * 64}
    text = Page(render(replace(build, manifest=replace(build.manifest, files=files)))).text
    assert "does not hold history.jsonl" in text
    assert "does not hold preservation.json" in text


def test_float_logits_that_are_not_finite_leave_flips_open(folder: Path) -> None:
    def edit(arrays: dict[str, np.ndarray]) -> None:
        arrays["certify_float_logits"][0, 0] = np.nan

    page = Page(render(other_samples(folder, (4, 4, 1), stated=(1, 4, 4), edit=edit)))
    assert "Right decisions lost – of 50 certify samples, against float" in page.text
    assert "Right decisions on the certify set, class by class." in page.text
    assert (
        "None. On every sample of certify and must_keep, float (where it is known), the compressed model and "
        "every runtime that ran decide alike. What float decided on certify is not known."
    ) in page.text


def test_what_did_not_run_does_not_agree(folder: Path) -> None:
    def edit(arrays: dict[str, np.ndarray]) -> None:
        for part in ("certify", "must_keep"):
            arrays[f"{part}_float_logits"][0, 0] = np.nan

    def runs(sets: Any) -> dict[str, RuntimeRun]:
        return {"numpy": RuntimeRun("not_run", reason="not installed")}

    shape: dict[str, Any] = {"shape": (4, 4, 1), "stated": (1, 4, 4)}
    text = Page(render(other_samples(folder, **shape, edit=edit, runs=runs))).text
    assert "Runtimes that differ – 1 required did not run" in text
    assert (
        "Nothing could be compared. What float decided on certify and must_keep is not known. No runtime ran."
    ) in text
    text = Page(render(other_samples(folder, **shape, runs=runs))).text
    assert (
        "None. On every sample of certify and must_keep, float and the compressed model decide alike. "
        "No runtime ran."
    ) in text


def test_a_runtime_s_gate_is_the_worst_of_its_gates(folder: Path) -> None:
    """The runtime loses a must_keep decision, and decides every certify sample as the compressed model."""

    def runs(sets: Any) -> dict[str, RuntimeRun]:
        outputs = {part: one.compressed_logits.copy() for part, one in sets.items()}
        outputs["must_keep"][0] = np.roll(outputs["must_keep"][0], 1)
        return {"numpy": RuntimeRun("ok", "2", outputs=outputs)}

    text = Page(render(other_samples(folder, (4, 4, 1), stated=(1, 4, 4), runs=runs))).text
    assert "Failed must_keep on numpy: right decisions turned wrong is 1, allowed is 0." in text
    assert "numpy required, 2 ✕ failed ran 100.00 %" in text
    assert "compressed compressed ✓ passed recorded" in text


def test_the_reference_of_the_gate_is_named(folder: Path) -> None:
    def edit(arrays: dict[str, np.ndarray]) -> None:
        for part in ("guide", "watch", "certify"):
            arrays[f"{part}_control_logits"] = arrays[f"{part}_float_logits"].copy()

    shape: dict[str, Any] = {"shape": (4, 4, 1), "stated": (1, 4, 4)}
    build = other_samples(folder, **shape, edit=edit, reference="control")
    predicate = build.certificate.predicate
    text = Page(render(build)).text
    assert "passed Compressed model against the control accuracy drop against control" in text
    assert "accuracy is not worse than the control's" in text
    assert "that compression does not train on, nor was the float model." in text
    saw = Certificate(
        build.certificate.statement.model_copy(
            update={"predicate": predicate.model_copy(update={"reference_saw_certify": True})}
        )
    )
    text = Page(render(replace(build, certificate=saw))).text
    assert "does not train on; the float model was trained on samples of it." in text


def test_how_far_runtimes_differ_within_the_limit_is_said(folder: Path) -> None:
    """Two runtimes decide two samples of a class each in the same other way, one of them the same sample."""

    def runs(sets: Any) -> dict[str, RuntimeRun]:
        found = {}
        for name, rows in (("numpy", [0, 3]), ("tflm", [3])):
            outputs = {"certify": sets["certify"].compressed_logits.copy()}
            outputs["must_keep"] = sets["must_keep"].compressed_logits
            outputs["certify"][rows] = np.roll(outputs["certify"][rows], 1, axis=1)
            found[name] = RuntimeRun("ok", "2", outputs=outputs)
        outputs = {"certify": sets["certify"].compressed_logits.copy()}
        outputs["certify"][[6]] = np.roll(outputs["certify"][[6]], 1, axis=1)
        found["litert"] = RuntimeRun("ok", "2", outputs={**found["tflm"].outputs, **outputs})
        return found

    text = Page(
        render(other_samples(folder, (4, 4, 1), stated=(1, 4, 4), runs=runs, max_lowering_flips=0.1))
    ).text
    assert "and 3 required runtimes differ from it on 2 samples at most (4.00 %, allowed: 10.00 %)." in text
    assert "class 0 class 0 class 1 right → wrong 3 numpy: 2, tflm: 1, litert: 1" in text
    assert "Not run on guide and watch: numpy, tflm and litert." in text


def test_boards_of_other_builds_are_left_out(folder: Path, tmp_path: Path) -> None:
    here = copied(folder, tmp_path / "copy")
    write_board(here, "older", "0" * 64)
    (here / "certificate.broken.json").write_text("{")
    edited = json.loads((here / "certificate.plain.json").read_text())
    edited["predicate"]["samples"] = 57
    write_json(here / "certificate.edited.json", edited)
    text = Page(render(read_build(here))).text
    assert "Not shown: certificate.older.json is about an earlier build; flash again." in text
    assert "Not shown: certificate.broken.json is not valid JSON" in text
    assert "Not shown: certificate.edited.json has been edited" in text
    assert len(read_build(here).boards) == 1


def test_the_key_holds_all_that_the_page_shows(folder: Path, tmp_path: Path) -> None:
    here = copied(folder, tmp_path / "copy")
    keys = [report_key(here)]
    assert report_key(here) == keys[0]
    for name in ("history.jsonl", "plan.json", "preservation.json", "controller.jsonl"):
        (here / name).write_bytes(b" " + (here / name).read_bytes())
        listed = read_json(here / "manifest.json")
        assert isinstance(listed, dict)
        write_manifest(here, listed["files"], tools={}, seeds={}, inputs={}, code={})
        keys.append(report_key(here))
    (here / "certificate.older.json").mkdir()
    keys.append(report_key(here))
    assert len(set(keys)) == len(keys)
    text = Page(render(read_build(reworked(here, "history.jsonl", b"")))).text
    assert "Not shown: certificate.older.json cannot be read: Is a directory." in text


# --- folders that are no builds ----------------------------------------------------------------------


def reworked(folder: Path, name: str, content: bytes) -> Path:
    """Another content of a file, and a manifest and a certificate that agree with it."""
    (folder / name).write_bytes(content)
    listed = read_json(folder / "manifest.json")
    assert isinstance(listed, dict)
    write_manifest(folder, listed["files"], tools={}, seeds={}, inputs={}, code={})
    certify_folder(folder, context())
    return folder


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("history.jsonl", b'{"epoch": 1, "loss": NaN}\n'),
        ("history.jsonl", b'{"epoch": "one"}\n'),
        ("history.jsonl", b"[" * 9000),
        ("history.jsonl", b'{"epoch": 1, "loss": 1e308}\n'),
        ("history.jsonl", b'{"epoch": 1, "watch_accuracy": 1.5}\n'),
        ("history.jsonl", b'{"epoch": 1, "guide_accuracy": -1}\n'),
        ("plan.json", b'{"float_bytes": 0, "layers": []}'),
        ("plan.json", b'{"float_bytes": 1' + b"0" * 400 + b', "layers": []}'),
        ("controller.jsonl", b'{"step": 1}\n'),
        ("plan.json", b'{"layers": [{"name": "0"}]}'),
        ("preservation.json", b"{}"),
        ("compressed.safetensors", b"\xff" * 40),
    ],
)
def test_a_malformed_file_is_named(folder: Path, tmp_path: Path, name: str, content: bytes) -> None:
    here = reworked(copied(folder, tmp_path / "copy"), name, content)
    with pytest.raises(FileFormatError) as caught:
        read_build(here)
    assert name in str(caught.value)


@pytest.mark.parametrize(
    "edit",
    [
        lambda p: p["runtimes"].pop(0),
        lambda p: p["runtimes"][0]["sets"].pop("certify"),
        lambda p: p["gates"].pop(0),
        lambda p: p["sets"].pop("certify"),
        lambda p: p["sets"]["guide"].update(samples=17),
        lambda p: p["runtimes"][1]["sets"]["certify"]["decisions"].update(certify0001=3),
        lambda p: p["runtimes"][1]["sets"]["certify"]["decisions"].update(stranger=1),
    ],
)
def test_a_forged_certificate_is_refused(folder: Path, tmp_path: Path, edit: Any) -> None:
    """Sealed anew, so that its digest is right."""
    here = copied(folder, tmp_path / "copy")
    document = json.loads((here / "certificate.json").read_text())
    edit(document["predicate"])
    with contextlib.suppress(ValidationError):  # what no certificate can say has no seal, either
        document = seal(Statement.model_validate(document)).model_dump(mode="json", by_alias=True)
    write_json(here / "certificate.json", document)
    with pytest.raises(FileFormatError, match=r"certificate\.json"):
        api.report(here)


def test_edited_and_foreign_folders_are_refused(folder: Path, tmp_path: Path) -> None:
    here = copied(folder, tmp_path / "copy")
    (here / "plan.json").write_text("{}")
    with pytest.raises(FileFormatError, match="has changed since"):
        api.report(here)
    with pytest.raises(FileFormatError, match="is no build folder"):
        api.report(tmp_path)
    with pytest.raises(FileFormatError, match="is no folder"):
        api.report(tmp_path / "nothing")
    assert not (tmp_path / "report.html").exists()
    assert not (tmp_path / ".lock").exists()


def test_the_file_is_written_where_asked_and_only_when_it_changes(folder: Path, tmp_path: Path) -> None:
    here = copied(folder, tmp_path / "copy")
    before = sorted(path.name for path in here.iterdir())
    made = api.report(here, tmp_path / "out" / "page.html")
    assert made.path.stat().st_size == made.nbytes
    assert sorted(path.name for path in here.iterdir()) == before  # a folder that is read only will do
    first = api.report(here)
    written = first.path.stat().st_mtime_ns
    assert first.path.read_bytes() == made.path.read_bytes()
    assert api.report(here).path.stat().st_mtime_ns == written
    assert write_report(here).stat().st_mtime_ns == written
    assert api.verify(here).exit_code == 1  # as certified: the report is none of its business
    assert len(WRONG) == 3


def test_our_own_bugs_cost_only_the_report(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "report.html").write_text("of an earlier build")
    with costs_only_the_report(tmp_path):
        raise ZeroDivisionError("division by zero")
    assert not (tmp_path / "report.html").exists()
    assert "report: not made, and nothing else is lost: ZeroDivisionError: division by zero" in caplog.text
    with pytest.raises(KeyboardInterrupt), costs_only_the_report(tmp_path):
        raise KeyboardInterrupt


def test_a_folder_in_use_is_left_alone(folder: Path, tmp_path: Path) -> None:
    from sgsc_edge.artifacts import FolderLock

    here = copied(folder, tmp_path / "copy")
    (here / "plan.json").write_text("half writ")  # by the other: nothing is read before the lock is held
    with FolderLock(here), pytest.raises(FolderInUseError):
        api.report(here)

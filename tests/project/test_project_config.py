"""Project files: every wrong setting is reported, all at once, where it was written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sgsc_edge.c_names import MODEL_NAME, model_name
from sgsc_edge.errors import ConfigError
from sgsc_edge.project import Budget, Option, load_project
from sgsc_edge.project.budgets import parse_budget
from sgsc_edge.project.schema import ProjectSection

GOOD = """\
[project]
name = "net"
[model]
factory = "model:build"
checkpoint = "float.safetensors"
input = { shape = [1, 8, 8], dtype = "float32" }
task = "classification"
[data]
train = "data:train"
test = "data:test"
[gate]
max_drop = 0.01
max_lowering_flips = 0.005
[compress]
epochs = 8
"""


def write(folder: Path, text: str = GOOD, name: str = "sgsc.toml") -> Path:
    (folder / name).write_text(text)
    return folder


def problems(folder: Path, *settings: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        load_project(folder, settings, known_targets=["tflite-int8"])
    return caught.value.problems


def test_a_good_file_loads_with_its_defaults(tmp_path: Path) -> None:
    project = load_project(write(tmp_path))
    assert project.root == tmp_path
    assert project.config.model.input.shape == (1, 8, 8)
    assert project.config.preservation.pool_fraction == 0.2
    assert (project.config.compress.batch_size, project.config.compress.seed) == (128, 0)
    assert project.where("compress", "epochs") == f"{tmp_path / 'sgsc.toml'}:15: compress.epochs"
    assert load_project(tmp_path / "sgsc.toml").config == project.config


@given(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,61}", fullmatch=True))
@example("9" * 62)
@example("n" * 62)
def test_a_name_that_a_project_may_have_fits_in_c(name: str) -> None:
    assert ProjectSection(name=name).name == name
    assert re.fullmatch(MODEL_NAME, model_name(name))


@pytest.mark.parametrize(
    ("edit", "line", "message"),
    [
        (("epochs = 8", "epoch = 8"), 15, "compress.epoch: unknown key; did you mean 'epochs'?"),
        (("[compress]", "[compres]"), 14, "compres: unknown key; did you mean 'compress'?"),
        (
            ("epochs = 8", "epochs = 8\nmax_drop = 1"),
            16,
            "compress.max_drop: unknown key; it belongs in [gate]",
        ),
        (("epochs = 8", "epochs = 0"), 15, "compress.epochs: must be greater than 0, not 0"),
        (("epochs = 8", "epochs = 2.0"), 15, "compress.epochs: must be a valid integer, not 2.0"),
        (
            ("epochs = 8", "learning_rate = nan"),
            15,
            "compress.learning_rate: must be a finite number, not nan",
        ),
        (("epochs = 8", "learning_rate = 0"), 15, "compress.learning_rate: must be greater than 0, not 0"),
        (("epochs = 8", "seed = -1"), 15, "compress.seed: must be greater than or equal to 0, not -1"),
        (
            ("epochs = 8", "batch_size = 1"),
            15,
            "compress.batch_size: must be greater than or equal to 2, not 1",
        ),
        (
            ('name = "net"', 'name = "../x"'),
            2,
            'project.name: must be letters, digits, ".", "_" and "-", a letter or digit first, not \'../x\'',
        ),
        (
            ('name = "net"', f'name = "{"n" * 63}"'),
            2,
            "project.name: must have at most 62 characters, not 63",
        ),
        (
            ('name = "net"', 'name = "net"\nversion = "v 1"'),
            3,
            'project.version: must be letters, digits, ".", "_", "+" and "-", a letter or digit first',
        ),
        (('name = "net"', ""), 1, "project.name: is required"),
        (('"model:build"', '"model"'), 4, "model.factory: 'model' is not of the form \"module:function\""),
        (('"float.safetensors"', '"float.pkl"'), 5, "can be read: .safetensors, .pt, .pth"),
        (("[1, 8, 8]", "[1, 0, 8]"), 6, "model.input.shape[1]: must be greater than 0, not 0"),
        (("[1, 8, 8]", "[]"), 6, "model.input.shape: a sample has 1 to 4 dimensions, not 0"),
        (("[1, 8, 8]", "64"), 6, "model.input.shape: must be a list, not 64"),
        (('"float32"', '"float16"'), 6, "model.input.dtype: must be 'float32' or 'int64', not 'float16'"),
        (('"float32"', '"float32", mean = [0.1, 0.2]'), 6, "model.input: mean has 2 values"),
        (('"float32"', '"float32", std = 0'), 6, "model.input: std must be greater than 0"),
        (('"float32"', '"float32", range = [1, 0]'), 6, "model.input: range must be [low, high]"),
        (('"float32"', '"float32", color = "red"'), 6, "model.input.color: must be 'gray', 'rgb' or 'bgr'"),
        (('"classification"', '"classifcation"'), 7, "did you mean 'classification'?"),
        (("model:build", "model.py:build"), 4, "did you mean 'model:build'?"),
        (
            ("epochs = 8", 'method = "qta8"'),
            15,
            "must be 'sgsc', 'mixed', 'qat8', 'ptq' or 'own', not 'qta8'; did you mean 'qat8'?",
        ),
        (("max_drop = 0.01", "max_drop = 1.5"), 11, "gate: max_drop of an accuracy is a share"),
        (
            ("max_drop = 0.01", "max_drop = -1"),
            12,
            "gate.max_drop: must be greater than or equal to 0, not -1",
        ),
        (("max_drop = 0.01", ""), 11, "gate.max_drop: is required"),
        (("max_drop = 0.01", 'max_drop = 0.1\nmetric = "acc"'), 13, "gate.metric: unknown name 'acc'"),
        (
            ("max_drop = 0.01", 'max_drop = 0.1\nreference = "qat"'),
            13,
            "gate.reference: must be 'float' or 'control'",
        ),
        (
            ('train = "data:train"', 'classes = ["a", "a"]\ntrain = "data:train"'),
            8,
            "data: classes named twice: a",
        ),
        (
            ("[gate]", '[export]\nnames = "tiny"\n[gate]'),
            12,
            "export.names: must be 'full', 'short' or 'none'",
        ),
        (
            ("[gate]", "[preservation]\nfraction = 1.0\n[gate]"),
            12,
            "preservation.fraction: must be less than 1, not 1.0",
        ),
        (
            ("[gate]", "[preservation]\nmust_keep = 0\n[gate]"),
            12,
            'preservation.must_keep: give a "module:function" that names samples, or a number of guide '
            "samples, at least 1, not 0",
        ),
        (
            ("[gate]", "[preservation]\nmust_keep = true\n[gate]"),
            12,
            "guide samples, at least 1, not True",
        ),
        (("[gate]", "[preservation]\nmust_keep = 5.0\n[gate]"), 12, "at least 1, not 5.0"),
        (
            ("[gate]", '[preservation]\nmust_keep = "keep"\n[gate]'),
            12,
            "preservation.must_keep: 'keep' is not of the form \"module:function\"",
        ),
    ],
)
def test_a_wrong_value_is_reported_at_its_line(
    tmp_path: Path, edit: tuple[str, str], line: int, message: str
) -> None:
    assert edit[0] in GOOD
    found = problems(write(tmp_path, GOOD.replace(*edit)))
    assert len(found) == 1
    assert found[0].startswith(f"{tmp_path / 'sgsc.toml'}:{line}: ")
    assert message in found[0]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("model.task=regression", "only 'classification' and 'language-model' are supported in this version"),
        (
            "model.task=metrics:mine",
            "only 'classification' and 'language-model' are supported in this version",
        ),
        ("gate.metric=auc", "only 'accuracy' and 'loss' are supported in this version"),
        ("gate.metric=mse", "only 'accuracy' and 'loss' are supported in this version"),
        ("gate.metric=metrics:mine", "only 'accuracy' and 'loss' are supported in this version"),
        (
            "data.holdout=data:holdout",
            "statistics over an independent sample are not available in this version",
        ),
    ],
)
def test_what_this_version_does_not_execute_is_refused(tmp_path: Path, setting: str, message: str) -> None:
    found = problems(write(tmp_path), setting)
    assert len(found) == 1
    assert found[0].startswith(f"--set: {setting.partition('=')[0]}: ")
    assert message in found[0]


def test_everything_wrong_is_reported_at_once(tmp_path: Path) -> None:
    text = GOOD.replace("epochs", "epoch").replace("max_drop = 0.01", 'max_drop = "x"')
    found = problems(write(tmp_path, text), "model.input.shape=[0]", "targets.x.gate.max_drop=1")
    assert len(found) == 4
    assert all(
        any(part in problem for problem in found) for part in ("epoch:", "max_drop", "shape", "target")
    )


# --- command line and targets ---------------------------------------------------------------------


def test_settings_are_toml_values_or_plain_text(tmp_path: Path) -> None:
    config = load_project(
        write(tmp_path),
        ["compress.epochs=2", "gate.metric=loss", "model.input.shape=[3, 4, 4]", "data.pool=data:pool"],
    ).config
    assert (config.compress.epochs, config.gate.metric, config.data.pool) == (2, "loss", "data:pool")
    assert (config.model.input.shape, config.model.input.dtype) == ((3, 4, 4), "float32")


def test_must_keep_is_a_number_or_a_callable(tmp_path: Path) -> None:
    by_number = load_project(write(tmp_path), ["preservation.must_keep=50"])
    assert by_number.config.preservation.must_keep == 50
    assert not by_number.has_dataset("must_keep")
    by_name = load_project(write(tmp_path), ["preservation.must_keep=data:keep"])
    assert by_name.dataset_spec("must_keep") == "data:keep"
    assert by_number.config_hash("preservation") != by_name.config_hash("preservation")


@pytest.mark.parametrize("setting", ["epochs", "=1", "a b=1", ""])
def test_what_is_no_setting_is_refused(tmp_path: Path, setting: str) -> None:
    assert "is not of the form" in problems(write(tmp_path), setting)[0]


def test_a_wrong_setting_is_reported_as_such(tmp_path: Path) -> None:
    assert problems(write(tmp_path), "compress.epochs=x") == (
        "--set: compress.epochs: must be a valid integer, not 'x'",
    )


def test_layers_override_each_other_in_order(tmp_path: Path) -> None:
    text = GOOD + "[targets.tflite-int8.compress]\nepochs = 3\nseed = 7\n"
    write(tmp_path, text)

    def epochs(*settings: str) -> tuple[int, int, int]:
        project = load_project(tmp_path, settings, known_targets=["tflite-int8"])
        own = project.for_target("tflite-int8")
        assert own.for_target("tflite-int8").config == own.config
        return project.config.compress.epochs, own.config.compress.epochs, own.config.compress.seed

    assert epochs() == (8, 3, 7)
    assert epochs("compress.epochs=4") == (4, 4, 7)
    assert epochs("targets.tflite-int8.compress.epochs=5") == (8, 5, 7)
    assert epochs("compress.epochs=4", "targets.tflite-int8.compress.epochs=5") == (4, 5, 7)


def test_a_target_without_overrides_gets_the_project_itself(tmp_path: Path) -> None:
    project = load_project(write(tmp_path))
    assert project.for_target("tflite-int8").config == project.config


def test_wrong_overrides_are_reported_at_their_line_once(tmp_path: Path) -> None:
    text = GOOD.replace("epochs = 8", "epochs = 0") + (
        "[targets.tflite-int8.compress]\nsead = 3\n[targets.tflite-int9]\n[targets.tflite-int8.targets]\n"
    )
    path = tmp_path / "sgsc.toml"
    assert set(problems(write(tmp_path, text))) == {
        f"{path}:15: compress.epochs: must be greater than 0, not 0",
        f"{path}:17: targets.tflite-int8.compress.sead: unknown key; did you mean 'seed'?",
        f"{path}:18: targets.tflite-int9: unknown target; did you mean 'tflite-int8'?",
        f"{path}:19: targets.tflite-int8.targets: unknown key",
    }


@pytest.mark.parametrize("text", ["targets = 3\n", "targets.tflite-int8 = 3\n"])
def test_targets_that_are_no_tables_are_refused(tmp_path: Path, text: str) -> None:
    found = problems(write(tmp_path, text + GOOD))
    assert any("targets" in problem and "must be a table" in problem for problem in found)


# --- files ----------------------------------------------------------------------------------------


def test_a_pyproject_table_is_a_project(tmp_path: Path) -> None:
    text = "[build-system]\nrequires = []\n" + GOOD.replace("\n[", "\n[tool.sgsc-edge.").replace(
        "[project]", "[tool.sgsc-edge.project]"
    )
    write(tmp_path, text, "pyproject.toml")
    assert load_project(tmp_path).config.project.name == "net"
    assert load_project(tmp_path / "pyproject.toml").root == tmp_path
    write(tmp_path, text.replace("epochs", "epoch"), "pyproject.toml")
    assert problems(tmp_path) == (
        f"{tmp_path / 'pyproject.toml'}:17: compress.epoch: unknown key; did you mean 'epochs'?",
    )


def test_sgsc_toml_wins_over_pyproject(tmp_path: Path) -> None:
    write(tmp_path, "[tool.sgsc-edge]\nx = 1\n", "pyproject.toml")
    assert load_project(write(tmp_path)).file.label.endswith("sgsc.toml")


@pytest.mark.parametrize("name", [".", "absent", "absent/sgsc.toml", "pyproject.toml"])
def test_a_missing_project_is_explained(tmp_path: Path, name: str) -> None:
    write(tmp_path, "[project]\nname = 'x'\n", "pyproject.toml")
    with pytest.raises(ConfigError) as caught:
        load_project(tmp_path / name)
    assert "give the folder that holds your sgsc.toml" in str(caught.value)


def test_a_syntax_error_names_file_and_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not valid TOML") as caught:
        load_project(write(tmp_path, "[project\n"))
    assert caught.value.where == f"{tmp_path / 'sgsc.toml'}:1"


# --- derived settings -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "saw_pool", "reference"),
    [
        ((), True, "control"),
        (("model.saw_pool=false",), False, "float"),
        (("data.pool=data:pool",), False, "float"),
        (("data.pool=data:pool", "model.saw_pool=true"), True, "control"),
        (("gate.reference=float",), True, "float"),
        (("model.saw_pool=false", "gate.reference=control"), False, "control"),
    ],
)
def test_the_gate_compares_with_a_control_where_the_float_model_saw_the_pool(
    tmp_path: Path, settings: tuple[str, ...], saw_pool: bool, reference: str
) -> None:
    project = load_project(write(tmp_path), settings)
    assert (project.saw_pool, project.gate_reference) == (saw_pool, reference)


def test_the_hash_of_the_settings_changes_with_them_only(tmp_path: Path) -> None:
    write(tmp_path)
    before, same = load_project(tmp_path), load_project(tmp_path, ["compress.epochs=8"])
    after = load_project(tmp_path, ["compress.epochs=9"])
    assert before.config_hash() == same.config_hash() != after.config_hash()
    assert before.config_hash("model", "data") == after.config_hash("model", "data")
    assert before.config_hash("model") != before.config_hash("data")


def test_source_files_are_the_users_code_and_checkpoint(tmp_path: Path) -> None:
    project = load_project(write(tmp_path))
    for name in [
        "model.py",
        "lib/net.py",
        "float.safetensors",
        "notes.txt",
        ".venv/x.py",
        "env/y.py",
        "build/z.py",
    ]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "env" / "pyvenv.cfg").touch()
    assert set(project.source_files()) == {"model.py", "lib/net.py", "float.safetensors"}
    before = project.source_hash()
    (tmp_path / "notes.txt").write_text("changed")
    assert project.source_hash() == before
    (tmp_path / "lib" / "net.py").write_text("changed")
    assert project.source_hash() != before


@pytest.mark.parametrize(
    ("text", "budget", "limit"),
    [
        ("6 kB", Budget(bytes=6000), 6000),
        ("0.1x", Budget(ratio=0.1), 100),
        ("1x", Budget(ratio=1.0), 1000),
        (".25 x", Budget(ratio=0.25), 250),
    ],
)
def test_budgets(text: str, budget: Budget, limit: int) -> None:
    parsed = parse_budget(text)
    assert parsed == budget
    assert isinstance(parsed, Budget)
    assert parsed.limit(1000) == limit


@pytest.mark.parametrize("value", ["0x", "1.5x", "x", "6", 6, 0.1, "6 KB", "-1 kB", ""])
def test_what_is_no_budget_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"size|ratio"):
        parse_budget(value)


def test_the_shares_of_the_criteria_add_up_to_1(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    assert load_project(path).config.preservation.criteria() == {
        "saliency": 1 / 3,
        "uncertainty": 1 / 3,
        "diversity": 1 / 3,
    }
    some = ["preservation.shares.saliency=3", "preservation.shares.diversity=0"]
    assert load_project(path, some).config.preservation.criteria() == {"saliency": 0.75, "uncertainty": 0.25}
    random = load_project(path, ["preservation.method=random"])
    assert random.config.preservation.criteria() == {"random": 1.0}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            [f"preservation.shares.{name}=0" for name in ("saliency", "uncertainty", "diversity")],
            "greater than 0",
        ),
        (["preservation.shares.diversty=1"], "did you mean 'diversity'?"),
        (["preservation.shares.saliency=-1"], "greater than or equal to 0"),
        (["preservation.method=clever"], "'critical' or 'random'"),
    ],
)
def test_wrong_shares_and_methods_are_refused(tmp_path: Path, settings: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_project(write(tmp_path, GOOD), settings)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "method"),
    [
        ((), "qat8"),
        (("compress.budget=6 kB",), "sgsc"),
        (("compress.gamma=0.1", "compress.lambda=0.5"), "sgsc"),
    ],
)
def test_a_goal_chooses_the_method_unless_one_is_named(
    tmp_path: Path, settings: tuple[str, ...], method: str
) -> None:
    assert load_project(write(tmp_path), settings).config.compress.chosen_method() == method


@pytest.mark.parametrize("method", ["mixed", "qat8", "ptq"])
def test_a_goal_of_the_file_may_stand_beside_a_method_that_takes_none(tmp_path: Path, method: str) -> None:
    with_goal = GOOD.replace("[compress]", '[compress]\nbudget = "6 kB"')
    assert with_goal != GOOD
    project = load_project(write(tmp_path, with_goal), [f"compress.method={method}"])
    assert project.config.compress.chosen_method() == method
    with_method = GOOD.replace("[compress]", f'[compress]\nmethod = "{method}"')
    assert load_project(write(tmp_path, with_method), ["compress.budget=6 kB"]).config.compress.budget


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ("compress.method=ptq", "compress.budget=6 kB"),
            "--set: method 'ptq' takes no budget: every channel",
        ),
        (("compress.method=mixed", "compress.floor=0.9"), "--set: method 'mixed' takes no floor"),
        (
            (Option("--method", "compress.method=qat8"), Option("--budget", "compress.budget=1kB,2kB")),
            "--method, --budget: method 'qat8' takes no budget",
        ),
        (
            (Option("--method", "compress.method=qat8"), "compress.floor=0.9"),
            "--method, --set: method 'qat8' takes no floor",
        ),
        (
            ("compress.method=own", "compress.weights=a.safetensors", "compress.budget=6 kB"),
            "--set: method 'own' takes no budget",
        ),
        (("compress.weights=a.safetensors", "compress.floor=0.9"), "--set: method 'own' takes no floor"),
    ],
)
def test_a_goal_and_a_method_that_takes_none_exclude_each_other_on_the_command_line(
    tmp_path: Path, settings: tuple[str | Option, ...], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_project(write(tmp_path), settings)
    assert caught.value.where == "command line"
    assert message in caught.value.problems[0]


def test_what_is_wrong_between_sections_is_located_at_its_setting(tmp_path: Path) -> None:
    """And not at an option that has nothing to do with it."""
    file = GOOD.replace("epochs = 8", "epochs = 8\nfloor = 98.0")
    with pytest.raises(ConfigError) as caught:
        load_project(write(tmp_path, file), [Option("--method", "compress.method=qat8"), "compress.seed=1"])
    line = file.splitlines().index("floor = 98.0") + 1
    place = f"{tmp_path / 'sgsc.toml'}:{line}"
    assert caught.value.problems[0].startswith(f"{place}: compress.floor of an accuracy is a share")


def test_weights_alone_may_be_held_to_a_budget_of_the_command_line(tmp_path: Path) -> None:
    settings = ("compress.weights=a.safetensors", "compress.budget=6 kB")
    assert load_project(write(tmp_path), settings).config.compress.chosen_method() == "own"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("compress.method=sgsc",), "needs a budget, a floor or a fixed gamma"),
        (("compress.alpha=1.0",), "also needs a budget, a floor or a fixed gamma"),
        (("compress.budget=6 kB", "compress.epochs=1"), "needs 2 epochs at least"),
        (("compress.budget=6 kB", "compress.gamma=1.0"), "budget and gamma exclude each other"),
        (("compress.budget=6 kB", "compress.floor=0.9"), "budget and floor exclude each other"),
        (("compress.floor=0.9", "compress.epochs=1"), "needs 2 epochs at least"),
        (("compress.floor=98",), "compress.floor of an accuracy is a share (0.99 is 99 %), not 98"),
        (("compress.floor=0",), "compress.floor: must be greater than 0"),
        (("compress.budget=6 kB,,3 kB",), "'' is not a size"),
        (("compress.budget=[]",), "an empty list is no budget"),
    ],
)
def test_goals_that_do_not_fit_are_refused(tmp_path: Path, settings: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_project(write(tmp_path), settings)
    assert message in str(caught.value)

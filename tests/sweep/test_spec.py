"""Sweep files: every mistake names the key, what came and what is accepted."""

from pathlib import Path

import pytest

from posenet_store.errors import UsageError
from posenet_store.heads.protocols import GradientProtocol, RidgeProtocol
from posenet_store.sweep import spec
from posenet_store.sweep.spec import SweepSpec, load_sweep

EXPERIMENTS = sorted((Path(__file__).parents[2] / "pipeline/experiments").glob("*.toml"))


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "my.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_an_empty_file_is_the_default_sweep(tmp_path: Path) -> None:
    assert load_sweep(written(tmp_path, "")) == SweepSpec(title="my")


def test_values_replace_defaults(tmp_path: Path) -> None:
    spec = load_sweep(written(tmp_path, "kernels = [1, 7]\nholdout = 0\nrange = [-1, 1]\n[report-2020]\nlearning_rate = 1\n"))
    assert spec.kernels == (1, 7)
    assert spec.holdout == 0.0
    assert spec.range == (-1.0, 1.0)
    assert spec.recipes == (GradientProtocol(learning_rate=1.0),)


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_the_shipped_experiments_are_valid_and_say_their_question(path: Path) -> None:
    load_sweep(path)
    assert path.read_text(encoding="utf-8").startswith("# Question: ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kernals = [3]", r"key in .*'kernals' \(did you mean 'kernels'\?\); accepted: title, networks.*\[report-2020\]"),
        ("[report-2020]\nepoch = 3", "did you mean 'epochs'"),
        ("[report-2020]\nname = 'x'", "unknown key"),
        ("report-2020 = 3", r"write a table \[report-2020\]"),
        ("report = 3", r"did you mean '\[report-2020\]'"),
        ("[official-2021]\noptimizer = 'lbfgs'", "unknown optimizer .*accepted: adam, sgd"),
        ("[paper]\nmomentum = 1.0", "momentum = 1.0 is not accepted; give 0 to 0.9999"),
        ("[report-2020]\nmomentum = 0.9", "SGD's only"),
        ("[official-2021]\nlayers = [1, 0]", "layers = 0 is not accepted; give 1 to"),
        ("[official-2021]\nhidden = -1", "hidden = -1 is not accepted; give 0 to"),
        ("protocols = ['official-2021']\nkernels = [15]\n[official-2021]\nlayers = 2", "in 2 layers leaves a 0x0 map"),
        ("targets = ['HH']", "unknown target .*accepted: H, V, G, HS, VS, ramp:ANGLE"),
        ("train_images = [-1]", "train_images = -1 is not accepted; give 0 to"),
        ("protocols = ['sgd']", "unknown protocol .*accepted: report-2020, official-2021, paper, standard, ridge"),
        ("kernels = 3", "give a list"),
        ("kernels = []", "at least one"),
        ("kernels = ['3']", "give a whole number"),
        ("kernels = [true]", "give a whole number"),
        ("kernels = [3, 3]", "names an entry twice"),
        ("kernels = [29]", "leaves a 0x0 map"),
        ("kernels = [0]", "kernels = 0 is not accepted; give 1 to"),
        ("paddings = [-1]", "paddings = -1 is not accepted; give 0 to"),
        ("holdout = 1.0", "holdout = 1.0 is not accepted; give 0 to 0.999"),
        ("holdout = 'half'", "give a number"),
        ("range = [1, 0]", "low < high"),
        ("range = [0]", r"give \[low, high\]"),
        ("normalise = 1", "give true or false"),
        ("seeds = [-1]", "seeds = -1 is not accepted; give 0 to"),
        ("[report-2020]\nepochs = 0", "epochs = 0 is not accepted; give 1 to"),
        ("[ridge]\nlambdas = [0.0]", "lambdas = 0.0 is not accepted; give 1e-30 to"),
        ("[ridge]\nvalidation = 1.0", "validation = 1.0 is not accepted; give 0.001 to 0.999"),
        ("[ridge]\nfolds = 1", "folds = 1 is not accepted; give 0"),
        ("[ridge]\niterations = 0", "iterations = 0 is not accepted; give 1 to"),
        ("kernels = [3", "not valid TOML"),
    ],
)
def test_a_mistake_is_one_clear_sentence(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        load_sweep(written(tmp_path, text))
    assert "\n" not in str(caught.value).strip() or "TOML" in str(caught.value)


def test_a_missing_file_names_the_ready_experiments(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="table2"):
        load_sweep(tmp_path / "none.toml")


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="can't be read"):
        load_sweep(path)


def test_every_experiment_is_found_by_its_name() -> None:
    assert {path.name for path in spec.EXPERIMENTS.glob("*.toml")} == {path.name for path in EXPERIMENTS}
    for path in EXPERIMENTS:
        assert load_sweep(path.stem) == load_sweep(path)


def test_an_unknown_experiment_is_answered_with_the_nearest_name() -> None:
    with pytest.raises(UsageError, match="'table2'"):
        load_sweep("tabel2")


def test_a_file_of_the_working_folder_is_not_taken_for_an_experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.toml").write_text("kernels = [5]")
    assert load_sweep("own.toml").kernels == (5,)


def test_an_erasure_trains_exact_heads_before_and_after(tmp_path: Path) -> None:
    spec = load_sweep(written(tmp_path, 'protocols = ["ridge", "standard"]\n[ridge]\nfolds = 5\n[erase]\ntargets = ["G"]\n'))
    exact = [protocol for protocol in spec.list_protocols() if isinstance(protocol, RidgeProtocol)]
    assert [(protocol.erase, protocol.folds) for protocol in exact] == [((), 5), (("G",), 5)]
    assert [protocol.name for protocol in spec.list_protocols()] == ["ridge", "ridge", "standard"]
    default = load_sweep(written(tmp_path, 'protocols = ["ridge"]\n[erase]\n')).list_protocols()
    assert default == [RidgeProtocol(), RidgeProtocol(erase=("H", "V"))]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[erase]\n", 'add "ridge"'),
        ('erase = ["H"]\n', "write a table"),
        ('protocols = ["ridge"]\n[erase]\ntargets = ["X"]\n', "unknown target"),
        ('protocols = ["ridge"]\n[erase]\nlayers = ["f1"]\n', "unknown key"),
        ('protocols = ["ridge"]\n[ridge]\nerase = ["H"]\n', "unknown key"),
    ],
)
def test_a_wrong_erasure_is_an_error_that_says_what_to_do(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        load_sweep(written(tmp_path, text))

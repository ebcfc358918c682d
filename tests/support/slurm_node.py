"""A real Slurm of one node for tests: the controller, the node and munge on loopback, from Debian's packages."""

import getpass
import os
import socket
import subprocess
from collections.abc import Iterator

import pytest

from tests.support.processes import free_ports, program, waited

PACKAGES = ("slurm-wlm", "munge")
CONFIGURATION = """
ClusterName=one
SlurmctldHost=localhost(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthInfo=socket={home}/munge.socket
StateSaveLocation={home}/state
SlurmdSpoolDir={home}/spool
SlurmctldPidFile={home}/slurmctld.pid
SlurmdPidFile={home}/slurmd.pid
MailProg=/bin/true
ProctrackType=proctrack/pgid
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=1,batch_sched_delay=0,bf_interval=1
KillWait=2
NodeName=node NodeHostname={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=4000
PartitionName=tiny Nodes=node Default=YES State=UP
"""


def slurm(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Slurm for this module's processes (SLURM_CONF); all it started ends with it."""
    home = tmp_path_factory.mktemp("slurm")
    for folder in ("state", "spool"):
        (home / folder).mkdir()
    key = home / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    configuration = home / "slurm.conf"
    facts = {"user": getpass.getuser(), "host": socket.gethostname().split(".")[0], "ports": free_ports(2), "home": home}
    configuration.write_text(CONFIGURATION.format(**facts))
    munge = {"key-file": key, "socket": home / "munge.socket", "pid-file": home / "munge.pid", "log-file": home / "munge.log",
             "seed-file": home / "munge.seed"}  # fmt: skip
    # --force: pytest's folders are private, and munged wants a socket that everyone reaches
    daemons = (
        [program("munged", PACKAGES), "--foreground", "--force", *(f"--{name}={value}" for name, value in munge.items())],
        [program("slurmctld", PACKAGES), "-D"],
        [program("slurmd", PACKAGES), "-D", "-N", "node"],
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(configuration))
        running: list[subprocess.Popen[bytes]] = []
        with (home / "daemons.log").open("wb") as log:
            try:
                for command in daemons:
                    running.append(subprocess.Popen(command, stdout=log, stderr=log))
                    waited((home / "munge.socket").exists, 30)
                if not waited(lambda: "idle" in _nodes(), 60):
                    last = (home / "daemons.log").read_text(errors="replace").splitlines()[-5:]
                    pytest.skip(f"Slurm does not start here: {' | '.join(last)}")
                yield
                slurm("scancel", "--me")
                waited(lambda: not slurm("squeue", "--noheader"), 60)
            finally:
                for process in reversed(running):
                    process.terminate()
                for process in running:
                    process.wait(timeout=60)


def _nodes() -> str:
    return subprocess.run(["sinfo", "--noheader", "--format=%T"], capture_output=True, text=True, check=False).stdout

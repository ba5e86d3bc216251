"""Make `.venv/` with mmc_jax in it: the set-up of `make quickstart` and `make test`.

It does nothing when `.venv/` already holds what setup.py and constraints.txt ask for.
It needs only the standard library, and tells what is missing where it cannot work.
"""

import argparse
import fcntl
import hashlib
import importlib.util
import pathlib
import subprocess
import sys
import time

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_VENV = _ROOT / ".venv"
_VENV_PYTHON = _VENV / "bin" / "python"
# What decides whether an installed environment is still the one that was asked for.
_INPUTS = ("setup.py", "constraints.txt", "mmc_jax/__init__.py")


def main() -> None:
    """Set `.venv/` up, once, however many processes ask for it at the same time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--extras", default="test", help="comma-separated extras of setup.py"
    )
    extras = parser.parse_args().extras
    stamp = _VENV / f".installed-{extras}"
    wanted = _fingerprint()
    # This very file is the lock: a lock file of its own would be one more to clean up.
    with pathlib.Path(__file__).open("r+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("Another set-up is at work here; waiting for it ...", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        if _VENV_PYTHON.exists() and _is_current(stamp, wanted):
            return
        if not _VENV_PYTHON.exists():
            _create()
        _install(extras)
        stamp.write_text(wanted)


def _fingerprint() -> str:
    digest = hashlib.sha256(str(_ROOT).encode())
    for name in _INPUTS:
        digest.update((_ROOT / name).read_bytes())
    return digest.hexdigest()


def _is_current(stamp: pathlib.Path, wanted: str) -> bool:
    return stamp.exists() and stamp.read_text() == wanted


def _create() -> None:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    missing = [
        name for name in ("venv", "ensurepip") if importlib.util.find_spec(name) is None
    ]
    if missing:
        sys.exit(
            f"{sys.executable} cannot make virtual environments: its "
            f"{' and '.join(missing)} is not installed.\n"
            f"On Debian and Ubuntu it is in a system package of its own:\n"
            f"    sudo apt install python{version}-venv\n"
            "Then run make again, or name another Python: make PYTHON=/path/to/python3"
        )
    print(f"Making .venv with Python {version} ...", flush=True)
    # `--clear`: what an interrupted run, or an interpreter since removed, left behind.
    command = [sys.executable, "-m", "venv", "--clear", str(_VENV)]
    if subprocess.run(command, stdin=subprocess.DEVNULL).returncode:
        sys.exit(f"`{' '.join(command)}` failed: its message is above.")


def _install(extras: str) -> None:
    print(f"Installing mmc_jax[{extras}] into .venv (a few minutes) ...", flush=True)
    start = time.monotonic()
    command = [str(_VENV_PYTHON), "-m", "pip", "install", "-qq", "--no-input"]
    command += ["--disable-pip-version-check", "--constraint", "constraints.txt"]
    command += ["--editable", f".[{extras}]"]
    if subprocess.run(command, cwd=_ROOT, stdin=subprocess.DEVNULL).returncode:
        sys.exit(
            "pip could not install what constraints.txt names: its message is above.\n"
            "It needs a package index: check the network, or point pip to a mirror or\n"
            "a folder of wheels (PIP_INDEX_URL, PIP_FIND_LINKS). Then run make again."
        )
    print(f"Set up in {time.monotonic() - start:.0f} s.", flush=True)


if __name__ == "__main__":
    main()

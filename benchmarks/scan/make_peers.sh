#!/bin/sh
# Makes the environment of the other tools: benchmarks/scan/make_peers.sh FOLDER, then PEERS=FOLDER python -m benchmarks.scan
# torch is the same build as landform's, so that only the tools differ. loss-landscapes wants setuptools' pkg_resources.
set -e
folder=${1:?usage: make_peers.sh FOLDER}
torch=$(python -c 'import torch; print(torch.__version__.split("+")[0])')
python -m venv "$folder"
"$folder/bin/pip" install "torch==$torch" "loss-landscapes==3.0.6" "landscaper==1.3.1" "setuptools<81"
"$folder/bin/pip" install --no-deps "PyHessian==0.1"  # for benchmarks/phantom_study.py

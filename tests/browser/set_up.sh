#!/usr/bin/env bash
# Makes .venv-browser: JupyterLab and Voila for the browser tests, apart from both environments
# under test, which only lend their kernels. The front end of ipywidgets has to fit the kernel's
# version, so both are laid beside the servers, and a test names the one it needs in JUPYTER_PATH.
# A second run installs nothing. Without a browser nothing is made, and the tests skip themselves.
set -euo pipefail
# shellcheck source=colab_setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../colab_setup.sh"

servers=(jupyterlab==4.6.6 voila==0.5.13)
anywidget=anywidget==0.9.21 # its front end serves both versions of ipywidgets, and is Colab's
# By the version of ipywidgets: the newest shows nothing of 7.
declare -A front_ends=([7]=jupyterlab_widgets==1.1.11 [8]=jupyterlab_widgets==3.0.17)
venv=$root/.venv-browser

if ! PYTHONPATH="$root/tests/browser" python3 -c 'import sys, chromium; sys.exit(not chromium.find())'; then
    say "there is no Chromium: the browser tests will be skipped. 'apt-get install chromium" \
        "fonts-dejavu-core' brings one on Debian."
    exit
fi
make_venv "$venv" "$root $(cksum <"${BASH_SOURCE[0]}")"
if [[ -e "$venv/set-up/done" ]]; then
    say "already set up in $venv"
    exit
fi
echo '*' >"$venv/.gitignore"
pip_install "$venv/bin/python" "JupyterLab and Voila for the browser tests" "${servers[@]}"
# Without what it depends on: a front end of ipywidgets would come along.
pip_install "$venv/bin/python" "the front end of anywidget" --no-deps "$anywidget"
for version in "${!front_ends[@]}"; do
    pip_install "$venv/bin/python" "the front end of ipywidgets $version" --no-deps --upgrade \
        --target "$venv/ipywidgets-$version" "${front_ends[$version]}"
done
# What looks for faults of accessibility, as one script; its Python is not used.
pip_install "$venv/bin/python" "axe-core" --no-deps --upgrade --target "$venv/axe" \
    axe-playwright-python==0.1.8
touch "$venv/set-up/done"
say "set up in $venv"

#!/usr/bin/env bash
# Makes .venv-browser: JupyterLab and Voila for the browser tests, apart from both environments
# under test, which only lend their kernels. The front end of ipywidgets has to fit the kernel's
# version, so both are laid beside the servers, and a test names the one it needs in JUPYTER_PATH.
# A second run installs nothing. Without a browser nothing is made, and the tests skip themselves.
set -euo pipefail
# shellcheck source=colab_setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../colab_setup.sh"

servers=(jupyterlab==4.6.6 voila==0.5.13)
# The front end of anywidget has to be of the kernel's own version: Colab's, and what the .venv has.
kernel=$root/.venv/bin/python
[[ -x $kernel ]] || kernel=python3
newest=$("$kernel" -c 'import importlib.metadata as m; print(m.version("anywidget"))')
# By the version of ipywidgets: the newest shows nothing of 7.
declare -A front_ends=([7]="jupyterlab_widgets==1.1.11 anywidget==0.9.21"
    [8]="jupyterlab_widgets==3.0.17 anywidget==$newest")
venv=$root/.venv-browser

if ! PYTHONPATH="$root/tests/browser" python3 -c 'import sys, chromium; sys.exit(not chromium.find())'; then
    say "there is no Chromium: the browser tests will be skipped. 'apt-get install chromium" \
        "fonts-dejavu-core' brings one on Debian."
    exit
fi
make_venv "$venv" "$root $newest $(cksum <"${BASH_SOURCE[0]}")"
if [[ -e "$venv/set-up/done" ]]; then
    say "already set up in $venv"
    exit
fi
echo '*' >"$venv/.gitignore"
pip_install "$venv/bin/python" "JupyterLab and Voila for the browser tests" "${servers[@]}"
# In one go, as pip replaces what is in the folder; without what they depend on.
for version in "${!front_ends[@]}"; do
    read -ra packages <<<"${front_ends[$version]}"
    pip_install "$venv/bin/python" "the front ends of ipywidgets $version and anywidget" --no-deps \
        --upgrade --target "$venv/ipywidgets-$version" "${packages[@]}"
done
# What looks for faults of accessibility, as one script; its Python is not used.
pip_install "$venv/bin/python" "axe-core" --no-deps --upgrade --target "$venv/axe" \
    axe-playwright-python==0.1.8
touch "$venv/set-up/done"
say "set up in $venv"

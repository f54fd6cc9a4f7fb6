#!/usr/bin/env bash
# Makes .venv-colab, which stands in for Colab's runtime: the versions that Colab ships, set up by
# colab_setup.sh just as it sets up Colab. What pip would change, and what it did change, is kept
# in .venv-colab/set-up for tests/unit/test_setup.py. A second run installs nothing.
set -euo pipefail
# shellcheck source=colab_setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/../colab_setup.sh"

venv=$root/.venv-colab
versions=$root/tests/constraints-colab-2026.08.txt
record=$venv/set-up
stand_in=$venv/bin/python

packages() { "$stand_in" -m pip list --format=freeze; }
as_in_colab() { COLAB_RELEASE_TAG=stand-in PATH="$venv/bin:$PATH" bash "$root/colab_setup.sh" "$@"; }

# A half-made stand-in is made again: the record below must start from what Colab ships.
[[ -e "$record/after.txt" ]] || rm -f "$record/key"
make_venv "$venv" "$root $(cat "$versions" "$root/pyproject.toml" | cksum)"

if [[ ! -e "$record/after.txt" ]]; then
    install_torch "$stand_in"
    pip_install "$stand_in" "the versions that Colab ships" --requirement "$versions"
    pip_install "$stand_in" "nothing, only asking pip what it would change" \
        --dry-run --report "$record/dry-run.json" --constraint "$versions" "$root"
    # IPython asks for jedi and Colab leaves it out: the set-up must not bring it back.
    "$stand_in" -m pip uninstall --quiet --yes jedi
    packages >"$record/before.txt"
    as_in_colab setup
    packages >"$record/after.txt.part"
    mv "$record/after.txt.part" "$record/after.txt"
fi
as_in_colab setup test
# A regular install holds just what the wheel carries.
PATH="$venv/bin:$PATH" package_is_current || fail "the installed packages differ from llava_nb/ and" \
    "notebooks/llava_lessons/:" \
    "a file there is left out of the wheel. See [tool.hatch] in pyproject.toml, and .gitignore."

#!/usr/bin/env bash
# Sets up llava_nb and starts it: in Colab, on a bare machine and in CI. Safe to run twice.
#
# In Colab the runtime's own Python is used and only what it lacks is installed; what it ships
# keeps its version, so no restart is needed. Elsewhere a .venv is made beside this script.
# LLAVA_NB_TORCH=torch==X.Y.Z chooses another torch for a new .venv than the release tested last.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
torch=${LLAVA_NB_TORCH:-torch==2.13.0}
torch_cpu_index=https://download.pytorch.org/whl/cpu
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore

usage() {
    cat <<'USAGE'
bash colab_setup.sh                           set up
bash colab_setup.sh setup [EXTRA]             set up, with an extra of pyproject.toml: test or lab
bash colab_setup.sh caption [IMAGE] [PROMPT]  set up if needed, then caption a picture
bash colab_setup.sh test                      set up if needed, then run the whole test suite
bash colab_setup.sh lab                       set up if needed, then open the notebooks in JupyterLab
bash colab_setup.sh help                      show this
USAGE
}

say() { printf 'llava_nb: %s\n' "$*"; }
fail() {
    printf 'llava_nb: %s\n' "$*" >&2
    exit 1
}

in_colab() { [[ -n "${COLAB_RELEASE_TAG:-}" || -n "${COLAB_GPU+set}" ]]; }
has_nvidia_gpu() { nvidia-smi >/dev/null 2>&1; }

# --- pip ----------------------------------------------------------------------------------------

# pip_install PYTHON WHAT ARGUMENT...
pip_install() {
    local python=$1 what=$2
    shift 2
    say "installing $what"
    "$python" -m pip install -qq --retries 2 "$@" || fail "pip could not install $what; its own" \
        "message is above. Most often there is no network, or a proxy is not set (HTTPS_PROXY)." \
        "Put that right and run the same command again: what is already installed is kept."
}

need_pip() {
    "$1" -m pip --version >/dev/null 2>&1 || fail "$1 has no pip. Run '$1 -m ensurepip --upgrade'," \
        "or on Debian and Ubuntu 'apt-get install python3-pip', then run the same command again."
}

# --- Colab: the runtime's own Python ------------------------------------------------------------

# Prints the requirements of pyproject.toml, with an extra's, that this Python does not have.
missing_requirements() {
    python3 - "$root/pyproject.toml" "$1" <<'PYTHON'
import importlib.metadata, sys
from pip._vendor.packaging.requirements import Requirement
try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    from pip._vendor import tomli as tomllib

with open(sys.argv[1], "rb") as file:
    project = tomllib.load(file)["project"]
extra = sys.argv[2]
wanted = project["dependencies"] + (project["optional-dependencies"][extra] if extra else [])
unfit = []
for requirement in map(Requirement, wanted):
    if requirement.marker and not requirement.marker.evaluate():
        continue
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        print(requirement)
    else:
        if not requirement.specifier.contains(version, prereleases=True):
            unfit.append(f"{requirement.name} {version} (needed: {requirement.specifier})")
if unfit:
    sys.exit("llava_nb: this Colab runtime is too old or too new: " + ", ".join(unfit)
             + ". Choose Runtime > Change runtime type > Runtime version > Latest, and run again.")
PYTHON
}

same_files() { diff -rq -x __pycache__ -x '.*' "$1" "$2" >/dev/null 2>&1; }

package_is_current() {
    local site
    site=$(python3 -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    same_files "$root/llava_nb" "$site/llava_nb" \
        && same_files "$root/notebooks/llava_lessons" "$site/llava_lessons"
}

set_up_colab() {
    local extra=$1 frozen missing=() line
    python=python3
    need_pip "$python"
    line=$(missing_requirements "$extra") || exit 1
    while IFS= read -r line; do
        [[ -z "$line" ]] || missing+=("$line")
    done <<<"$line"
    if package_is_current; then
        if [[ ${#missing[@]} -eq 0 ]]; then
            say "already set up in Colab's own Python"
            return
        fi
    else
        # A regular install: a running notebook would not see an editable one until a restart.
        pip_install "$python" "llava_nb" --no-deps --force-reinstall "$root"
    fi
    if [[ ${#missing[@]} -gt 0 ]]; then
        frozen=$(mktemp)
        # Every package that is there becomes a constraint, so none can change its version.
        "$python" -m pip list --format=freeze --exclude llava_nb | grep -E '^[^ ]+==[^ ]+$' >"$frozen"
        pip_install "$python" "what Colab lacks: ${missing[*]}" --constraint "$frozen" "${missing[@]}"
        rm -f "$frozen"
    fi
    say "set up in Colab's own Python; nothing it ships was changed"
}

# --- elsewhere: a virtual environment -----------------------------------------------------------

python_fits() {
    "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' >/dev/null 2>&1
}

find_python() {
    local name
    for name in python3 python3.13 python3.12 python3.11 python3.10; do
        if python_fits "$name"; then
            command -v "$name"
            return
        fi
    done
    fail "no Python 3.10 to 3.13 was found ($(python3 --version 2>/dev/null || echo 'there is no python3'))." \
        "Install one, for example 'apt-get install python3 python3-venv' or from python.org," \
        "and run the same command again."
}

# make_venv FOLDER KEY: leaves FOLDER alone if it works and was made for the same KEY.
make_venv() {
    local venv=$1 key=$2 base
    if [[ "$(cat "$venv/set-up/key" 2>/dev/null)" == "$key" ]] \
        && "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
        return
    fi
    base=$(find_python) || exit 1
    say "making $venv with $("$base" --version)"
    "$base" -m venv --clear "$venv" || fail "$base could not make a virtual environment in $venv." \
        "On Debian and Ubuntu run 'apt-get install python3-venv' (the message above may name the" \
        "exact package); then run the same command again."
    # `--dry-run --report` below needs a newer pip than some Pythons bring.
    pip_install "$venv/bin/python" "a current pip" --upgrade pip
    mkdir -p "$venv/set-up"
    printf '%s\n' "$key" >"$venv/set-up/key"
}

# Whether pip, as it is configured here, would take a build of torch that brings no CUDA packages.
pip_has_cpu_torch() {
    local report
    report=$("$1" -m pip install -qq --retries 2 --dry-run --no-deps --report - "$torch") || return 1
    "$1" -c '
import json, re, sys
needs = json.load(sys.stdin)["install"][0]["metadata"].get("requires_dist", [])
sys.exit(any(re.match("nvidia|cuda|triton", need) for need in needs))' <<<"$report"
}

# install_torch PYTHON: on Linux without an NVIDIA GPU a CPU build, 0.2 GB instead of several GB.
install_torch() {
    local python=$1
    if "$python" -c 'import importlib.metadata as m; m.version("torch")' 2>/dev/null; then
        return
    fi
    if [[ "$(uname -s)" != Linux ]]; then
        pip_install "$python" "$torch" "$torch"
    elif has_nvidia_gpu; then
        say "there is an NVIDIA GPU: torch comes with CUDA, several GB and some minutes"
        pip_install "$python" "$torch" "$torch"
    elif pip_has_cpu_torch "$python" 2>/dev/null; then
        pip_install "$python" "$torch, CPU build (no NVIDIA GPU here)" "$torch"
    elif say "installing $torch, CPU build from $torch_cpu_index (no NVIDIA GPU here)" \
        && "$python" -m pip install -qq --retries 0 --timeout 15 --index-url "$torch_cpu_index" \
            "$torch" 2>/dev/null; then
        return
    else
        say "that did not work; the build for NVIDIA GPUs runs here too: several GB, some minutes"
        pip_install "$python" "$torch" "$torch"
    fi
}

# set_up_venv EXTRA: each extra has a stamp, so a second run installs nothing.
set_up_venv() {
    local extra=$1 venv=$root/.venv stamp key torch_kind=cpu
    ! has_nvidia_gpu || torch_kind=gpu
    if [[ $torch_kind == gpu && "$(cat "$venv/set-up/torch" 2>/dev/null)" == cpu ]]; then
        say "there is an NVIDIA GPU now, and $venv has a CPU build of torch: starting afresh"
        rm -f "$venv/set-up/key"
    fi
    make_venv "$venv" "$root"
    python=$venv/bin/python
    stamp=$venv/set-up/stamp-${extra:-base}
    key=$(cksum <"$root/pyproject.toml")
    if [[ "$(cat "$stamp" 2>/dev/null)" == "$key" ]]; then
        say "already set up in $venv"
        return
    fi
    install_torch "$python"
    [[ -e "$venv/set-up/torch" ]] || echo "$torch_kind" >"$venv/set-up/torch"
    pip_install "$python" "llava_nb${extra:+ with its $extra extra}" --editable "$root${extra:+[$extra]}"
    echo "$key" >"$venv/set-up/stamp-base"
    echo "$key" >"$stamp"
    say "set up in $venv"
}

set_up() { if in_colab; then set_up_colab "$1"; else set_up_venv "$1"; fi; }

# --- what a person asks for ---------------------------------------------------------------------

main() {
    local verb=${1:-setup}
    [[ $# -eq 0 ]] || shift
    case $verb in
        setup)
            [[ "${1:-}" =~ ^(test|lab|)$ ]] || fail "no extra '$1'; there are: test, lab."
            set_up "${1:-}"
            in_colab || say "next: bash $root/colab_setup.sh caption"
            ;;
        caption)
            set_up ""
            exec "$python" -m llava_nb caption "$@"
            ;;
        test)
            # Ray is left out in Colab: it brings much, and only what has to be there is installed.
            if in_colab; then
                set_up test
                set -- --here
            else
                set_up test,ray
            fi
            exec "$python" "$root/tests/run_all.py" "$@"
            ;;
        lab)
            in_colab && fail "Colab is a notebook already: open the files in notebooks/ there."
            set_up lab
            exec "$python" -m jupyterlab "$@" "$root/notebooks"
            ;;
        help | -h | --help) usage ;;
        *)
            usage >&2
            fail "no verb '$verb'; the verbs are above."
            ;;
    esac
}

# tests/colab_stand_in.sh sources this file for its functions.
if [[ "${BASH_SOURCE[0]}" == "$0" ]]; then main "$@"; fi

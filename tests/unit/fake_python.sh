#!/usr/bin/env bash
# Acts as python3, as `python -m venv` and as the Python in the venv; keeps a log of pip's installs.
case "$*" in
    *sys.version_info*) exit "${FAKE_VERSION_UNFIT:-0}" ;;
    *"-m venv"*)
        [[ -z "${FAKE_NO_VENV:-}" ]] || exit 1
        rm -rf "${@: -1}" && mkdir -p "${@: -1}/bin" && cp "$0" "${@: -1}/bin/python" ;;
    *"pip install"*)
        shift 2; echo "pip $*" >>"$FAKE_LOG"
        [[ "$*" != *"${FAKE_PIP_FAILS_ON:-nothing at all}"* ]] || exit 1
        [[ "$*" != *--report* ]] || echo '{"install": [{"metadata": {}}]}' ;;
    *'m.version("torch")'*) exit 1 ;;
    *requires_dist*) exit "${FAKE_TORCH_HAS_CUDA:-0}" ;;
    *--version*) echo "Python 3.11.0" ;;
    *) echo "python $*" ;;
esac

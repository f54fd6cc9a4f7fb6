"""What the browser tests share: a browser for each module, and the reason where there is none.

The browser ends with its module, because as long as it is there
playwright's event loop runs in this thread, where other tests run loops of their own.
"""

from __future__ import annotations

import chromium
import lab_and_voila
import pytest

NO_BROWSER = (
    f"there is no browser: none of {', '.join(chromium.NAMES)} is on PATH; on Debian "
    "'apt-get install chromium fonts-dejavu-core', then 'bash tests/browser/set_up.sh'"
)


@pytest.fixture(scope="module")
def browser():
    if chromium.find() is None:
        pytest.skip(NO_BROWSER)
    assert lab_and_voila.FRONT_END.exists(), (
        f"{lab_and_voila.SERVERS.name} is not set up: bash tests/browser/set_up.sh"
    )
    with chromium.started() as started:
        yield started


@pytest.fixture(scope="module", params=["lab", "voila"])
def server(request, browser, tmp_path_factory):
    with lab_and_voila.serving(request.param, tmp_path_factory.mktemp("server")) as serving:
        yield serving

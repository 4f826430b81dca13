"""The notebooks in JupyterLab, in a real browser, as a reader opens them. Opt-in: `make
test-browser`.

Needs chromium and chromedriver and the extra `browser`; skipped, with the reason, where one is
missing. Screenshots go to the folder named by KTGLITE_SCREENSHOTS, or to pytest's temporary folder.
"""

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from functools import partial
from pathlib import Path

import nbformat
import pytest
import refresh_notebooks as books
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

from ktglite import reproduce as work
from ktglite.graph import Graph, Node

TOP = Path(__file__).parents[1]
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
    "--window-size=1400,1600",
]  # fmt: skip

pytestmark = pytest.mark.browser
webdriver = pytest.importorskip("selenium.webdriver", reason="pip install 'ktglite[browser]'")
if not (shutil.which("chromium") and shutil.which("chromedriver")):
    pytest.skip("chromium and chromedriver are not installed", allow_module_level=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkout as a reader has it, with the smoke profile's parameters in every notebook."""
    top = tmp_path_factory.mktemp("checkout")
    hidden = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
    for name in ("ktglite", "notebooks", "docs"):
        shutil.copytree(TOP / name, top / name, ignore=hidden)
    overrides = {"cache": str(top / "cache")}
    values = {"profile": "smoke", "out": str(top / "run"), "overrides": overrides}
    for stem in work.NOTEBOOKS:
        path = top / "notebooks" / f"{stem}.ipynb"
        notebook = parameterize_notebook(load_notebook_node(str(path)), values)
        for cell in notebook.cells:
            cell.get("metadata", {}).pop("papermill", None)
        nbformat.write(notebook, path)
    return top


def is_up(address, process, log):
    assert process.poll() is None, log.read_text()[-3000:]
    try:
        urllib.request.urlopen(address, timeout=2).close()
    except OSError:
        return False
    return True


def wait(condition, what, seconds=300):
    """Ask until the answer is true, and return it; a reader would wait, too, but not for ever."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found = condition()
        if found:
            return found
        time.sleep(0.3)
    raise AssertionError(f"waited {seconds} s for {what}")


@pytest.fixture(scope="module")
def server(folder):
    """JupyterLab as `make lab` starts it, on the loopback interface, with a token; yields its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    token, home = secrets.token_hex(16), folder / "jupyter"
    command = [sys.executable, "-m", "jupyter", "lab", "notebooks", "--no-browser", "--allow-root"]
    command += ["--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}"]
    command += [f"--IdentityProvider.token={token}"]
    quiet = home / "settings/@jupyterlab/apputils-extension/notification.jupyterlab-settings"
    quiet.parent.mkdir(parents=True)
    # else it asks, in front of everything
    quiet.write_text('{"fetchNews": "false", "checkForUpdates": false}')
    environment = os.environ | {
        "JUPYTER_CONFIG_DIR": f"{home}/config",
        "JUPYTER_RUNTIME_DIR": f"{home}/runtime",
        "JUPYTERLAB_SETTINGS_DIR": f"{home}/settings",
        "JUPYTERLAB_WORKSPACES_DIR": f"{home}/workspaces",
        "IPYTHONDIR": f"{home}/ipython",
        "PYTHONPATH": str(folder),
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    }
    with open(folder / "jupyter.log", "w") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    try:
        answers = partial(is_up, f"{address}/api?token={token}", process, folder / "jupyter.log")
        wait(answers, "JupyterLab")
        yield f"{address}/lab/tree/{{}}.ipynb?reset&token={token}"
    finally:
        process.terminate()
        process.wait(timeout=20)


@pytest.fixture(scope="module")
def browser(folder):
    options = webdriver.ChromeOptions()
    for flag in (*FLAGS, f"--user-data-dir={folder}/chromium"):
        options.add_argument(flag)
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    driver = webdriver.Chrome(options=options, service=service)
    driver.set_script_timeout(60)
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def shots(folder):
    place = Path(os.environ.get("KTGLITE_SCREENSHOTS", folder / "screenshots"))
    place.mkdir(parents=True, exist_ok=True)
    return place


def shown(browser, css):
    """The elements of a selector that are on the page."""
    return browser.find_elements("css selector", css)


def open_notebook(browser, server, stem):
    browser.get(server.format(stem))
    wait(lambda: shown(browser, ".jp-Notebook .jp-MarkdownOutput h1"), f"{stem} to open")


def run_command(browser, label):
    """Click an entry of the menu Run."""
    for css, text in ((".lm-MenuBar-item", "Run"), (".lm-Menu-item", label)):

        def entries(css=css, text=text):
            return [entry for entry in shown(browser, css) if entry.text.startswith(text)]

        wait(entries, text)[0].click()


def scroll_to(browser, css):
    """Scroll through the notebook, of which windowed rendering shows a part, to the selector."""
    panel = shown(browser, ".jp-WindowedPanel-outer")[0]
    for step in range(200):
        if found := shown(browser, css):
            browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", found[0])
            time.sleep(0.5)
            return
        browser.execute_script("arguments[0].scrollTop = arguments[1]", panel, 400 * step)
        time.sleep(0.1)
    raise AssertionError(f"nothing on the page is {css}")


def click(browser, css):
    event = "new MouseEvent('click', {bubbles: true})"
    browser.execute_script(f"document.querySelector(arguments[0]).dispatchEvent({event})", css)


EXPLORER = TOP / "docs" / "explorer.html"
TEN_CLICKS = ["edge01", "edge02", "edge02", "edge02", "edge10", "edge11"]
TEN_CLICKS += ["node1", "node2", "node0", "edge21"]


@pytest.fixture
def explorer(browser):
    """The explorer's page in English, at the graph of Table 1; nothing it does may be an error."""
    browser.get("about:blank")  # else a new address is only a new fragment
    browser.get_log("browser")
    browser.get(EXPLORER.as_uri() + "#000-TTT-TTT-TTT-1")
    click(browser, "#en")
    yield browser
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert not [line for line in browser.get_log("browser") if line["level"] == "SEVERE"]


def text_of(browser, name):
    return browser.find_element("id", name).text


@pytest.mark.parametrize("lang", ["en", "ja"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_explorer_fits_after_ten_clicks(explorer, shots, width, lang):
    screen = {"width": width, "height": 1400, "deviceScaleFactor": 1, "mobile": width < 500}
    explorer.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    click(explorer, f"#{lang}")
    for place in TEN_CLICKS:
        click(explorer, f"[data-{place[:4]}='{place[4:]}']")
    assert explorer.current_url.endswith("#111-TLX-LLT-TLT-1")
    assert explorer.execute_script("return document.documentElement.scrollWidth") <= width
    assert len(shown(explorer, "#near li")) == 3
    explorer.save_screenshot(f"{shots}/explorer-{lang}-{width}.png")


def test_the_explorer_says_what_a_graph_is(explorer):
    assert "the graph of the paper's Table 1" in text_of(explorer, "told")
    assert "the same graph" in text_of(explorer, "near")
    for source in "012":  # Through, Linear, Correct, Cutoff; a label edge has no Correct
        for _ in range(2 if source == "0" else 3):
            click(explorer, f"[data-edge='0{source}']")
    assert "not a graph yet" in text_of(explorer, "told")
    assert explorer.current_url.endswith("#000-XXX-TTT-TTT-1")
    assert not shown(explorer, "[data-edge='00'] text[style*='700']")
    assert not explorer.find_element("id", "recorded").is_displayed()
    assert not explorer.find_element("id", "copy").is_enabled()
    explorer.get(EXPLORER.as_uri() + "#000-TTX-XXX-XXX-1")
    wait(lambda: "teaches noise" in text_of(explorer, "told"), "a fixed teacher of random numbers")
    for _ in range(3):  # from a stand-in, fractals, the task itself
        click(explorer, "[data-node='1']")
    assert "fixed teacher" in text_of(explorer, "told")
    assert "teaches noise" not in text_of(explorer, "told")
    click(explorer, "#ja")
    assert "教師" in text_of(explorer, "told")


def test_the_explorer_finds_what_was_recorded(explorer):
    explorer.get(EXPLORER.as_uri() + "#012-TXX-TTX-XXT-1")  # nodes 2 and 3 do not count
    wait(lambda: "the same graph" in text_of(explorer, "near"), "the curve of node 1 alone")
    kinds = shown(explorer, "[data-preset]")
    for kind in [element.get_attribute("data-preset") for element in kinds]:
        click(explorer, f"[data-preset='{kind}']")
        assert "the same graph" in text_of(explorer, "near")
    click(explorer, "#guess")
    for css in ("[data-edge='01']", "#weight"):
        click(explorer, css)
        assert not explorer.find_element("id", "answer").is_displayed()
        click(explorer, "#reveal")
        assert "points off" in text_of(explorer, "near")


def test_the_explorer_copies_a_graph_that_the_kit_reads(explorer):
    write = "navigator.clipboard.writeText = async (text) => { window.copy = text; }"
    explorer.execute_script(write)
    click(explorer, "[data-edge='02']")
    click(explorer, "#copy")
    text = wait(lambda: explorer.execute_script("return window.copy"), "the JSON", 10)
    through = ("through",) * 3
    gates = [("through", "through", "linear"), through, through]
    assert Graph.from_dict(json.loads(text)) == Graph([Node("resnet18_w16")] * 3, gates)


@pytest.mark.parametrize("stem", work.NOTEBOOKS)
def test_it_opens_with_its_question_and_formulas(browser, server, shots, stem):
    open_notebook(browser, server, stem)
    assert "Question." in shown(browser, ".jp-Notebook .jp-MarkdownOutput")[0].text
    assert not [e for e in shown(browser, ".jp-Dialog") if e.is_displayed()]
    assert not shown(browser, ".MathJax_Error, mjx-merror, .jp-mod-error")
    browser.save_screenshot(f"{shots}/{stem}.png")


def test_00_runs_and_shows_the_explorer(browser, server, shots):
    stem = next(iter(work.NOTEBOOKS))
    open_notebook(browser, server, stem)
    run_command(browser, "Run All Cells")
    scroll_to(browser, "[data-windowed-list-index='0']")
    idle = ".jp-Notebook-ExecutionIndicator[data-status='idle']"
    wait(lambda: shown(browser, idle), "the kernel to finish")
    scroll_to(browser, "iframe[title='explorer']")
    browser.save_screenshot(f"{shots}/{stem}-run.png")
    errors = "[data-mime-type='application/vnd.jupyter.stderr'], .jp-RenderedText.jp-mod-error"
    loud = shown(browser, errors)
    texts = [element.get_attribute("textContent").strip() for element in loud]
    assert not [text for text in texts if text and not books.BAR.search(text)]

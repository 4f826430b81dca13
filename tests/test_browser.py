"""The notebooks in JupyterLab, in a real browser, as a reader opens them. Opt-in: `make
test-browser`.

Needs chromium and chromedriver and the extra `browser`; skipped, with the reason, where one is
missing. Screenshots go to the folder named by KTGLITE_SCREENSHOTS, or to pytest's temporary folder.
"""

import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest
import refresh_notebooks as books
from explorer_page import explorer_page
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook
from test_explorer_page import QUICK, as_page, random_graphs, words

from ktglite import reproduce as work
from ktglite.experiments.ablation import read_runs
from ktglite.experiments.search import read_summaries

TOP = Path(__file__).parents[1]
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
    "--window-size=1400,1600",
]  # fmt: skip

pytestmark = pytest.mark.browser
webdriver = pytest.importorskip("selenium.webdriver", reason="pip install 'ktglite[browser]'")
Select = pytest.importorskip("selenium.webdriver.support.select").Select
if not (shutil.which("chromium") and shutil.which("chromedriver")):
    pytest.skip("chromium and chromedriver are not installed", allow_module_level=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkout as a reader has it, with the smoke profile's parameters in every notebook."""
    top = tmp_path_factory.mktemp("checkout")
    shutil.copytree(TOP / "ktglite", top / "ktglite", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(
        TOP / "notebooks", top / "notebooks", ignore=shutil.ignore_patterns(".ipynb_checkpoints")
    )
    values = {
        "profile": "smoke",
        "out": str(top / "run"),
        "overrides": {"cache": str(top / "cache")},
    }
    for stem in work.NOTEBOOKS:
        path = top / "notebooks" / f"{stem}.ipynb"
        notebook = parameterize_notebook(load_notebook_node(str(path)), values)
        for cell in notebook.cells:
            cell.get("metadata", {}).pop("papermill", None)
        nbformat.write(notebook, path)
    return top


@pytest.fixture(scope="module")
def server(folder):
    """JupyterLab as `make lab` starts it, on the loopback interface, with a token; yields its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    token, home = secrets.token_hex(16), folder / "jupyter"
    command = [sys.executable, "-m", "jupyter", "lab", "notebooks", "--no-browser", "--allow-root"]
    command += [
        "--ServerApp.ip=127.0.0.1",
        f"--ServerApp.port={port}",
        f"--IdentityProvider.token={token}",
    ]
    quiet = home / "settings/@jupyterlab/apputils-extension/notification.jupyterlab-settings"
    quiet.parent.mkdir(parents=True)
    quiet.write_text(
        '{"fetchNews": "false", "checkForUpdates": false}'
    )  # else it asks, in front of everything
    places = {"JUPYTER_CONFIG_DIR": home / "config", "JUPYTER_RUNTIME_DIR": home / "runtime"}
    places |= {
        "JUPYTERLAB_SETTINGS_DIR": home / "settings",
        "JUPYTERLAB_WORKSPACES_DIR": home / "workspaces",
    }
    places |= {
        "IPYTHONDIR": home / "ipython",
        "PYTHONPATH": str(folder),
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    }
    environment = os.environ | {name: str(value) for name, value in places.items()}
    with open(folder / "jupyter.log", "w") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    try:
        until = time.monotonic() + 300  # on a busy machine; alone it takes seconds
        while True:
            try:
                urllib.request.urlopen(f"{address}/api?token={token}", timeout=2).close()
                break
            except OSError:
                running = process.poll() is None and time.monotonic() < until
                assert running, (folder / "jupyter.log").read_text()[-3000:]
                time.sleep(0.5)
        yield f"{address}/lab/tree/{{}}.ipynb?reset&token={token}"
    finally:
        process.terminate()
        process.wait(timeout=20)


@pytest.fixture(scope="module")
def browser(folder):
    options = webdriver.ChromeOptions()
    for flag in (*FLAGS, f"--user-data-dir={folder}/chromium"):
        options.add_argument(flag)
    driver = webdriver.Chrome(
        options=options, service=webdriver.ChromeService(shutil.which("chromedriver"))
    )
    driver.set_script_timeout(60)
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def shots(folder):
    place = Path(os.environ.get("KTGLITE_SCREENSHOTS", folder / "screenshots"))
    place.mkdir(parents=True, exist_ok=True)
    return place


def wait(condition, what, seconds=300):
    """Ask until the answer is true, and return it; a reader would wait, too, but not for ever."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found = condition()
        if found:
            return found
        time.sleep(0.3)
    raise AssertionError(f"waited {seconds} s for {what}")


def shown(browser, css):
    """The elements of a selector that are on the page."""
    return browser.find_elements("css selector", css)


def open_notebook(browser, server, stem):
    browser.get(server.format(stem))
    wait(lambda: shown(browser, ".jp-Notebook .jp-MarkdownOutput h1"), f"{stem} to open")
    # windowed rendering keeps cells out of the page until they are scrolled to: show all
    wait(
        lambda: browser.execute_script("return !!document.querySelector('.jp-NotebookPanel')"),
        "the panel",
    )


def run_command(browser, label):
    """Click an entry of the menu Run."""
    entry = wait(
        lambda: [e for e in shown(browser, ".lm-MenuBar-item") if e.text == "Run"], "the menu"
    )[0]
    entry.click()
    item = wait(
        lambda: [e for e in shown(browser, ".lm-Menu-item") if e.text.startswith(label)], label
    )[0]
    item.click()


def scroll_to(browser, css):
    """Scroll through the notebook until the selector is on the page, and bring it into view."""
    panel = shown(browser, ".jp-WindowedPanel-outer")[0]
    for step in range(200):
        if shown(browser, css):
            browser.execute_script(
                "arguments[0].scrollIntoView({block: 'center'})", shown(browser, css)[0]
            )
            time.sleep(0.5)
            return shown(browser, css)[0]
        browser.execute_script("arguments[0].scrollTop = arguments[1]", panel, 400 * step)
        time.sleep(0.1)
    raise AssertionError(f"nothing on the page is {css}")


def photograph(browser, path):
    """The whole notebook, page by page, as a reader scrolls."""
    panel = shown(browser, ".jp-WindowedPanel-outer")[0]
    top = 0
    for page in range(30):
        browser.execute_script("arguments[0].scrollTop = arguments[1]", panel, top)
        time.sleep(0.6)
        browser.save_screenshot(f"{path}-{page:02d}.png")
        height, view = (
            browser.execute_script(f"return arguments[0].{name}", panel)
            for name in ("scrollHeight", "clientHeight")
        )
        top += view - 80
        if top >= height - 80:
            break


def test_the_explorer_without_a_kernel(browser, shots, tmp_path):
    """2,000 random graphs by the package's words, by keyboard, at the widths of a desk and of a telephone."""
    page = tmp_path / "explorer.html"
    page.write_text(
        explorer_page(read_runs(QUICK), read_summaries(QUICK / "search")), encoding="utf-8"
    )
    for width in (1280, 390):
        browser.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": 1400, "deviceScaleFactor": 1, "mobile": width < 500},
        )
        browser.get(page.as_uri())
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        browser.save_screenshot(f"{shots}/explorer-{width}.png")
    graphs = random_graphs(2000)
    code = "return arguments[0].map((g) => [reaching(g), formulas(g), influence(g), verdict(g)])"
    assert browser.execute_script(code, [*map(as_page, graphs)]) == [
        words(graph) for graph in graphs
    ]
    first = browser.find_element("id", "preset")
    first.send_keys("Table 1")
    assert "the graph of the paper's Table 1" in browser.find_element("id", "told").text
    assert "the same graph" in browser.find_element("id", "nearest").text
    for source in range(3):
        Select(browser.find_element("id", f"gate0{source}")).select_by_value("cutoff")
    assert "Not a graph yet" in browser.find_element("id", "told").text
    assert not [line for line in browser.get_log("browser") if line["level"] == "SEVERE"]
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.parametrize("stem", work.NOTEBOOKS)
def test_it_opens_with_its_question_and_formulas(browser, server, shots, stem):
    open_notebook(browser, server, stem)
    assert "Question." in shown(browser, ".jp-Notebook .jp-MarkdownOutput")[0].text
    assert not [e for e in shown(browser, ".jp-Dialog") if e.is_displayed()]
    assert not shown(browser, ".MathJax_Error, mjx-merror, .jp-mod-error")
    photograph(browser, shots / f"{stem}-opened")


def test_00_runs_and_its_explorer_answers(browser, server, shots):
    stem = next(iter(work.NOTEBOOKS))
    open_notebook(browser, server, stem)
    run_command(browser, "Run All Cells")
    scroll_to(browser, "[data-windowed-list-index='0']")
    # the explorer is there as widgets, once, and not also as a picture
    button = wait(lambda: explorer_button(browser), "the explorer")
    wait(
        lambda: shown(browser, ".jp-Notebook-ExecutionIndicator[data-status='idle']"),
        "the kernel to finish",
    )
    photograph(browser, shots / f"{stem}-run")
    button = wait(lambda: explorer_button(browser), "the explorer")
    cell = browser.execute_script("return arguments[0].closest('.jp-Cell')", button)
    assert not cell.find_elements("css selector", ".jp-RenderedImage")
    loud = shown(
        browser, "[data-mime-type='application/vnd.jupyter.stderr'], .jp-RenderedText.jp-mod-error"
    )
    assert not [text for text in (element.text for element in loud) if not books.BAR.search(text)]

    def told():
        return cell.find_element("css selector", ".jp-OutputArea-output").text

    def choose(position, value):
        Select(cell.find_elements("css selector", "select")[position]).select_by_visible_text(value)

    assert "matches no published method" in told()
    choose(0, "Table 1: all Through")
    wait(lambda: "the graph of the paper's Table 1" in told(), "the sentence on Table 1")
    browser.save_screenshot(f"{shots}/explorer-table1.png")
    choose(0, "independent")
    wait(lambda: "independent training" in told(), "the sentence on independent training")
    choose(3, "cutoff")  # node 1's label edge
    wait(lambda: "Not a graph yet" in told(), "the message")
    assert not explorer_button(browser).is_enabled()
    browser.save_screenshot(f"{shots}/explorer-invalid.png")
    choose(3, "through")
    wait(lambda: explorer_button(browser).is_enabled(), "the graph to be one again")
    explorer_button(browser).click()
    wait(lambda: "validation accuracy of node 1" in told(), "an epoch")
    wait(lambda: "Train" in explorer_button(browser).text, "the end of the training")
    time.sleep(1)
    browser.save_screenshot(f"{shots}/explorer-trained.png")
    assert "epoch 2 of 2" in told()


def explorer_button(browser):
    """The button of the explorer, scrolled to."""
    css = ".widget-button, .jupyter-button"
    panel = shown(browser, ".jp-WindowedPanel-outer")[0]
    for _ in range(60):
        found = [e for e in shown(browser, css) if e.text.strip() in ("Train", "Stop")]
        if found:
            browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", found[0])
            return found[0]
        at = browser.execute_script("return arguments[0].scrollTop", panel)
        browser.execute_script("arguments[0].scrollTop += 700", panel)
        time.sleep(0.15)
        if browser.execute_script("return arguments[0].scrollTop", panel) == at:
            browser.execute_script("arguments[0].scrollTop = 0", panel)
            return None
    return None

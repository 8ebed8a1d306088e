"""A reader of the report page, and what Python says to the same wishes."""

from __future__ import annotations

import shlex
import time

import numpy as np

from moofusion.comparison import pooled_result


class Page:
    """A report page in the browser, with the words of a reader."""

    def __init__(self, browser, path, **emulated):
        self.browser = browser
        browser.execute_cdp_cmd(
            "Emulation.setEmulatedMedia",
            {
                "features": [
                    {"name": "prefers-color-scheme", "value": emulated.get("scheme", "light")}
                ]
            },
        )
        width = emulated.get("width")
        if width:
            browser.execute_cdp_cmd(
                "Emulation.setDeviceMetricsOverride",
                {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": True},
            )
        else:
            browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        self.logs()
        browser.get(f"file://{path}")
        self.wait("return document.body.dataset.ready === 'yes'")

    def logs(self):
        return self.browser.get_log("browser"), self.browser.get_log("performance")

    def js(self, script, *arguments):
        return self.browser.execute_script(script, *arguments)

    def wait(self, script, seconds=30):
        end = time.monotonic() + seconds
        while not self.js(script):
            assert time.monotonic() < end, f"waited in vain for {script}"
            time.sleep(0.02)

    def find(self, css):
        return self.browser.find_element("css selector", css)

    def text(self, css):
        return self.js("return document.querySelector(arguments[0]).textContent", css)

    def pick(self, css, value):
        self.js(
            "const s = document.querySelector(arguments[0]); s.value = arguments[1];"
            "s.dispatchEvent(new Event('change', {bubbles: true}))", css, str(value),
        )  # fmt: skip

    def slide(self, weights):
        """Set every slider, in hundredths."""
        self.js(
            "arguments[0].forEach((w, j) => { const s = document.getElementById('weight-' + j);"
            "s.value = w; s.dispatchEvent(new Event('input', {bubbles: true})); })", list(weights),
        )  # fmt: skip

    def recommended(self):
        """Label, printed values by task, and words of the export command."""
        rows = self.js(
            "return [...document.querySelectorAll('#recommended table.model tbody tr')]"
            ".map(r => [...r.children].map(c => c.textContent))"
        )
        return self.text("#recommended-label"), rows, shlex.split(self.text("#command"))

    def drawn(self, figure="front-chart"):
        self.js("return new Promise(r => requestAnimationFrame(() => setTimeout(r, 0)))")
        return self.js(
            "return document.getElementById(arguments[0]).data.map(t => "
            "({x: t.x, y: t.y, name: t.name || '', color: (t.marker || t.line).color}))", figure,
        )  # fmt: skip


def expected(data, title, words, algorithms=()):
    """What Python recommends for the words of the page's command: front and index."""
    wish = words[words.index("--preference") + 1]
    front = pooled_result(data, title, algorithms=algorithms).front
    return front, front.choose(wish)


def printed(front, index, split):
    return [
        f"{100 * v:.1f} %" if m.percent else f"{v:.4f}"
        for v, m in zip(front.values(split)[index], front.metrics, strict=True)
    ]


def check(page, data, section, title, algorithms=()):
    label, rows, words = page.recommended()
    front, index = expected(data, title, words, algorithms)
    splits = list(reversed(front.splits))
    for k, split in enumerate(splits):
        assert [row[1 + k] for row in rows] == printed(front, index, split)
    run = next(
        (r, i)
        for r in section.runs
        for i in r.reported
        if r.cell.algorithm in (algorithms or section.algorithms)
        and np.array_equal(r.X[i], front.X[index])
    )
    name = section.names[run[0].cell.algorithm]
    assert label == f"{name}, seed {run[0].cell.seed}, evaluation {run[1] + 1}"
    return front, index, words


def contrast(a, b):
    """Contrast of two colors as WCAG defines it."""

    def luminance(color):
        c = np.array(color) / 255
        c = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
        return float(c @ [0.2126, 0.7152, 0.0722])

    light, dark = sorted([luminance(a), luminance(b)], reverse=True)
    return (light + 0.05) / (dark + 0.05)

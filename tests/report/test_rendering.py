import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from lit_offrl.evaluation.estimate import Estimate, inapplicable
from lit_offrl.evaluation.finding import Finding
from lit_offrl.report import Curve, KnownValue, Report, Scatter
from lit_offrl.report.figures import drawings
from lit_offrl.report.rendering import html, markdown
from tests.report.examples import empty_report, failing_report, passing_report

VOID = {"meta", "br"}
ATTACK = "<script>alert(1)</script>\" onload='x' | [a](javascript:x) $x^$ *b* &amp;"


class Page(HTMLParser):
    """The report as a browser would see it, insisting on tags that match."""

    def __init__(self, report: Report) -> None:
        super().__init__()
        self.source = html(report, drawings(report))
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.feed(self.source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open and "svg" not in self.open:
            self.text += data


FORMS: list[Callable[[Report], str]] = [
    lambda report: " ".join(Page(report).text.split()),
    lambda report: " ".join(markdown(report, drawings(report)).replace("`", "").split()),
]


@pytest.fixture(scope="module")
def page() -> Page:
    return Page(failing_report())


def attacked() -> Report:
    return Report(
        ATTACK,
        "use",
        ATTACK,
        ATTACK,
        findings=[
            Finding(ATTACK, "fail", ATTACK, ATTACK, 1.0, unit=ATTACK),
            Finding(ATTACK, "ok", ATTACK, ATTACK, 1.0, unit=ATTACK),
        ],
        estimates=[
            Estimate(ATTACK, "FQE", 1.0, reason=ATTACK, details={ATTACK: 1.0}),
            inapplicable(ATTACK, "FQE", ATTACK),
        ],
        behavior_value=KnownValue(1.0, None, ATTACK),
        estimand=ATTACK,
        value_label=ATTACK,
        curves=[Curve(ATTACK, ATTACK, [0], {ATTACK: [1.0]}, hlines={ATTACK: 2.0}, xlabel=ATTACK)],
        scatters=[Scatter(ATTACK, ATTACK, ATTACK, [0.0], [1.0], 1)],
        ledger={ATTACK: ATTACK},
        assumptions=[ATTACK],
        command=ATTACK,
    )


def test_the_page_needs_nothing_from_elsewhere(page: Page) -> None:
    assert not {"script", "link", "iframe", "object", "embed", "base"} & {
        tag for tag, _ in page.tags
    }
    for _, attributes in page.tags:
        for name in {"src", "href", "xlink:href", "srcset", "data"} & set(attributes):
            assert attributes[name].startswith("#")
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", page.source))
    assert "@import" not in page.source and "@font-face" not in page.source
    policy = [one["content"] for tag, one in page.tags if "http-equiv" in one]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'"]


def test_the_page_is_well_formed_and_in_english(page: Page) -> None:
    assert page.source.startswith("<!DOCTYPE html>")
    assert dict(page.tags)["html"] == {"lang": "en"}
    assert [tag for tag, _ in page.tags].count("h1") == 1
    ids = [one["id"] for _, one in page.tags if "id" in one]
    assert ids and len(ids) == len(set(ids))
    used = [one["xlink:href"][1:] for _, one in page.tags if "xlink:href" in one]
    used += re.findall(r"url\(#([^)]*)\)", page.source)
    assert used and set(used) <= set(ids)


def test_each_figure_says_what_it_shows(page: Page) -> None:
    images = [one["aria-label"] for _, one in page.tags if one.get("role") == "img"]
    expected = drawings(failing_report()).values()
    assert images == [f"{one.title}: {one.description}" for one in expected]
    assert [tag for tag, _ in page.tags].count("svg") == len(images) == 6


def test_hostile_text_stays_text_in_the_page() -> None:
    page = Page(attacked())
    assert "script" not in {tag for tag, _ in page.tags}
    assert not [name for _, one in page.tags for name in one if name.startswith("on")]
    assert page.text.count(ATTACK) >= 20
    assert "<script" not in page.source


def test_hostile_text_stays_text_in_markdown() -> None:
    text = markdown(attacked(), drawings(attacked()))
    body, command = text.split("## Make this report again")
    assert command == f"\n\n    {ATTACK}\n"
    assert "<script" not in body and re.search(r"(?<!\\)\[a\]", body) is None
    assert r"\*b\*" in body and "&amp;amp;" in body
    assert_tables_are_whole(body)


def assert_tables_are_whole(text: str) -> None:
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert rows
    columns = 0
    for row, following in zip(rows, [*rows[1:], ""], strict=True):
        cells = len(re.findall(r"(?<!\\)\|", row))
        columns = cells if following.startswith("|---") else columns
        assert cells == columns, row


def test_tables_of_markdown_are_whole() -> None:
    assert_tables_are_whole(markdown(failing_report(), {}))
    assert_tables_are_whole(markdown(empty_report(), {}))


def test_a_command_of_many_lines_cannot_leave_its_code_block() -> None:
    text = markdown(replace(empty_report(), command="a \\\n```\n# b"), {})
    assert text.endswith("\n    a \\\n    ```\n    # b\n")


@pytest.mark.parametrize("form", FORMS)
def test_the_verdict_comes_first_then_what_to_do_then_the_evidence(
    form: Callable[[Report], str],
) -> None:
    report = failing_report()
    groups = report.findings_by_verdict()
    order = [
        report.headline,
        report.why,
        "262.4",
        "219.8",
        "What to do",
        *(one.meaning for one in groups["fail"] + groups["watch"]),
        "Off-policy estimates",
        "Estimator",
        "600 of 20,480 points",
        "Other findings",
        *(one.meaning for one in groups["ok"] + groups["not applicable"]),
        *report.assumptions,
        "Ledger",
        report.command,
    ]
    text, at = form(report).lower(), 0
    assert text.index("do not use") < text.index(report.headline.lower())
    for part in order:
        at = text.index(part.replace("`", "").lower(), at)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_has_the_same_facts(form: Callable[[Report], str]) -> None:
    report, text = failing_report(), form(failing_report())
    facts = [report.title, report.estimand, report.value_label, report.command]
    facts += [part for one in report.findings for part in (one.name, one.meaning, one.advice)]
    facts += [part for one in report.estimates for part in (one.name, one.family, one.reason)]
    facts += [str(part) for item in report.ledger.items() for part in item]
    facts += [one.description for one in drawings(report).values()]
    facts += ["1,913", "-20.3 to 9,120", "2,310", "k_hat 0.94", "0.142 (0.12 to 0.164)", "225.6"]
    facts += ["95 % interval", "231 to 290.3", "224.1 to 238.8", "2,158 logged episodes", "241"]
    facts += ["dropped: the effective sample size", "not applicable: episodes have 459 > 20"]
    facts += ["not above the return of the behavior policy"]
    missing = [fact for fact in facts if fact.replace("`", "") not in text]
    assert missing == []


@pytest.mark.parametrize("form", FORMS)
def test_an_empty_report_says_that_nothing_is_known(form: Callable[[Report], str]) -> None:
    text = form(empty_report())
    assert "? NOT SHOWN" in text or "? not shown" in text
    assert "No diagnostics were run: run them before you use this policy." in text
    assert "no valid off-policy estimate" in text
    for absent in ("Off-policy estimates", "Ledger", "Curves", "Figures", "Other findings", "None"):
        assert absent not in text


@pytest.mark.parametrize("form", FORMS)
def test_a_report_without_trouble_has_nothing_to_do(form: Callable[[Report], str]) -> None:
    text = form(passing_report())
    assert "Nothing: no finding fails or needs watching." in text
    assert "above the return of the behavior policy" in text and "not above" not in text
    assert "Nothing: no finding fails" not in form(failing_report())


def test_a_bound_equal_to_the_behavior_policy_is_not_above_it() -> None:
    text = markdown(replace(passing_report(), lower_bound=201.4), {})
    assert "not above the return of the behavior policy" in text


def test_conclusions_differ_in_word_sign_and_color() -> None:
    for report, word, sign, color in (
        (passing_report(), "use", "✓", "use"),
        (failing_report(), "do not use", "✕", "do-not-use"),
        (empty_report(), "not shown", "?", "not-shown"),
    ):
        source = html(report, {})
        assert f'<div class="banner {color}">' in source
        assert f'<div class="word">{word}</div>' in source
        assert f'<span class="sign" aria-hidden="true">{sign}</span>' in source
        assert f".{color}" in source[: source.index("</style>")]


def test_what_stands_between_backticks_is_code() -> None:
    report = replace(empty_report(), why="Raise `a|<b>` and ` more.")
    assert "Raise <code>a|&lt;b&gt;</code> and ` more." in html(report, {})
    assert "Raise `a\\|<b>` and \\` more." in markdown(report, {})

"""Mutants of the labelling page: its scripts, templates and style. The tests need a browser."""

from tests.mutants import mutants

KEYS = "test_the_keys_of_the_ranking"
WHOLE = "test_a_labeler_ranks_by_keys_alone_and_by_dragging"
STAYS = "test_what_is_typed_stays"
TIME = "test_the_time_of_an_item_counts_while_the_page_is_used"
PLAIN = "test_a_page_without_javascript"
TEXTS = "test_texts_of_models_are_shown_as_texts"
BOTH = "test_two_labelers_at_once_and_one_in_two_tabs"
LOOKS = "test_every_page_fits_a_phone_and_can_be_read"
SLOW = "TimeoutError"  # what the page does not do is waited for
CONTRAST = "labelling/test_contrast.py::test_every_pair_has_its_contrast"
TESTS = "labelling/test_browser.py"

MUTANTS = (
    *mutants("labelling/static/rank.js", TESTS, [
        ("", "rank >= 1 && rank <= rows.length", "rank >= 2 && rank <= rows.length", KEYS),
        ("", ".sort((a, b) => a - b)", ".sort((a, b) => b - a)", KEYS),
        ("", "up ? [[row], rest] : [rest, [row]]", "up ? [rest, [row]] : [[row], rest]", KEYS),
        ("", "other.push(row);", "", KEYS),
        ("", "say(told(changed));", "", KEYS),
        ("", "focused?.focus();", "", KEYS),
        ("", "rankOf(row) === null) arrange", "rankOf(row) !== null) arrange", KEYS),
        ("", "top + height / 4) return", "top - height) return", WHOLE),
        ("", "top + (3 * height) / 4", "top", WHOLE),
        ("", "others.toSpliced(at, 0, [row])", "others.toSpliced(at + 1, 0, [row])", WHOLE),
        ("", "moved && dropped ?", "moved && !dropped ?", WHOLE, SLOW),
        ("", 'field.type === "radio" || !field.checked', 'field.type === "radio"', WHOLE),
        ("", "if (next) focusRow(next);", "", WHOLE, SLOW),
    ]),
    *mutants("labelling/static/label.js", TESTS, [
        ("", "field.value = token;", "", STAYS, SLOW),
        ("", 'history.replaceState(null, "", location.pathname);', "", STAYS),
        ("", "else field.value = values[0]", "else field.value = null", STAYS),
        ("", "typed && !left && keep()", "typed && keep()", STAYS),
        ("", "step(text, event.shiftKey);", "", WHOLE, SLOW),
        ("", "now - used < IDLE", "now - used < 2 * IDLE", TIME),
        ("", '!byId("paused")?.open &&', "", TIME),
    ]),
    *mutants("labelling/templates/rank.html", TESTS, [
        ("", 'name="rank-{{ output.place }}"', 'name="rank-{{ 3 - output.place }}"', PLAIN),
        ("", 'name="score-{{ output.place }}"', 'name="score-{{ 3 - output.place }}"', PLAIN),
        ("", "{%- if output.score == score %} checked{% endif %}", "", WHOLE, SLOW),
        ("", "{{ output.text[:160] }}", "{{ output.text[:160] | safe }}", TEXTS),
    ]),
    *mutants("labelling/templates/parts.html", TESTS, [
        ("", ">{{ text }}</div>", ">{{ text | safe }}</div>", TEXTS),
    ]),
    *mutants("labelling/templates/owner.html", TESTS, [
        ("", "percent(agreement.raw) }}", "percent(agreement.raw_low) }}", BOTH),
    ]),
    *mutants("labelling/static/label.css", TESTS, [
        ("", "max-height: 22rem;", "", TEXTS),
        ("", "--soft: #57606a;", "--soft: #8b949e;", CONTRAST),
        ("", "--on-bad: #ffb4a6;", "--on-bad: #a04030;", LOOKS),
        ("", "button.plain { min-height: 2.25rem; padding: .2rem",
         "button.plain { min-height: 1rem; line-height: 1; padding: 0", LOOKS),
    ]),
)  # fmt: skip

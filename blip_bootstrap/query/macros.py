"""SQL macros that every connection to a run has: intervals, and the words of a text."""

from __future__ import annotations

MOST_CHARS = 4_000

MOST_WORDS = 200
"""Audits look at so many characters and words of a text: one page's alt text can be a whole book."""

MACROS = f"""
CREATE MACRO wilson_half(hits, number) AS
    1.96 * sqrt(hits * (number - hits)::DOUBLE / number + 0.9604) / (number + 3.8416);
CREATE MACRO wilson_low(hits, number) AS CASE WHEN number > 0
    THEN if(hits = 0, 0.0, greatest(0, (hits + 1.9208) / (number + 3.8416) - wilson_half(hits, number))) END;
CREATE MACRO wilson_high(hits, number) AS CASE WHEN number > 0
    THEN if(hits = number, 1.0, least(1, (hits + 1.9208) / (number + 3.8416) + wilson_half(hits, number))) END;
CREATE MACRO beginning(text) AS text[:{MOST_CHARS}];
CREATE MACRO words(text) AS string_split(lower(trim(beginning(text))), ' ')[:{MOST_WORDS}];
"""
"""`wilson_low` and `wilson_high`: the ends of the 95 % Wilson interval of the share hits / number, 0..1. `beginning`:
the characters of a text that audits look at. `words`: the words among them, in lower case."""

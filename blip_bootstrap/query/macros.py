"""SQL macros that every connection to a run has: intervals, and the words of a text."""

from __future__ import annotations

MOST_CHARS = 4_000

MOST_WORDS = 200
"""An audit looks at so much of a text, since one page's alt text can be a whole book: time and memory stay bounded."""

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
"""95 % Wilson score interval of a share (hits of number), 0..1; the characters of a text that an audit looks at; and
the words among them, lower case, the first 200 at most."""

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
CREATE MACRO count_of(weights) AS list_sum(weights) ^ 2 / list_sum(list_transform(weights, lambda one: one * one));
CREATE MACRO less_sure(auc, good, bad) AS (auc * least(good, bad) + 1) / (least(good, bad) + 2);
CREATE MACRO auc_variance(auc, good, bad) AS (
    auc * (1 - auc) + (good - 1) * (auc / (2 - auc) - auc * auc) + (bad - 1) * (2 * auc * auc / (1 + auc) - auc * auc)
    ) / (good * bad);
CREATE MACRO auc_half(auc, good, bad) AS 1.96 * sqrt(auc_variance(less_sure(auc, good, bad), good, bad));
CREATE MACRO beginning(text) AS text[:{MOST_CHARS}];
CREATE MACRO words(text) AS string_split(lower(trim(beginning(text))), ' ')[:{MOST_WORDS}];
"""
"""`wilson_low` and `wilson_high`: the ends of the 95 % Wilson interval of the share hits / number, 0..1. `auc_half`:
half of the 95 % interval of an area under the ROC curve by Hanley and McNeil (1982), found from so many good and bad
texts; as at an area that one more of each makes less sure, so that 1.0 of ten texts is not taken for certain.
`count_of`: the number of equally weighted texts that are worth as much as texts of these weights (Kish). `beginning`:
the characters of a text that audits look at. `words`: the words among them, in lower case."""

-- What the scores can tell
-- `auc`: how often a right text scores higher than a wrong one, .5: no better than chance; with its 95 % interval. `basis`: human_captions: texts of pictures with human captions, for web one of these and a web text of another image, for synthetic what the captioner writes about them, right where it agrees with the human captions as well as these with each other; answers: an answered sample of the round, each text counted for those of its source that were kept or dropped as it was. Where the rule cuts by the score: of the texts that it keeps, the share that is right (`precision`, of web texts by human captions among as many wrong as right ones), and of the right ones the share that it keeps (`recall`), with Wilson intervals. `rule` is the score of a rule that has its own: of texts with human captions the one that it would give them among the round's. By answers the `auc` of a learned rule is the cross-validated one, since its answers would flatter it. Scores of caption.judges stand under their names.
WITH answered AS (
    SELECT *, stratum_rows / count(*) OVER (PARTITION BY round, source, kept) AS weight
    FROM labels WHERE answer IN ('yes', 'no') AND source IN ('web', 'synthetic') AND stratum_rows > 0
), of_rule AS (
    SELECT round, key, source, candidate, rule_score FROM pairs
    WHERE rule_score IS NOT NULL AND key IN (SELECT key FROM answered)
), of_judges AS (
    SELECT round, key, source, candidate, scores FROM captions
    WHERE scores IS NOT NULL AND key IN (SELECT key FROM answered)
), texts AS (
    SELECT round, source, 'human_captions' AS basis, fits, 1.0 AS weight, NULL::BOOLEAN AS kept, itm_score,
        itc_score, logprob, clip_score, logprob_per_token, lift, agreement, captioner_itc, distinctness, rule_score, scores
    FROM filter_check WHERE fits IS NOT NULL
    UNION ALL
    SELECT round, source, 'answers', answer = 'yes' AS fits, weight, kept, itm_score, itc_score, logprob, clip_score,
        logprob_per_token, lift, agreement, captioner_itc, distinctness, rule_score, scores
    FROM answered LEFT JOIN of_rule USING (round, key, source, candidate)
        LEFT JOIN of_judges USING (round, key, source, candidate)
), scored AS (
    SELECT round, source, basis, fits, weight, kept, unnest(list_concat([
        {place: 1, score: 'itm', value: itm_score}, {place: 2, score: 'itc', value: itc_score},
        {place: 3, score: 'logprob', value: logprob}, {place: 4, score: 'logprob_per_token', value: logprob_per_token},
        {place: 5, score: 'lift', value: lift}, {place: 6, score: 'agreement', value: agreement},
        {place: 7, score: 'captioner_itc', value: captioner_itc}, {place: 8, score: 'distinctness', value: distinctness},
        {place: 9, score: 'clip', value: clip_score}, {place: 10, score: 'rule', value: rule_score}
    ], list_transform(map_entries(scores), lambda one: {place: 11, score: one.key, value: one.value::FLOAT})),
        recursive := true)
    FROM texts
), decided AS (
    SELECT s.* EXCLUDE (is_own), c.score IS NOT NULL AS cuts, CASE WHEN is_own THEN c.auc END AS known_auc,
        CASE WHEN is_own THEN c.auc_low END AS known_low, CASE WHEN is_own THEN c.auc_high END AS known_high,
        CASE WHEN c.score IS NOT NULL THEN coalesce(s.kept, value >= c.cut::FLOAT) END AS passed,
        sum(if(fits, 0, weight)) OVER (PARTITION BY s.round, s.source, basis, s.score ORDER BY value) AS reached,
        sum(if(fits, 0, weight)) OVER (PARTITION BY s.round, s.source, basis, s.score, value) AS tied
    FROM (SELECT *, basis = 'answers' AS is_own FROM scored) s LEFT JOIN cuts c ON c.round = s.round AND c.source = s.source AND c.score = s.score
    WHERE isfinite(value)
), summed AS (
    SELECT round, source, place, score, cuts, basis, any_value(known_auc) AS known_auc,
        any_value(known_low) AS known_low, any_value(known_high) AS known_high, count(*) AS texts, sum(weight) FILTER (fits) AS good,
        sum(weight) FILTER (NOT fits) AS bad, count_of(list(weight) FILTER (fits)) AS num_good,
        count_of(list(weight) FILTER (NOT fits)) AS num_bad,
        sum(weight * (reached - tied / 2)) FILTER (fits) / (good * bad) AS area,
        sum(weight) FILTER (passed AND fits) AS hits, sum(weight) FILTER (passed) AS taken,
        count_of(list(weight) FILTER (passed)) AS num_taken
    FROM decided GROUP BY round, source, place, score, cuts, basis
), shares AS (
    SELECT *, coalesce(known_auc, CASE WHEN area > 1 THEN 1 ELSE area END) AS auc, auc_half(auc, num_good, num_bad) AS half,
        CASE WHEN cuts THEN coalesce(hits, 0) / taken END AS precision,
        CASE WHEN cuts THEN coalesce(hits, 0) / good END AS recall
    FROM summed
)
SELECT round, source, score, basis, cuts, texts, coalesce(good, 0) / (coalesce(good, 0) + coalesce(bad, 0)) AS right_share,
    auc, -- greatest() passes over nulls
    coalesce(known_low, CASE WHEN auc IS NOT NULL THEN greatest(0, auc - half) END) AS auc_low,
    coalesce(known_high, CASE WHEN auc IS NOT NULL THEN least(1, auc + half) END) AS auc_high,
    precision, CASE WHEN cuts THEN wilson_low(precision * num_taken, num_taken) END AS precision_low,
    CASE WHEN cuts THEN wilson_high(precision * num_taken, num_taken) END AS precision_high,
    recall, CASE WHEN cuts THEN wilson_low(recall * num_good, num_good) END AS recall_low,
    CASE WHEN cuts THEN wilson_high(recall * num_good, num_good) END AS recall_high
FROM shares ORDER BY round, source DESC, basis DESC, place, score

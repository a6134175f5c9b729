-- Cost of the synthetic texts by captioner and prompt
-- What the texts of each captioner took, by the prompt that they answer (null where its captioner has none): all of them, and for each kept one what all took together. `tokens` are those that it wrote, or of the text where nobody counted; the other units are null where no captioner counts them. `seconds` are its own, without scoring.
WITH sums AS (
    SELECT c.round, c.captioner, c.prompt, count(*) AS texts, count(*) FILTER (p.kept) AS num_kept,
        count(*) FILTER (len(c.flags) > 0) AS flagged,
        sum(coalesce(c.cost_completion_tokens, c.num_tokens))::DOUBLE AS tokens,
        sum(c.cost_prompt_tokens)::DOUBLE AS prompt_tokens, sum(c.cost_requests)::DOUBLE AS requests,
        sum(c.cost_seconds)::DOUBLE AS seconds
    FROM captions c JOIN pairs p USING (round, key, source, candidate)
    WHERE c.source = 'synthetic' GROUP BY c.round, c.captioner, c.prompt
)
SELECT * RENAME (num_kept AS kept), tokens / nullif(num_kept, 0) AS tokens_per_kept,
    prompt_tokens / nullif(num_kept, 0) AS prompt_tokens_per_kept, requests / nullif(num_kept, 0) AS requests_per_kept,
    seconds / nullif(num_kept, 0) AS seconds_per_kept
FROM sums ORDER BY round, captioner, prompt

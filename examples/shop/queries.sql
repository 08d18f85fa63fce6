SELECT substr(window_start, 1, 10) AS day, page_views, purchases, round(revenue, 2) AS revenue, errors, signups FROM day;

SELECT substr(window_start, 12, 5) AS minute, page_views, purchases, round(revenue, 2) AS revenue, errors, signups
FROM minute WHERE window_start >= '2026-01-01 00:03:00' LIMIT 4;

SELECT window_end AS at, sessions AS active_users FROM active WHERE window_end LIKE '%5:00';

SELECT alert, time(fired_at / 1000, 'unixepoch') AS fired, time(resolved_at / 1000, 'unixepoch') AS resolved,
       round(result_values ->> 'error_rate', 3) AS error_rate
FROM alerts;

SELECT date(event_time / 1000, 'unixepoch') AS day, count(*) AS raw_events FROM raw_events GROUP BY day;

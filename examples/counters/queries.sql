-- A day's 24 hourly counts of one type, also of hours without any.
SELECT to_char(hour AT TIME ZONE 'UTC', 'HH24:MI') AS hour, coalesce(events, 0) AS page_views
FROM generate_series(timestamptz '2026-01-01 00:00Z', '2026-01-01 23:00Z', '1h') AS hour
LEFT JOIN counters.hourly ON window_start = hour AND type = 'page_view'
ORDER BY 1;

SELECT period AS day, type, events, users FROM counters.daily ORDER BY day, type;

SELECT "user", events, purchases, spent FROM counters.user_daily
WHERE period = '2026-01-01' ORDER BY events DESC, "user" LIMIT 3;

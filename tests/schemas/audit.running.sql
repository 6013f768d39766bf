-- A new month and a new country, while everybody is writing.
CREATE TABLE audit.events_2031_06 PARTITION OF audit.events FOR VALUES FROM ('2031-06-01 00:00+00') TO ('2031-07-01 00:00+00');
INSERT INTO audit.events (happened_at, action, actor) VALUES ('2031-06-15 12:00+00', 'LOGIN', 'in the new partition');
CREATE TABLE transfers_jp PARTITION OF transfers FOR VALUES IN ('jp');
INSERT INTO transfers (region, from_account, to_account, amount, memo)
SELECT 'jp', min(id), max(id), 99.00, 'in the new partition' FROM accounts;
-- A row that moves from one partition to another.
UPDATE readings SET meter = 98 WHERE meter = 100 AND day = '2024-02-28';
-- A table of its own becomes a partition, with its rows; one stops being one; one goes with its rows; one is emptied.
CREATE TABLE transfers_cl (LIKE transfers INCLUDING ALL);
INSERT INTO transfers_cl (region, from_account, to_account, amount, memo)
SELECT 'cl', min(id), max(id), 12.00, 'attached' FROM accounts;
ALTER TABLE transfers ATTACH PARTITION transfers_cl FOR VALUES IN ('cl');
ALTER TABLE transfers DETACH PARTITION transfers_us;
DROP TABLE audit.events_2024_02;
TRUNCATE sessions_1 CASCADE;

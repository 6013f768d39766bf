-- SELECT * FROM electric.evaluate(condition, rows): a condition that may raise an error, row by row.
--
-- condition: an SQL query of one boolean, over $1, one row as text[][] with a first dimension of 1;
-- rows: text[][], a row each. inside: for each row whether the condition is true. failed: how many rows raised an
-- error, which is as good as false; error: what one of them said. What is not the row's fault is raised: resources, a
-- shutdown, a disk, a function that is not there.
CREATE OR REPLACE FUNCTION electric.evaluate(
    condition text, "rows" text[], OUT inside boolean[], OUT failed integer, OUT error text
)
LANGUAGE plpgsql STABLE AS $$
DECLARE
    answer boolean;
BEGIN
    failed := 0;
    FOR i IN 1 .. array_length("rows", 1) LOOP
        BEGIN
            EXECUTE condition INTO answer USING "rows"[i:i];
        EXCEPTION WHEN OTHERS THEN
            IF SQLSTATE ~ '^(53|57|58)|^(42501|42601|42703|42704|42883|42P01)$' THEN
                RAISE;
            END IF;
            answer := false;
            failed := failed + 1;
            error := SQLERRM;
        END;
        inside := array_append(inside, coalesce(answer, false));
    END LOOP;
END
$$;

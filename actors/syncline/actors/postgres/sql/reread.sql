-- What happens to tables without the stream telling of it: partitions are attached with their rows, detached, dropped or
-- truncated alone, and whoever owns a table may take its replica identity away. Then the table is "stale", and shapes that have it
-- are to be read anew. No event trigger, which only a superuser may create: it is looked for.

-- The partitions of a table that hold rows, and their files.
CREATE OR REPLACE FUNCTION electric.leaves(target oid) RETURNS TABLE (relid oid, filenode oid)
LANGUAGE sql STABLE AS $$
SELECT t.relid::oid, pg_relation_filenode(t.relid) FROM pg_partition_tree(target) AS t WHERE t.isleaf AND t.relid <> target
$$;

-- Whether a partition has rows from before it was one: by the age of what made it, or a partitioned table it is in, a part of the root.
CREATE OR REPLACE FUNCTION electric.brought_rows(leaf oid) RETURNS boolean
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    since CONSTANT integer := (
        SELECT min(age(i.xmin)) FROM pg_partition_ancestors(leaf) AS a JOIN pg_inherits i ON i.inhrelid = a.relid);
    brought boolean;
BEGIN
    EXECUTE format('SELECT EXISTS (SELECT FROM ONLY %s t WHERE age(t.xmin) >= $1)', leaf::regclass) INTO brought USING since;
    RETURN brought;
END
$$;

-- Looks at all electrified tables: new partitions get whole old rows in the stream, and what has changed besides it makes a table
-- stale. How many are.
CREATE OR REPLACE FUNCTION electric.look_for_stale() RETURNS integer
LANGUAGE plpgsql VOLATILE SET lock_timeout = '500ms' AS $$
DECLARE
    part record;
BEGIN
    FOR part IN
        SELECT c.oid::regclass AS name FROM electric.tables e JOIN pg_class c ON c.oid = e.relid WHERE c.relreplident <> 'f'
        UNION
        SELECT c.oid::regclass
        FROM electric.tables e JOIN pg_class r ON r.oid = e.relid AND r.relkind = 'p'
        CROSS JOIN electric.parts(e.relid) AS p (relid) JOIN pg_class c ON c.oid = p.relid
        WHERE c.relreplident <> 'f'
    LOOP
        BEGIN
            EXECUTE format('ALTER TABLE ONLY %s REPLICA IDENTITY FULL', part.name);
        EXCEPTION WHEN lock_not_available OR insufficient_privilege THEN
            RAISE WARNING 'changes of % are incomplete in the stream until it has REPLICA IDENTITY FULL: %', part.name, SQLERRM;
        END;
    END LOOP;

    FOR part IN
        SELECT e.relid AS root, seen.relid, seen.filenode, seen.known
        FROM electric.tables e JOIN pg_class c ON c.oid = e.relid AND c.relkind = 'p'
        CROSS JOIN LATERAL (
            SELECT coalesce(l.relid, k.relid) AS relid, l.filenode, k.filenode AS known
            FROM electric.leaves(e.relid) AS l
            FULL JOIN (SELECT * FROM electric.partitions p WHERE p.root = e.relid) AS k ON k.relid = l.relid
        ) AS seen
        WHERE seen.filenode IS DISTINCT FROM seen.known
    LOOP
        IF part.known IS NOT NULL OR electric.brought_rows(part.relid) THEN
            UPDATE electric.tables e SET stale = coalesce(e.stale, now()) WHERE e.relid = part.root;
        END IF;
        DELETE FROM electric.partitions k WHERE k.root = part.root AND k.relid = part.relid;
        IF part.filenode IS NOT NULL THEN
            INSERT INTO electric.partitions (root, relid, filenode) VALUES (part.root, part.relid, part.filenode);
        END IF;
    END LOOP;
    RETURN (SELECT count(*) FROM electric.tables e WHERE e.stale IS NOT NULL);
END
$$;
